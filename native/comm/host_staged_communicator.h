// Sums of device memory over ranks that meet on the host: for groups of CPU and GPU ranks, and where GPUs cannot reach
// each other.
#pragma once

#include <memory>
#include <utility>

#include "base/cuda/buffer.h"
#include "comm/communicator.h"
#include "comm/device_communicator.h"

namespace hels::cuda {

class HostStagedCommunicator final : public DeviceCommunicator {
 public:
  explicit HostStagedCommunicator(std::shared_ptr<Communicator> communicator)
      : communicator_(std::move(communicator)) {}

  int rank() const override { return communicator_->rank(); }
  int ranks() const override { return communicator_->ranks(); }
  std::string transport() const override { return std::string("host, ") + communicator_->transport(); }
  bool capturable() const override { return false; }
  void allReduceSum(int64_t* values, size_t count, cudaStream_t stream, std::chrono::nanoseconds deadline) override;
  void synchronize(cudaStream_t stream, std::chrono::nanoseconds deadline) override;
  void abort() noexcept override { communicator_->abort(); }

 private:
  std::shared_ptr<Communicator> communicator_;
  PinnedBuffer buffer_;
};

}  // namespace hels::cuda
