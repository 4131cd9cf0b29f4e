// What the kernels' launches ask about the current device.
#include "kernels/cuda/device.h"

namespace hels::cuda {

size_t sharedBytesMax() {
  thread_local int knownDevice = -1;
  thread_local int bytes = 0;
  int device = 0;
  check(cudaGetDevice(&device), "current device");
#ifdef HELS_CUDA_EMULATION
  knownDevice = -1;  // tests change it
#endif
  if (device != knownDevice) {
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory of a device");
    knownDevice = device;
  }
  return static_cast<size_t>(bytes);
}

}  // namespace hels::cuda
