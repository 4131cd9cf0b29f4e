#include "model/quantize.h"

#include <bit>
#include <cmath>

namespace hels {
namespace {

constexpr float kF16Max = 65504.0F;

/// The scale that gives the group's largest magnitude the far end of the integers. Those of 4 bits reach further below
/// zero than above: the scale takes the sign that puts the largest magnitude there.
float scaleOf(Quantization quantization, float extreme) {
  return quantization == Quantization::kInt8 ? std::fabs(extreme) / 127.0F : extreme / -8.0F;
}

void quantizeGroup(Quantization quantization, std::span<const float> group, float scale, int8_t* values) {
  const float inverse = scale == 0.0F ? 0.0F : 1.0F / scale;
  const float lowest = quantization == Quantization::kInt8 ? -127.0F : -8.0F;
  const float highest = quantization == Quantization::kInt8 ? 127.0F : 7.0F;
  // Adding 1.5 * 2^23 rounds to the nearest whole number, ties to even, and leaves it in the low bits.
  constexpr float kRound = 12582912.0F;
  for (size_t i = 0; i < group.size(); ++i) {
    const float value = std::min(std::max(group[i] * inverse, lowest), highest) + kRound;
    values[i] = static_cast<int8_t>(std::bit_cast<int32_t>(value) - std::bit_cast<int32_t>(kRound));
  }
}

}  // namespace

int64_t quantizeRow(Quantization quantization, std::span<const float> row, int64_t granule, int8_t* values,
                    uint16_t* scales) {
  const auto columns = static_cast<int64_t>(row.size());
  for (int64_t begin = 0; begin < columns; ++scales) {
    const int64_t size = groupInputs(begin, columns, granule);
    const std::span<const float> group = row.subspan(static_cast<size_t>(begin), static_cast<size_t>(size));
    float extreme = 0.0F;
    bool finite = true;
    for (const float value : group) {
      finite = finite && std::fabs(value) < INFINITY;
      extreme = std::fabs(value) > std::fabs(extreme) ? value : extreme;
    }
    const float scale = scaleOf(quantization, extreme);
    if (!finite || std::fabs(scale) > kF16Max) {
      for (int64_t i = 0; i < size; ++i) {
        const float value = group[static_cast<size_t>(i)];
        if (!(std::fabs(scaleOf(quantization, value)) <= kF16Max)) return begin + i;
      }
    }
    *scales = f32ToF16(scale);
    quantizeGroup(quantization, group, f16ToF32(*scales), values + begin);
    begin += size;
  }
  return -1;
}

}  // namespace hels
