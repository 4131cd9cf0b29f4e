// Element types of weights and KV, and their conversions: exact when widening, round to nearest even when narrowing.
// Integer arithmetic and selects only, so the bits are those of every compiler and processor, and loops over them
// vectorize.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

namespace hels {

enum class DataType : uint8_t { kF32, kBf16, kF16 };

inline size_t bytesOf(DataType type) { return type == DataType::kF32 ? 4 : 2; }
/// "f32", "bf16", "f16": the words of config files, plans and JSON.
const char* dataTypeName(DataType type);
/// Parses the same words; throws kShapeInvalid otherwise.
DataType dataTypeFromName(const std::string& name);

inline float bf16ToF32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

/// NaN stays NaN and becomes quiet.
inline uint16_t f32ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t roundedUp = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  const bool nan = (bits & 0x7FFF'FFFFU) > 0x7F80'0000U;
  return static_cast<uint16_t>(nan ? (bits >> 16) | 0x40U : roundedUp);
}

inline float f16ToF32(uint16_t bits) {
  constexpr uint32_t kRebias = (127U - 15U) << 23;
  const uint32_t sign = (bits & 0x8000U) << 16;
  const uint32_t magnitude = (bits & 0x7FFFU) << 13;
  const uint32_t exponent = magnitude & (0x7C00U << 13);
  // A subnormal is its mantissa times 2^-24: put that mantissa under the exponent of 2^-14 and subtract 2^-14.
  constexpr float kSmallestNormal = 0x1p-14F;
  const float subnormal = std::bit_cast<float>(magnitude + std::bit_cast<uint32_t>(kSmallestNormal)) - kSmallestNormal;
  const uint32_t infinityOrNan = exponent == (0x7C00U << 13) ? kRebias : 0U;
  const uint32_t normal = magnitude + kRebias + infinityOrNan;
  return std::bit_cast<float>(sign | (exponent == 0 ? std::bit_cast<uint32_t>(subnormal) : normal));
}

/// 65520 and more becomes infinity; NaN stays NaN and becomes quiet.
inline uint16_t f32ToF16(float value) {
  constexpr uint32_t kOverflow = 0x477F'F000U;        // 65520: halfway from the largest f16 to what would be the next
  constexpr uint32_t kSmallestNormal = 0x3880'0000U;  // 2^-14
  constexpr uint32_t kRebias = (127U - 15U) << 23;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFF'FFFFU;
  if (magnitude > 0x7F80'0000U) return static_cast<uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x3FFU));
  if (magnitude >= kOverflow) return static_cast<uint16_t>(sign | 0x7C00U);
  if (magnitude < kSmallestNormal) {
    // The unit of f16's subnormals, 2^-24, is the distance of neighbouring floats in [0.5, 1): adding 0.5 rounds to it.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5F)));
  }
  const uint32_t rounded = magnitude - kRebias + 0xFFFU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

}  // namespace hels
