#include "base/cuda/shared_memory.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <thread>

namespace hels::cuda {
namespace {

#ifdef HELS_CUDA_EMULATION
TEST(SharedMemory, WhatWasAllowedStays) {
  static const int kernel = 0;
  allowSharedMemory(&kernel, 100'000);
  allowSharedMemory(&kernel, 60'000);
  EXPECT_EQ(emulation::sharedBytesOf(&kernel), 100'000);
  allowSharedMemory(&kernel, 120'000);
  EXPECT_EQ(emulation::sharedBytesOf(&kernel), 120'000);
}

TEST(SharedMemory, RanksOfOneProcessAllowTheLargest) {
  static const int kernel = 0;
  const auto rank = [](size_t bytes) {
    for (int i = 0; i < 200; ++i) {
      allowSharedMemory(&kernel, bytes);
      EXPECT_GE(emulation::sharedBytesOf(&kernel), static_cast<int>(bytes));
    }
  };
  std::thread other(rank, 70'000);
  rank(90'000);
  other.join();
  EXPECT_EQ(emulation::sharedBytesOf(&kernel), 90'000);
}
#endif

}  // namespace
}  // namespace hels::cuda
