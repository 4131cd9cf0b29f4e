// The engine's side of a collective on a GPU: what lies around DeviceCommunicator in every use, and the time it takes.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/device_communicator.h"

namespace hels::cuda {

class CudaCollective {
 public:
  CudaCollective(int rank, int ranks) : rank_(rank), ranks_(ranks) {}
  ~CudaCollective();
  CudaCollective(const CudaCollective&) = delete;
  CudaCollective& operator=(const CudaCollective&) = delete;

  /// Throws kShapeInvalid when its rank or number of ranks is not the shard's.
  void connect(std::shared_ptr<DeviceCommunicator> communicator);
  /// Throws kShapeInvalid when ranks > 1 and connect() was not called.
  void requireConnected() const;
  /// Of all collectives and waits from now on; starts the measurement of a step.
  void beginStep(std::chrono::nanoseconds deadline);

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

  /// Sum over all ranks of `values` in device memory, in the order of `stream`; with one rank nothing happens.
  void sum(int64_t* values, int64_t count, cudaStream_t stream);
  /// Waits for the stream. Throws what the collectives threw, kDeadlineExceeded and kDeviceLost.
  void synchronize(cudaStream_t stream);
  /// Seconds of the step's collectives, waiting for peers included; after synchronize().
  double seconds() const;
  /// From any thread.
  void abort() noexcept;

  uint64_t count() const { return count_; }
  uint64_t bytes() const { return bytes_; }

 private:
  cudaEvent_t nextEvent();

  const int rank_;
  const int ranks_;
  mutable std::mutex mutex_;  // guards communicator_ against abort() from another thread
  std::shared_ptr<DeviceCommunicator> communicator_;
  std::chrono::nanoseconds deadline_{0};
  std::vector<cudaEvent_t> events_;  // before and after each sum, kept from step to step
  size_t eventsUsed_ = 0;
  uint64_t count_ = 0;
  uint64_t bytes_ = 0;
};

/// Sums of values in host memory over the same ranks, by way of the device: for what the host samples.
class HostSums final : public Communicator {
 public:
  /// `buffer`(capacity) in device memory.
  HostSums(CudaCollective& collective, int64_t* buffer, int64_t capacity, cudaStream_t stream)
      : collective_(collective), buffer_(buffer), capacity_(capacity), stream_(stream) {}

  int rank() const override { return collective_.rank(); }
  int ranks() const override { return collective_.ranks(); }
  const char* transport() const override { return "device"; }
  /// The deadline is the collective's.
  void allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds deadline) override;
  /// Throws kShapeInvalid: what the host samples needs sums alone.
  void exchange(std::span<const ExchangePart> parts, std::chrono::nanoseconds deadline) override;
  void abort() noexcept override { collective_.abort(); }

 private:
  CudaCollective& collective_;
  int64_t* buffer_;
  const int64_t capacity_;
  cudaStream_t stream_;
};

}  // namespace hels::cuda
