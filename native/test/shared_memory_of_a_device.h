// Emulates a device with less shared memory.
#pragma once

#include <cuda_runtime.h>

#ifdef HELS_CUDA_EMULATION
namespace hels::test {

/// While it lives, a block can have so many bytes.
class SharedMemoryOfADevice {
 public:
  explicit SharedMemoryOfADevice(size_t bytes) { emulation::setSharedBytesMax(bytes); }
  ~SharedMemoryOfADevice() { emulation::setSharedBytesMax(emulation::kSharedBytesMax); }
  SharedMemoryOfADevice(const SharedMemoryOfADevice&) = delete;
  SharedMemoryOfADevice& operator=(const SharedMemoryOfADevice&) = delete;
};

}  // namespace hels::test
#endif
