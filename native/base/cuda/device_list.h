// Which GPUs this machine has for Hels, and in words why there are none.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace hels::cuda {

struct DeviceFacts {
  int index = 0;
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  uint64_t memoryBytes = 0;
};

struct DeviceList {
  std::vector<DeviceFacts> devices;
  std::string reason;         // why there are none; empty when there is one
  std::string driver;         // the newest CUDA that the driver knows, "13.0"; empty without one
  std::string runtime;        // the CUDA of this build, "13.0"
  std::string architectures;  // what kernels are compiled for, "80-real 90-real 90-virtual"
};

/// Never throws, never starts a device: a machine without driver or GPU has an empty list.
DeviceList listDevices();

/// Where `device` is in its host, "0000:17:00.0": no other has that address. Throws kDeviceMissing, kDeviceLost.
std::string busAddress(int device);

struct DeviceMemory {
  uint64_t freeBytes = 0;  // of everybody: other processes' memory is gone from it
  uint64_t totalBytes = 0;
};

/// Makes `device` current for the calling thread and starts it, which takes some memory. Throws kDeviceMissing naming
/// the devices there are, or the architectures of the build where it has no code for this one, and kDeviceLost.
void useDevice(int device);

/// After useDevice(device), which it calls. Throws the same.
DeviceMemory measureMemory(int device);

/// The reason of a list, of what cudaGetDeviceCount says. Versions as CUDA counts them: 13000 is 13.0, 0 is none. Pure.
std::string whyNoDevice(cudaError_t error, int driverVersion, int runtimeVersion);

/// The reason of a device that runs none of the build's kernels. Pure.
std::string whyNoCode(const DeviceFacts& device, const std::string& architectures);

/// For the process' environment, before the first CUDA call of any thread and while there is one thread; what the user
/// has set stays. Gives every stream a hardware queue of its own. `severalRanks`: ranks of this process share a GPU,
/// and their kernels wait for one another: then all code is loaded at the start, because loading it later may wait for
/// the device, that is for a kernel which waits. It costs start-up time and device memory.
void prepareProcess(bool severalRanks);

}  // namespace hels::cuda
