// Fixed point of partial sums: llrint(partial * 2^32), ties to even. Conversions between 64-bit types run at an eighth
// of the speed of f32 instructions, so nearly all partials take four f32 operations instead, which are exact.
#pragma once

#include "kernels/cuda/device.h"

namespace hels::cuda {

/// 1.5 * 2^23: adding it rounds what is below 2^22 to a whole number, which then lies in the low bits.
inline constexpr float kRounder = 12582912.0F;
inline constexpr uint32_t kRounderBits = 0x4B400000U;
/// High parts count 2^-10, low parts 2^-32.
inline constexpr int kLowBits = 22;

/// value = (high - kRounderBits) * 2^22 + (low - kRounderBits), both as int32; |low part| <= 2^21, |high part| < 2^22,
/// so that sums of up to 511 of each fit. Only where insideFixedPoint(parts): |value| < 4096, about.
struct FixedPointParts {
  uint32_t high;
  uint32_t low;
};

__device__ __forceinline__ FixedPointParts fixedPointParts(float value) {
  const float high = fmaf(value, 1024.0F, kRounder);
  const float rest = fmaf(high - kRounder, -0x1p-10F, value);  // exact: both are multiples of the value's last bit
  return {__float_as_uint(high), __float_as_uint(fmaf(rest, 0x1p32F, kRounder))};
}

/// Bits above bit 22 are set where the parts are not those of the value. May be or-ed over many.
__device__ __forceinline__ uint32_t outsideBits(const FixedPointParts& parts) { return parts.high ^ kRounderBits; }
__device__ __forceinline__ bool isOutside(uint32_t bits) { return bits >> 23 != 0; }

/// The sum of `count` values from the sums of their parts, modulo 2^32 each.
__device__ __forceinline__ int64_t joinParts(uint32_t high, uint32_t low, uint32_t count) {
  const auto highSum = static_cast<int32_t>(high - kRounderBits * count);
  const auto lowSum = static_cast<int32_t>(low - kRounderBits * count);
  return static_cast<int64_t>(highSum) * (1 << kLowBits) + lowSum;
}

/// Granules up to which sums of parts do not wrap.
inline constexpr int kPartsMax = 511;

}  // namespace hels::cuda
