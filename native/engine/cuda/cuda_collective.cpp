#include "engine/cuda/cuda_collective.h"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "base/cuda/check.h"
#include "base/error.h"

namespace hels::cuda {
namespace {

/// Spins before the first pause: most steps end within that time.
constexpr int kSpins = 20000;
constexpr std::chrono::microseconds kPause{20};

/// The least time that a step without peers may take: a slow device is no lost one.
constexpr std::chrono::seconds kAloneMin{30};

/// Waits for a stream that no peer can hold up.
void waitFor(cudaStream_t stream, std::chrono::nanoseconds deadline) {
  const auto deadlineAt = std::chrono::steady_clock::now() + deadline;
  for (int i = 0;; ++i) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state == cudaSuccess) return;
    if (state != cudaErrorNotReady) check(state, "step on the device");
    if (i < kSpins) continue;
    require(std::chrono::steady_clock::now() < deadlineAt, ErrorCode::kDeadlineExceeded,
            "the device did not finish its step within " +
                std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(deadline).count()) + " ms");
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

CudaCollective::~CudaCollective() {
  for (cudaEvent_t event : events_) (void)cudaEventDestroy(event);
}

void CudaCollective::connect(std::shared_ptr<DeviceCommunicator> communicator) {
  require(communicator != nullptr && communicator->rank() == rank_ && communicator->ranks() == ranks_,
          ErrorCode::kShapeInvalid,
          "the communicator is not that of rank " + std::to_string(rank_) + " of " + std::to_string(ranks_));
  const std::lock_guard lock(mutex_);
  communicator_ = std::move(communicator);
}

void CudaCollective::requireConnected() const {
  require(ranks_ == 1 || communicator_ != nullptr, ErrorCode::kShapeInvalid,
          "a shard of " + std::to_string(ranks_) + " ranks needs connect() before step()");
}

void CudaCollective::beginStep(std::chrono::nanoseconds deadline) {
  deadline_ = deadline;
  eventsUsed_ = 0;
}

cudaEvent_t CudaCollective::nextEvent() {
  if (eventsUsed_ == events_.size()) {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDefault), "event");
    events_.push_back(event);
  }
  return events_[eventsUsed_++];
}

void CudaCollective::sum(int64_t* values, int64_t count, cudaStream_t stream) {
  if (ranks_ == 1) return;
  check(cudaEventRecord(nextEvent(), stream), "event");
  communicator_->allReduceSum(values, static_cast<size_t>(count), stream, deadline_);
  check(cudaEventRecord(nextEvent(), stream), "event");
  ++count_;
  bytes_ += static_cast<uint64_t>(count) * sizeof(int64_t);
}

void CudaCollective::synchronize(cudaStream_t stream) {
  if (ranks_ == 1) {
    waitFor(stream, std::max<std::chrono::nanoseconds>(deadline_, kAloneMin));
  } else {
    communicator_->synchronize(stream, deadline_);
  }
}

double CudaCollective::seconds() const {
  double seconds = 0;
  for (size_t i = 0; i + 1 < eventsUsed_; i += 2) {
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]), "time of a collective");
    seconds += 1e-3 * static_cast<double>(milliseconds);
  }
  return seconds;
}

void CudaCollective::abort() noexcept {
  const std::lock_guard lock(mutex_);
  if (communicator_) communicator_->abort();
}

void HostSums::allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds /*deadline*/) {
  require(static_cast<int64_t>(values.size()) <= capacity_, ErrorCode::kInternal,
          "a sum of " + std::to_string(values.size()) + " values, in a buffer of " + std::to_string(capacity_));
  check(cudaMemcpyAsync(buffer_, values.data(), values.size_bytes(), cudaMemcpyHostToDevice, stream_), "values to sum");
  collective_.sum(buffer_, static_cast<int64_t>(values.size()), stream_);
  collective_.synchronize(stream_);  // before the copy, which would wait without a deadline
  check(cudaMemcpyAsync(values.data(), buffer_, values.size_bytes(), cudaMemcpyDeviceToHost, stream_), "sums");
  collective_.synchronize(stream_);
}

void HostSums::exchange(std::span<const ExchangePart> /*parts*/, std::chrono::nanoseconds /*deadline*/) {
  throw Error(ErrorCode::kShapeInvalid, "ranks on GPUs sum by way of the device; they exchange no bytes so");
}

}  // namespace hels::cuda
