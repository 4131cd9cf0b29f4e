// Weights in 8 or 4 bits: each a small integer, with one scale for a group of neighbouring inputs of an output column
// (docs/weight-format.md). A weight's value is integer * scale.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/data_type.h"

namespace hels {

/// kInt8: integers from -128 to 127. kInt4: from -8 to 7.
enum class Quantization : uint8_t { kNone, kInt8, kInt4 };

/// "none", "int8", "int4": the words of config files, plans and JSON.
const char* quantizationName(Quantization quantization);

inline constexpr int64_t bitsOf(Quantization quantization) { return quantization == Quantization::kInt4 ? 4 : 8; }

/// Inputs that share a scale. Groups are counted from the start of a granule and end with it, so that every slice of a
/// split holds whole groups; the last group of a granule may be shorter.
inline constexpr int64_t kGroupInputs = 32;

/// What files add to an integer of 4 bits, so that it has no sign.
inline constexpr int kNibbleOffset = 8;

/// The groups of `depth` inputs that begin at a granule of `granule` inputs; the last granule may be shorter.
inline int64_t groupCount(int64_t depth, int64_t granule) {
  if (depth == 0) return 0;
  const auto groups = [](int64_t inputs) { return (inputs + kGroupInputs - 1) / kGroupInputs; };
  return depth / granule * groups(granule) + groups(depth % granule);
}

/// The inputs of the group that begins at `input`.
inline int64_t groupInputs(int64_t input, int64_t depth, int64_t granule) {
  const int64_t granuleEnd = std::min(depth, (input / granule + 1) * granule);
  return std::min(kGroupInputs, granuleEnd - input);
}

}  // namespace hels
