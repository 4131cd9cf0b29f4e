// A part of a GPU: streams whose kernels run on some of its multiprocessors only (green contexts), so that ranks can
// share one GPU, also as if they were unequal ones. Memory and its bandwidth are not divided.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <string>
#include <vector>

#include "base/cuda/dynamic_library.h"

namespace hels::cuda {

class PartitionPool;

/// Its streams and contexts end with it; nothing may run in them then.
class DevicePartition {
 public:
  virtual ~DevicePartition() = default;
  virtual int device() const = 0;
  /// What it has: at least what was asked for, rounded up to the device's units (8 on Hopper).
  virtual int multiprocessors() const = 0;
  virtual int deviceMultiprocessors() const = 0;
  /// A new stream of the partition, usable wherever a stream of the device is. A graph keeps its kernels in the
  /// partition of the stream that it was captured in.
  virtual cudaStream_t addStream() = 0;
  /// "32 of 132 multiprocessors"
  std::string describe() const;
};

/// The multiprocessors of one device, given away in disjoint parts among the partitions of one process. Processes do
/// not know of each other's: theirs overlap, and take turns as processes on one GPU do.
class PartitionPool {
 public:
  /// The pool of this process for `device`. Throws kDeviceMissing: no such device, or no driver for partitions, saying
  /// which driver it takes.
  static std::shared_ptr<PartitionPool> of(int device);
  /// A pool of its own (tests): the driver is found by `search`, under the name libcuda.so.1.
  static std::shared_ptr<PartitionPool> create(int device, const LibrarySearch& search);
  virtual ~PartitionPool() = default;

  /// At least `multiprocessors` that no other partition of the pool has. Throws kShapeInvalid when the device never has
  /// so many, kMemoryExceeded when others have them now, kDeviceMissing or kDeviceLost when the driver refuses.
  virtual std::unique_ptr<DevicePartition> take(int multiprocessors) = 0;
  /// The smallest part that can be given.
  virtual int unit() const = 0;
};

}  // namespace hels::cuda
