// Weights as the chain kernels read them: panels of 16 output columns, [ceil(columns / 16)][depth][16], in their own
// type, the last panel filled up with zeros. Reading a panel from front to back is one stream of memory. For bf16
// inputs they lie in pairs, [ceil(columns / 16)][ceil(depth / 4)][2][16][2], in one of two orders; the depth is filled
// up with zeros.
// A panel of quantised weights is a sequence of groups, each 16 scales in f16, then the integers, two's complement, in
// units of 64 bytes, the last one filled up with zeros: 4 inputs of 8 bits, (4, 16), or 8 inputs of 4 bits, of which
// lane i of sixteen 32-bit lanes holds those of column i, each from bit kNibbleBits on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"
#include "kernels/cpu/gemm.h"

namespace hels {

inline constexpr int64_t kPanelColumns = 16;

/// Which inputs make a pair: neighbours (0, 1), (2, 3), or of every four (2, 0), (3, 1), as kernels read them that take
/// the second of a pair first.
enum class PairOrder : uint8_t { kNeighbours, kStraddled };

/// The input that lies at `place` in that order.
inline int64_t inputAt(PairOrder order, int64_t place) {
  constexpr int64_t kStraddledInputs[] = {2, 0, 3, 1};
  return order == PairOrder::kNeighbours ? place : place - place % 4 + kStraddledInputs[place % 4];
}

/// `depth` inputs as they lie in a panel.
inline int64_t packedDepth(Inputs inputs, int64_t depth) { return inputs == Inputs::kF32 ? depth : roundUp(depth, 4); }

inline constexpr int64_t kUnitBytes = 64;
/// By input: every four bits of a lane's two halves look up a straddled pair, the first in the lower half.
inline constexpr int kNibbleBits[8] = {16, 20, 0, 4, 24, 28, 8, 12};
inline constexpr int64_t unitInputs(Quantization quantization) {
  return 8 * kUnitBytes / bitsOf(quantization) / kPanelColumns;
}
inline constexpr int64_t kPackedScaleBytes = kPanelColumns * static_cast<int64_t>(sizeof(uint16_t));
/// A group of at most kGroupInputs inputs in a panel.
inline int64_t groupBytes(Quantization quantization, int64_t inputs) {
  return kPackedScaleBytes + divCeil(inputs, unitInputs(quantization)) * kUnitBytes;
}
/// The groups of `inputs` inputs of one granule, from its start.
inline int64_t groupsBytes(Quantization quantization, int64_t inputs) {
  const int64_t rest = inputs % kGroupInputs;
  return inputs / kGroupInputs * groupBytes(quantization, kGroupInputs) +
         (rest == 0 ? 0 : groupBytes(quantization, rest));
}
/// Where the group that begins at `input` lies in its panel; `input` = depth: where the panel ends.
inline int64_t groupOffset(const WeightMatrix& matrix, int64_t input) {
  return input / matrix.granule * groupsBytes(matrix.quantization, matrix.granule) +
         groupsBytes(matrix.quantization, input % matrix.granule);
}

/// A panel's share of `matrix.data`.
inline int64_t panelBytes(const WeightMatrix& matrix) {
  if (matrix.quantization != Quantization::kNone) return groupOffset(matrix, matrix.depth);
  return packedDepth(matrix.inputs, matrix.depth) * kPanelColumns * static_cast<int64_t>(bytesOf(matrix.type));
}
inline int64_t panelCount(const WeightMatrix& matrix) { return divCeil(matrix.columns, kPanelColumns); }

/// The columns [begin, end) of a matrix; `begin` is a multiple of kPanelColumns.
inline WeightMatrix columnsOf(const WeightMatrix& matrix, int64_t begin, int64_t end) {
  WeightMatrix columns = matrix;
  columns.columns = end - begin;
  if (matrix.data != nullptr) columns.data += begin / kPanelColumns * panelBytes(matrix);
  return columns;
}

/// Copies rows of W, source(count, matrix.depth) in matrix.type, to the columns [firstColumn, firstColumn + count) of
/// `matrix`.
void packRows(const WeightMatrix& matrix, PairOrder order, int64_t firstColumn, int64_t count, const std::byte* source);
/// target(matrix.depth) = the weights of one column, widened.
void unpackColumn(const WeightMatrix& matrix, PairOrder order, int64_t column, float* target);
/// The same from integers and scales, as Gemm::packQuantized().
void packQuantizedRows(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const int8_t* values,
                       const uint16_t* scales);

}  // namespace hels
