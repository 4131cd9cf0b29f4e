#include "comm/cuda/host_staged_communicator.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "base/error.h"
#include "comm/cuda/stream_wait.h"

namespace hels::cuda {
namespace {

using Clock = std::chrono::steady_clock;

class HostStagedCommunicator final : public DeviceCommunicator {
 public:
  HostStagedCommunicator(std::shared_ptr<Communicator> communicator, size_t valuesMax)
      : communicator_(std::move(communicator)) {
    reserve(valuesMax);
  }

  int rank() const override { return communicator_->rank(); }
  int ranks() const override { return communicator_->ranks(); }
  std::string transport() const override { return std::string("host, ") + communicator_->transport(); }

  void allReduceSum(int64_t* values, size_t count, cudaStream_t stream, std::chrono::nanoseconds deadline) override {
    requireAlive();
    if (ranks() == 1) return;
    const Clock::time_point deadlineAt = Clock::now() + deadline;
    reserve(count);
    const size_t bytes = count * sizeof(int64_t);
    check(cudaMemcpyAsync(staging_.data(), values, bytes, cudaMemcpyDeviceToHost, stream), "copy of a sum to the host");
    wait(stream, deadlineAt, deadline);
    communicator_->allReduceSum({staging_.as<int64_t>(), count},
                                std::max<std::chrono::nanoseconds>(deadlineAt - Clock::now(), kLeast));
    // The next sum's copy comes after this one in the stream: the staging is free by then.
    check(cudaMemcpyAsync(values, staging_.data(), bytes, cudaMemcpyHostToDevice, stream),
          "copy of a sum from the host");
    lastStream_ = stream;
  }

  void synchronize(cudaStream_t stream, std::chrono::nanoseconds deadline) override {
    requireAlive();
    wait(stream, Clock::now() + deadline, deadline);
  }

  void abort() noexcept override {
    aborted_.store(true);
    communicator_->abort();
  }

 private:
  static constexpr std::chrono::nanoseconds kLeast = std::chrono::microseconds(1);

  void reserve(size_t count) {
    const size_t bytes = std::max<size_t>(count, 1) * sizeof(int64_t);
    if (bytes <= staging_.sizeBytes()) return;
    // A copy out of the old one may still run.
    if (staging_.sizeBytes() > 0) check(cudaStreamSynchronize(lastStream_), "end of a sum's copy");
    staging_ = PinnedBuffer(bytes, "sums with other ranks");
  }

  void requireAlive() const { require(!aborted_, ErrorCode::kAborted, "the collective was aborted"); }

  /// What the stream waits for is this device's own work: it ends whatever the peers do.
  void wait(cudaStream_t stream, Clock::time_point deadlineAt, std::chrono::nanoseconds deadline) {
    if (waitForStream(stream, deadlineAt, [this] { requireAlive(); })) return;
    abort();  // the peers must not wait for this rank any longer
    throw Error(ErrorCode::kDeadlineExceeded,
                "rank " + std::to_string(rank()) + ": the device did not end its work within " +
                    std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(deadline).count()) + " ms");
  }

  const std::shared_ptr<Communicator> communicator_;
  PinnedBuffer staging_;
  cudaStream_t lastStream_ = nullptr;  // of the last copy out of staging_
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::shared_ptr<DeviceCommunicator> stageThroughHost(std::shared_ptr<Communicator> communicator, size_t valuesMax) {
  return std::make_shared<HostStagedCommunicator>(std::move(communicator), valuesMax);
}

}  // namespace hels::cuda
