// The fixed point of partials against llrint() in f64. Under emulation only: the header is a kernel's.
#ifdef HELS_CUDA_EMULATION
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "kernels/cuda/gemm_fixed_point.h"

namespace hels::cuda {
namespace {

int64_t reference(float value) { return std::llrint(static_cast<double>(value) * 0x1p32); }

bool fits(float value) { return !isOutside(outsideBits(fixedPointParts(value))); }

/// Where the parts claim to be right, they are; true if they do.
bool expectExact(float value) {
  const FixedPointParts parts = fixedPointParts(value);
  if (isOutside(outsideBits(parts))) return false;
  EXPECT_EQ(joinParts(parts.high, parts.low, 1), reference(value)) << std::hexfloat << value;
  EXPECT_LE(std::abs(static_cast<int32_t>(parts.low - kRounderBits)), 1 << (kLowBits - 1)) << std::hexfloat << value;
  EXPECT_LE(std::abs(static_cast<int32_t>(parts.high - kRounderBits)), 1 << kLowBits) << std::hexfloat << value;
  return true;
}

TEST(CudaFixedPoint, EqualsTheRoundedValueAtEveryExponent) {
  std::mt19937 random(1);
  for (unsigned exponent = 0; exponent < 256; ++exponent) {
    for (int i = 0; i < 20000; ++i) {
      // Random bits, and such with few bits set: ties of both parts are among them.
      uint32_t fraction = random() & 0x7FFFFFU;
      if (i % 2 == 0) fraction &= ~((1U << (random() % 24)) - 1);
      const float value = std::bit_cast<float>((random() & 0x80000000U) | exponent << 23 | fraction);
      if (expectExact(value)) {
        ASSERT_LE(std::abs(value), 4096.0F);
      } else {
        ASSERT_FALSE(std::abs(value) < 4095.9F) << std::hexfloat << value;
      }
    }
  }
}

TEST(CudaFixedPoint, TiesGoToEven) {
  for (int64_t count = -4000; count < 4000; ++count) {
    for (const double unit : {0x1p-33, 0x1p-11, 0x1p-11 + 0x1p-33}) {
      EXPECT_TRUE(expectExact(static_cast<float>(static_cast<double>(count) * unit)));
    }
  }
}

TEST(CudaFixedPoint, WhatDoesNotFitSaysSo) {
  EXPECT_TRUE(fits(4095.5F));
  EXPECT_TRUE(fits(-4095.5F));
  EXPECT_TRUE(fits(-0.0F));
  for (const float value : {4097.0F, -4097.0F, 8192.0F, 1e9F, -3e38F, INFINITY, -INFINITY, NAN}) {
    EXPECT_FALSE(fits(value)) << value;
  }
}

TEST(CudaFixedPoint, SumsOfPartsDoNotWrap) {
  for (const float value : {4095.875F + 0x1p-11F, -4095.875F, 2.0F - 0x1p-22F}) {
    ASSERT_TRUE(fits(value));
    uint32_t high = 0;
    uint32_t low = 0;
    for (int i = 0; i < kPartsMax; ++i) {
      const FixedPointParts parts = fixedPointParts(value);
      high += parts.high;
      low += parts.low;
    }
    EXPECT_EQ(joinParts(high, low, kPartsMax), kPartsMax * reference(value)) << value;
  }
}

}  // namespace
}  // namespace hels::cuda
#endif
