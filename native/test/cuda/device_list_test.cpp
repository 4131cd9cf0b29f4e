#include "base/cuda/device_list.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "base/cuda/check.h"
#include "base/error.h"

namespace hels::cuda {
namespace {

TEST(DeviceList, SaysWhyThereIsNone) {
  EXPECT_EQ(whyNoDevice(cudaErrorInsufficientDriver, 0, 13000).find("no NVIDIA driver is installed: "), 0U);
  EXPECT_EQ(whyNoDevice(cudaErrorInsufficientDriver, 12020, 13000),
            "the NVIDIA driver knows CUDA 12.2, this build is for CUDA 13.0: install a newer driver, or build with an "
            "older CUDA toolkit");
  EXPECT_EQ(whyNoDevice(cudaErrorNoDevice, 13000, 13000),
            "the NVIDIA driver (CUDA 13.0) sees no GPU; CUDA_VISIBLE_DEVICES may hide it");
  EXPECT_EQ(whyNoDevice(cudaErrorUnknown, 13000, 13000).find("the NVIDIA driver (CUDA 13.0) does not work: "), 0U);
}

TEST(DeviceList, HasDevicesOrAReason) {
  const DeviceList list = listDevices();
  EXPECT_EQ(list.devices.empty(), !list.reason.empty());
  EXPECT_FALSE(list.architectures.empty());
  for (const DeviceFacts& device : list.devices) {
    EXPECT_FALSE(device.name.empty());
    EXPECT_GT(device.multiprocessors, 0);
    const DeviceMemory memory = measureMemory(device.index);
    EXPECT_GT(memory.freeBytes, 0U);
    EXPECT_LE(memory.freeBytes, memory.totalBytes);
  }
}

TEST(DeviceList, ADeviceThatIsNotThereIsRefusedInWords) {
  for (const int device : {-1, 1000}) {
    try {
      useDevice(device);
      FAIL() << device;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDeviceMissing);
      EXPECT_EQ(std::string(error.what()).find("cuda:" + std::to_string(device)), 0U) << error.what();
    }
  }
}

TEST(DeviceList, NamesTheArchitecturesOfABuildWithoutCodeForTheDevice) {
  EXPECT_EQ(whyNoCode({.index = 1, .name = "RTX 3090", .major = 8, .minor = 6}, "90-real 90-virtual"),
            "cuda:1 (RTX 3090) has compute capability 8.6; this build has kernels for 90-real 90-virtual: build it "
            "with HELS_CUDA_ARCHITECTURES='86-real' (several are separated by ';')");
#ifdef HELS_CUDA_EMULATION
  emulation::setMachineCode(false);
  try {
    useDevice(0);
    ADD_FAILURE() << "taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDeviceMissing);
    EXPECT_NE(std::string(error.what()).find("this build has kernels for emulated"), std::string::npos) << error.what();
  }
  emulation::setMachineCode(true);
  EXPECT_NO_THROW(useDevice(0));
#endif
}

TEST(CudaCheck, OnlyWhatStaysLosesTheDevice) {
  const auto codes = [](std::initializer_list<int> errors, ErrorCode code) {
    for (const int error : errors) EXPECT_EQ(codeOf(static_cast<cudaError_t>(error)), code) << error;
  };
  codes({2}, ErrorCode::kMemoryExceeded);
  codes({98, 209, 218, 222}, ErrorCode::kDeviceMissing);
  codes({1, 9, 101, 600, 701, 900, 904, 907}, ErrorCode::kInternal);
  codes({214, 700, 702, 710, 716, 719, 999}, ErrorCode::kDeviceLost);
}

}  // namespace
}  // namespace hels::cuda
