// Weights as the chain kernels read them: panels of 16 output columns, [ceil(columns / 16)][depth][16], in their own
// type, the last panel filled up with zeros. Reading a panel from front to back is one stream of memory. For bf16
// inputs they lie in pairs, [ceil(columns / 16)][ceil(depth / 2)][16][2]; an odd depth is filled up with a zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"
#include "kernels/cpu/gemm.h"

namespace hels {

inline constexpr int64_t kPanelColumns = 16;

/// `depth` inputs as they lie in a panel.
inline int64_t packedDepth(Inputs inputs, int64_t depth) { return inputs == Inputs::kBf16 ? roundUp(depth, 2) : depth; }
/// A panel's share of `matrix.data`.
inline int64_t panelBytes(const WeightMatrix& matrix) {
  return packedDepth(matrix.inputs, matrix.depth) * kPanelColumns * static_cast<int64_t>(bytesOf(matrix.type));
}
inline int64_t panelCount(const WeightMatrix& matrix) { return divCeil(matrix.columns, kPanelColumns); }

/// Copies rows of W, source(count, matrix.depth) in matrix.type, to the columns [firstColumn, firstColumn + count) of
/// `matrix`.
void packRows(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source);

}  // namespace hels
