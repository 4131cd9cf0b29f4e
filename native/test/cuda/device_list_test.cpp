#include "base/cuda/device_list.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace hels::cuda
