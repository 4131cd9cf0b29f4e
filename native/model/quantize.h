// Choosing the integers and scales of quantised weights: the same at load and ahead of it, so that both give one model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/quantization.h"

namespace hels {

/// Rows of a matrix as integers, (rows, columns), and the scales of their groups in f16, (rows, groups).
struct QuantizedRows {
  std::vector<int8_t> values;
  std::vector<uint16_t> scales;
};

/// Quantises one row whose columns begin at a granule. `scales` has groupCount(columns, granule) elements. Returns -1,
/// or the first column whose value is NaN, infinite or too large for a scale in f16.
int64_t quantizeRow(Quantization quantization, std::span<const float> row, int64_t granule, int8_t* values,
                    uint16_t* scales);

}  // namespace hels
