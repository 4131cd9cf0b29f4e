#include "base/cuda/device_list.h"

#include <cuda_runtime.h>

#include <array>
#include <cstdlib>

#include "base/cuda/check.h"
#include "base/cuda/machine_code.h"
#include "base/error.h"

#ifndef HELS_CUDA_ARCHITECTURES
#define HELS_CUDA_ARCHITECTURES "emulated"
#endif

namespace hels::cuda {
namespace {

/// 13000 -> "13.0"
std::string versionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

std::string whyNoDevice(cudaError_t error, int driverVersion, int runtimeVersion) {
  const std::string words = std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")";
  if (driverVersion == 0) return "no NVIDIA driver is installed: " + words;
  const std::string driver = versionText(driverVersion);
  if (error == cudaErrorInsufficientDriver)
    return "the NVIDIA driver knows CUDA " + driver + ", this build is for CUDA " + versionText(runtimeVersion) +
           ": install a newer driver, or build with an older CUDA toolkit";
  if (error == cudaErrorNoDevice)
    return "the NVIDIA driver (CUDA " + driver + ") sees no GPU; CUDA_VISIBLE_DEVICES may hide it";
  return "the NVIDIA driver (CUDA " + driver + ") does not work: " + words;
}

std::string whyNoCode(const DeviceFacts& device, const std::string& architectures) {
  const std::string capability = std::to_string(device.major) + std::to_string(device.minor);
  return "cuda:" + std::to_string(device.index) + " (" + device.name + ") has compute capability " +
         std::to_string(device.major) + "." + std::to_string(device.minor) + "; this build has kernels for " +
         architectures + ": build it with HELS_CUDA_ARCHITECTURES='" + capability +
         "-real' (several are separated by ';')";
}

DeviceList listDevices() {
  DeviceList list;
  list.architectures = HELS_CUDA_ARCHITECTURES;
  int driver = 0;
  int runtime = 0;
  if (cudaRuntimeGetVersion(&runtime) == cudaSuccess) list.runtime = versionText(runtime);
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) list.driver = versionText(driver);
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count == 0) error = cudaErrorNoDevice;
  for (int device = 0; error == cudaSuccess && device < count; ++device) {
    cudaDeviceProp properties{};
    error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) break;
    list.devices.push_back({.index = device,
                            .name = properties.name,
                            .major = properties.major,
                            .minor = properties.minor,
                            .multiprocessors = properties.multiProcessorCount,
                            .memoryBytes = properties.totalGlobalMem});
  }
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    list.devices.clear();
    list.reason = whyNoDevice(error, driver, runtime);
  }
  return list;
}

void useDevice(int device) {
  const DeviceList list = listDevices();
  require(list.reason.empty(), ErrorCode::kDeviceMissing, "cuda:" + std::to_string(device) + ": " + list.reason);
  require(0 <= device && device < static_cast<int>(list.devices.size()), ErrorCode::kDeviceMissing,
          "cuda:" + std::to_string(device) +
              " is not there; this machine has cuda:0 to cuda:" + std::to_string(list.devices.size() - 1));
  const DeviceFacts& facts = list.devices[static_cast<size_t>(device)];
  const std::string what = "start of cuda:" + std::to_string(device) + " (" + facts.name + ")";
  check(cudaSetDevice(device), what);
  check(cudaFree(nullptr), what);
  const cudaError_t error = machineCodeError();
  require(codeOf(error) != ErrorCode::kDeviceMissing, ErrorCode::kDeviceMissing, whyNoCode(facts, list.architectures));
  check(error, what);
}

std::string busAddress(int device) {
  useDevice(device);
#ifdef HELS_CUDA_EMULATION
  return "emulated:" + std::to_string(device);
#else
  std::array<char, 32> text{};
  check(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), device),
        "bus address of cuda:" + std::to_string(device));
  return text.data();
#endif
}

DeviceMemory measureMemory(int device) {
  useDevice(device);
  size_t freeBytes = 0;
  size_t totalBytes = 0;
  check(cudaMemGetInfo(&freeBytes, &totalBytes), "memory of cuda:" + std::to_string(device));
  return {.freeBytes = freeBytes, .totalBytes = totalBytes};
}

void prepareProcess(bool severalRanks) {
  constexpr int kKeep = 0;
  // NOLINTBEGIN(concurrency-mt-unsafe): the caller sees to it that there is one thread
  (void)::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", kKeep);
  if (severalRanks) (void)::setenv("CUDA_MODULE_LOADING", "EAGER", kKeep);
  // NOLINTEND(concurrency-mt-unsafe)
}

}  // namespace hels::cuda
