// What an engine on a GPU needs of the other ranks: the sum of communicator.h, of values in device memory and in the
// order of a stream. Which one a group uses: NCCL where every rank has a GPU of its own (nccl_communicator.h); the host
// where CPU and GPU ranks share a group (host_staged_communicator.h); flags in device memory where the ranks are
// threads that share one GPU (local_device_communicator.h).
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace hels::cuda {

class DeviceCommunicator {
 public:
  virtual ~DeviceCommunicator() = default;
  virtual int rank() const = 0;
  virtual int ranks() const = 0;
  /// How the ranks reach each other: "nccl 2.28.3, P2P/CUMEM", "host, shared memory", "one device".
  virtual std::string transport() const = 0;

  /// Replaces `values` (`count` of them, in memory of this rank's device) by the sum over all ranks, after what
  /// `stream` holds already and before what comes later. Every rank calls with the same count, in the same order. May
  /// return before the sum is done: synchronize() tells how it ended, and until then the host must not wait for the
  /// device in another way, nor allocate or free device memory (that waits for kernels which wait for a peer).
  /// `deadline` is for this one sum. Throws like synchronize().
  virtual void allReduceSum(int64_t* values, size_t count, cudaStream_t stream, std::chrono::nanoseconds deadline) = 0;

  /// Waits until all work in `stream` is done, replayed graphs included, or until `deadline` from now. Throws
  /// kPeerLost, kDeadlineExceeded, kAborted, kShapeInvalid (ranks that sum unequally many) or kDeviceLost; after a
  /// throw of this or allReduceSum the communicator is dead and the values of unfinished sums are undefined.
  virtual void synchronize(cudaStream_t stream, std::chrono::nanoseconds deadline) = 0;

  /// From any thread: running and later calls throw kAborted soon, kernels that wait for a peer end. Idempotent.
  virtual void abort() noexcept = 0;
};

}  // namespace hels::cuda
