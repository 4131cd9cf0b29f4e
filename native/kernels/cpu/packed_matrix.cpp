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

}  // namespace

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
