// The ranks of one process that share one GPU, each with a stream (or partition) of its own: sums stay on the device.
//
// A rank's kernel waits for its peers' kernels. So, until synchronize() has come back, nobody may make the device wait
// for itself: no allocation or free of device memory, no cudaDeviceSynchronize, no first launch of a kernel (its code
// is loaded then; base/cuda/device_list.h, prepareProcess), no work in the legacy default stream. What goes wrong there
// ends with the deadline. Graphs: capture with cudaStreamCaptureModeThreadLocal or relaxed, since other ranks' threads
// go on.
#pragma once

#include <memory>

#include "comm/device_communicator.h"

namespace hels::cuda {

class LocalDeviceGroup {
 public:
  /// A group on the current device. Throws kShapeInvalid unless 1 <= ranks <= 8, kMemoryExceeded.
  static std::shared_ptr<LocalDeviceGroup> create(int ranks);
  virtual ~LocalDeviceGroup() = default;

  virtual int ranks() const = 0;
  /// The communicator of `rank`; the same object on every call. It may outlive the group. Throws kShapeInvalid for a
  /// rank out of range.
  virtual std::shared_ptr<DeviceCommunicator> communicator(int rank) const = 0;
};

}  // namespace hels::cuda
