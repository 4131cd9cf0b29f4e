#include "base/data_type.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"

namespace hels {
namespace {

/// The value of a binary floating-point word by the definition of its format (IEEE 754-2019, 3.4), in double, where it
/// is exact.
double valueOf(uint32_t bits, int exponentBits, int mantissaBits) {
  const int bias = (1 << (exponentBits - 1)) - 1;
  const double sign = (bits >> (exponentBits + mantissaBits)) != 0 ? -1 : 1;
  const auto exponent = static_cast<int>((bits >> mantissaBits) & ((1U << exponentBits) - 1));
  const auto mantissa = static_cast<double>(bits & ((1U << mantissaBits) - 1));
  if (exponent == (1 << exponentBits) - 1) return mantissa == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissaBits);
  return sign * std::ldexp(mantissa + std::ldexp(1.0, mantissaBits), exponent - bias - mantissaBits);
}

template <typename Widen, typename Narrow>
void checkAllWords(int exponentBits, int mantissaBits, const Widen& widen, const Narrow& narrow) {
  for (uint32_t word = 0; word <= 0xFFFF; ++word) {
    const auto bits = static_cast<uint16_t>(word);
    const double expected = valueOf(bits, exponentBits, mantissaBits);
    const float wide = widen(bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << word;
      ASSERT_TRUE(std::isnan(widen(narrow(wide)))) << word;
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), expected) << word;
    ASSERT_EQ(std::signbit(wide), std::signbit(expected)) << word;
    ASSERT_EQ(narrow(wide), bits) << word;
  }
}

TEST(DataType, EveryBf16IsExact) { checkAllWords(8, 7, bf16ToF32, f32ToBf16); }
TEST(DataType, EveryF16IsExact) { checkAllWords(5, 10, f16ToF32, f32ToF16); }

/// Narrowing gives a neighbour that no other word is closer to than; a tie gives the even one.
template <typename Widen, typename Narrow>
void checkRounding(const Widen& widen, const Narrow& narrow) {
  for (uint32_t word = 0; word < 0x7FFF; ++word) {
    const auto low = static_cast<uint16_t>(word);
    const auto high = static_cast<uint16_t>(word + 1);
    if (!std::isfinite(widen(high))) break;  // beyond lies overflow
    const double middle = (static_cast<double>(widen(low)) + static_cast<double>(widen(high))) / 2;
    const auto tie = static_cast<float>(middle);
    if (static_cast<double>(tie) != middle) continue;  // below f32's own resolution
    ASSERT_EQ(narrow(tie), word % 2 == 0 ? low : high) << word;
    ASSERT_EQ(narrow(std::nextafter(tie, 0.0F)), low) << word;
    ASSERT_EQ(narrow(std::nextafter(tie, INFINITY)), high) << word;
    ASSERT_EQ(narrow(-tie), narrow(tie) | 0x8000) << word;
  }
}

TEST(DataType, Bf16RoundsToNearestEven) { checkRounding(bf16ToF32, f32ToBf16); }
TEST(DataType, F16RoundsToNearestEven) { checkRounding(f16ToF32, f32ToF16); }

TEST(DataType, Overflow) {
  EXPECT_EQ(f32ToF16(65519.996F), 0x7BFF);
  EXPECT_EQ(f32ToF16(65520.0F), 0x7C00);
  EXPECT_EQ(f32ToF16(-1e30F), 0xFC00);
  EXPECT_EQ(f32ToF16(INFINITY), 0x7C00);
  EXPECT_EQ(f32ToBf16(std::numeric_limits<float>::max()), 0x7F80);
}

TEST(DataType, NanStaysNan) {
  // The least and the greatest NaN words: their payload alone would round to infinity or wrap to zero.
  for (const uint32_t word : {0x7F80'0001U, 0x7FFF'FFFFU, 0xFF80'0001U, 0xFFFF'FFFFU}) {
    EXPECT_TRUE(std::isnan(bf16ToF32(f32ToBf16(std::bit_cast<float>(word))))) << word;
    EXPECT_TRUE(std::isnan(f16ToF32(f32ToF16(std::bit_cast<float>(word))))) << word;
  }
}

TEST(DataType, Names) {
  for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16})
    EXPECT_EQ(dataTypeFromName(dataTypeName(type)), type);
  EXPECT_THROW(dataTypeFromName("f64"), Error);
}

}  // namespace
}  // namespace hels
