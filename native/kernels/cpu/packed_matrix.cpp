#include "kernels/cpu/packed_matrix.h"

#include <algorithm>

namespace hels {
namespace {

/// Inputs in groups of `group` per column: 1, or 2 for pairs.
template <typename Element, int64_t group>
void packTyped(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const Element* source) {
  const int64_t depth = matrix.depth;
  const int64_t panelDepth = packedDepth(matrix.inputs, depth);
  for (int64_t row = 0; row < count;) {  // one panel's share at a time, written front to back
    const int64_t lane = (firstColumn + row) % kPanelColumns;
    const int64_t lanes = std::min(kPanelColumns - lane, count - row);
    Element* target = reinterpret_cast<Element*>(matrix.data) + (firstColumn + row - lane) * panelDepth + lane * group;
    const Element* values = source + row * depth;
    for (int64_t k = 0; k < panelDepth; ++k) {
      Element* inputs = target + (k - k % group) * kPanelColumns + k % group;
      for (int64_t i = 0; i < lanes; ++i) inputs[i * group] = k < depth ? values[i * depth + k] : Element{0};
    }
    row += lanes;
  }
}

/// The values of one group of one column; `target` is where the group's values begin.
void packInt8(const int8_t* values, int64_t inputs, int64_t lane, std::byte* target) {
  for (int64_t k = 0; k < inputs; ++k) {
    target[(k / 2 * kPanelColumns + lane) * 2 + k % 2] = static_cast<std::byte>(values[k]);
  }
}

void packInt4(const int8_t* values, int64_t inputs, int64_t lane, std::byte* target) {
  const int shift = lane < kPanelColumns / 2 ? 0 : 4;
  for (int64_t k = 0; k < roundUp(inputs, unitInputs(Quantization::kInt4)); ++k) {
    const auto bits = static_cast<unsigned>((k < inputs ? values[k] : 0) + kInt4Offset) << shift;
    const int64_t byte = k / 8 * 64 + (lane % 8 * 2 + k % 2) * 4 + k % 8 / 2;
    target[byte] |= static_cast<std::byte>(bits);  // the other half is another column's
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
      const auto pack = matrix.quantization == Quantization::kInt8 ? packInt8 : packInt4;
      pack(values + begin, inputs, lane, group + kPackedScaleBytes);
      group += groupBytes(matrix.quantization, inputs);
      begin += inputs;
    }
  }
}

void packRows(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source) {
  if (matrix.type == DataType::kF32) {
    packTyped<float, 1>(matrix, firstColumn, count, reinterpret_cast<const float*>(source));
  } else if (matrix.inputs == Inputs::kBf16) {
    packTyped<uint16_t, 2>(matrix, firstColumn, count, reinterpret_cast<const uint16_t*>(source));
  } else {
    packTyped<uint16_t, 1>(matrix, firstColumn, count, reinterpret_cast<const uint16_t*>(source));
  }
}

}  // namespace hels
