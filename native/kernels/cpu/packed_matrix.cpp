#include "kernels/cpu/packed_matrix.h"

#include <algorithm>

namespace hels {
namespace {

/// Inputs in groups of `group` per column: 1, or 2 for pairs.
template <typename Element, int64_t group>
void packTyped(const WeightMatrix& matrix, PairOrder order, int64_t firstColumn, int64_t count, const Element* source) {
  const int64_t depth = matrix.depth;
  const int64_t panelDepth = packedDepth(matrix.inputs, depth);
  for (int64_t row = 0; row < count;) {  // one panel's share at a time, written front to back
    const int64_t lane = (firstColumn + row) % kPanelColumns;
    const int64_t lanes = std::min(kPanelColumns - lane, count - row);
    Element* target = reinterpret_cast<Element*>(matrix.data) + (firstColumn + row - lane) * panelDepth + lane * group;
    const Element* values = source + row * depth;
    for (int64_t place = 0; place < panelDepth; ++place) {
      const int64_t k = group == 1 ? place : inputAt(order, place);
      Element* inputs = target + (place - place % group) * kPanelColumns + place % group;
      for (int64_t i = 0; i < lanes; ++i) inputs[i * group] = k < depth ? values[i * depth + k] : Element{0};
    }
    row += lanes;
  }
}

template <typename Element, int64_t group, typename Widen>
void unpackTyped(const WeightMatrix& matrix, PairOrder order, int64_t column, float* target, const Widen& widen) {
  const int64_t panelDepth = packedDepth(matrix.inputs, matrix.depth);
  const int64_t lane = column % kPanelColumns;
  const Element* panel = reinterpret_cast<const Element*>(matrix.data) + (column - lane) * panelDepth + lane * group;
  for (int64_t place = 0; place < panelDepth; ++place) {
    const int64_t k = group == 1 ? place : inputAt(order, place);
    if (k < matrix.depth) target[k] = widen(panel[(place - place % group) * kPanelColumns + place % group]);
  }
}

/// The values of one group of one column; `target` is where the group's units begin.
void packGroup(Quantization quantization, const int8_t* values, int64_t inputs, int64_t column, std::byte* target) {
  if (quantization == Quantization::kInt8) {
    for (int64_t k = 0; k < inputs; ++k) target[k * kPanelColumns + column] = static_cast<std::byte>(values[k]);
    return;
  }
  constexpr int64_t perUnit = unitInputs(Quantization::kInt4);
  auto* lanes = reinterpret_cast<uint32_t*>(target);
  for (int64_t k = 0; k < inputs; ++k) {
    const auto nibble = static_cast<uint32_t>(values[k]) & 15U;
    lanes[k / perUnit * kPanelColumns + column] |= nibble << kNibbleBits[k % perUnit];
  }
}

}  // namespace

void packQuantizedRows(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const int8_t* values,
                       const uint16_t* scales) {
  const int64_t stride = panelBytes(matrix);
  for (int64_t row = 0; row < count; ++row, values += matrix.depth) {
    const int64_t lane = (firstColumn + row) % kPanelColumns;
    std::byte* group = matrix.data + (firstColumn + row) / kPanelColumns * stride;
    for (int64_t begin = 0; begin < matrix.depth;) {
      const int64_t inputs = groupInputs(begin, matrix.depth, matrix.granule);
      reinterpret_cast<uint16_t*>(group)[lane] = *scales++;
      packGroup(matrix.quantization, values + begin, inputs, lane, group + kPackedScaleBytes);
      group += groupBytes(matrix.quantization, inputs);
      begin += inputs;
    }
  }
}

void unpackColumn(const WeightMatrix& matrix, PairOrder order, int64_t column, float* target) {
  if (matrix.type == DataType::kF32) {
    unpackTyped<float, 1>(matrix, order, column, target, [](float value) { return value; });
  } else if (matrix.inputs != Inputs::kF32) {
    unpackTyped<uint16_t, 2>(matrix, order, column, target, bf16ToF32);
  } else if (matrix.type == DataType::kBf16) {
    unpackTyped<uint16_t, 1>(matrix, order, column, target, bf16ToF32);
  } else {
    unpackTyped<uint16_t, 1>(matrix, order, column, target, f16ToF32);
  }
}

void packRows(const WeightMatrix& matrix, PairOrder order, int64_t firstColumn, int64_t count,
              const std::byte* source) {
  if (matrix.type == DataType::kF32) {
    packTyped<float, 1>(matrix, order, firstColumn, count, reinterpret_cast<const float*>(source));
  } else if (matrix.inputs != Inputs::kF32) {
    packTyped<uint16_t, 2>(matrix, order, firstColumn, count, reinterpret_cast<const uint16_t*>(source));
  } else {
    packTyped<uint16_t, 1>(matrix, order, firstColumn, count, reinterpret_cast<const uint16_t*>(source));
  }
}

}  // namespace hels
