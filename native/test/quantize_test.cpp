// The choice of integers and scales.
#include "model/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace hels {
namespace {

QuantizedRows quantize(Quantization quantization, const std::vector<float>& row, int64_t granule) {
  const auto columns = static_cast<int64_t>(row.size());
  QuantizedRows result{std::vector<int8_t>(row.size()),
                       std::vector<uint16_t>(static_cast<size_t>(groupCount(columns, granule)))};
  EXPECT_EQ(quantizeRow(quantization, row, granule, result.values.data(), result.scales.data()), -1);
  return result;
}

TEST(Quantize, GroupsBeginWithTheirGranule) {
  EXPECT_EQ(groupCount(0, 48), 0);
  EXPECT_EQ(groupCount(96, 48), 4);  // 32, 16, 32, 16
  EXPECT_EQ(groupCount(100, 48), 5);
  EXPECT_EQ(groupInputs(0, 100, 48), 32);
  EXPECT_EQ(groupInputs(32, 100, 48), 16);
  EXPECT_EQ(groupInputs(48, 100, 48), 32);
  EXPECT_EQ(groupInputs(96, 100, 48), 4);
}

TEST(Quantize, EveryValueIsWithinHalfAStep) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<float> row(200);
  for (float& value : row) value = normal(random);
  for (const Quantization quantization : {Quantization::kInt8, Quantization::kInt4}) {
    const QuantizedRows rows = quantize(quantization, row, 80);
    size_t group = 0;
    for (int64_t begin = 0; begin < 200; ++group) {
      const int64_t end = begin + groupInputs(begin, 200, 80);
      const float step = std::fabs(f16ToF32(rows.scales[group]));
      for (; begin < end; ++begin) {
        const auto i = static_cast<size_t>(begin);
        // 4 bits reach 8 steps on one side and 7 on the other: what lies between them loses up to a step.
        const float allowed = (quantization == Quantization::kInt8 ? 0.51F : 1.01F) * step;
        EXPECT_NEAR(static_cast<float>(rows.values[i]) * f16ToF32(rows.scales[group]), row[i], allowed);
      }
    }
  }
}

TEST(Quantize, TheLargestMagnitudeHasTheFarEnd) {
  const QuantizedRows up = quantize(Quantization::kInt4, {0.5F, 2.0F, -1.0F, 0.0F}, 4);
  EXPECT_EQ(up.values, (std::vector<int8_t>{-2, -8, 4, 0}));
  EXPECT_EQ(f16ToF32(up.scales[0]), -0.25F);
  const QuantizedRows down = quantize(Quantization::kInt8, {127.0F, -127.0F, 63.5F, 0.4F}, 4);
  EXPECT_EQ(down.values, (std::vector<int8_t>{127, -127, 64, 0}));
  EXPECT_EQ(f16ToF32(down.scales[0]), 1.0F);
}

TEST(Quantize, ZerosStayZeros) {
  for (const Quantization quantization : {Quantization::kInt8, Quantization::kInt4}) {
    const QuantizedRows rows = quantize(quantization, std::vector<float>(40, 0.0F), 40);
    EXPECT_EQ(rows.values, std::vector<int8_t>(40));
    EXPECT_EQ(f16ToF32(rows.scales[1]), 0.0F);
  }
}

TEST(Quantize, NamesTheFirstValueThatHasNoScale) {
  for (const float bad : {NAN, INFINITY, -INFINITY, 1e8F, std::numeric_limits<float>::max()}) {
    std::vector<float> row(70, 0.5F);
    row[41] = bad;
    std::vector<int8_t> values(70);
    std::vector<uint16_t> scales(3);
    for (const Quantization quantization : {Quantization::kInt8, Quantization::kInt4}) {
      EXPECT_EQ(quantizeRow(quantization, row, 70, values.data(), scales.data()), 41) << bad;
    }
  }
}

}  // namespace
}  // namespace hels
