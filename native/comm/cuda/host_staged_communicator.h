// Sums of device memory through the host: copied to page-locked memory, summed there by any communicator, copied back.
// Slower than what stays on devices, but CPU and GPU ranks can share a group, and so can GPUs that NCCL cannot join.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/device_communicator.h"

namespace hels::cuda {

/// `valuesMax`: the most values that one sum is expected to have; more is possible but costs an allocation, which waits
/// for the device. One thread calls it, except for abort(). Throws kMemoryExceeded.
std::shared_ptr<DeviceCommunicator> stageThroughHost(std::shared_ptr<Communicator> communicator, size_t valuesMax);

}  // namespace hels::cuda
