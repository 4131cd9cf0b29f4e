#include "comm/host_staged_communicator.h"

#include <algorithm>
#include <span>
#include <thread>

#include "base/cuda/check.h"

namespace hels::cuda {

void HostStagedCommunicator::allReduceSum(int64_t* values, size_t count, cudaStream_t stream,
                                          std::chrono::nanoseconds deadline) {
  const size_t bytes = count * sizeof(int64_t);
  if (buffer_.sizeBytes() < bytes)
    buffer_ = PinnedBuffer(std::max(bytes, 2 * buffer_.sizeBytes()), "sums of the ranks");
  check(cudaMemcpyAsync(buffer_.data(), values, bytes, cudaMemcpyDeviceToHost, stream), "values to sum");
  synchronize(stream, deadline);
  communicator_->allReduceSum(std::span(buffer_.as<int64_t>(), count), deadline);
  check(cudaMemcpyAsync(values, buffer_.data(), bytes, cudaMemcpyHostToDevice, stream), "sums");
}

void HostStagedCommunicator::synchronize(cudaStream_t stream, std::chrono::nanoseconds deadline) {
  const auto deadlineAt = std::chrono::steady_clock::now() + deadline;
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state == cudaSuccess) return;
    if (state != cudaErrorNotReady) check(state, "work of the device");
    require(std::chrono::steady_clock::now() < deadlineAt, ErrorCode::kDeadlineExceeded,
            "the device did not finish in time");
    std::this_thread::yield();
  }
}

}  // namespace hels::cuda
