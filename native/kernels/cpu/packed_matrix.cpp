#include "kernels/cpu/packed_matrix.h"

#include <algorithm>

namespace hels {
namespace {

template <typename Element>
void packTyped(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const Element* source) {
  const int64_t depth = matrix.depth;
  for (int64_t row = 0; row < count;) {  // one panel's share at a time, written front to back
    const int64_t lane = (firstColumn + row) % kPanelColumns;
    const int64_t lanes = std::min(kPanelColumns - lane, count - row);
    Element* target = reinterpret_cast<Element*>(matrix.data) + (firstColumn + row - lane) * depth + lane;
    const Element* values = source + row * depth;
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < lanes; ++i) target[k * kPanelColumns + i] = values[i * depth + k];
    }
    row += lanes;
  }
}

}  // namespace

void packRows(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source) {
  if (matrix.type == DataType::kF32) {
    packTyped(matrix, firstColumn, count, reinterpret_cast<const float*>(source));
  } else {
    packTyped(matrix, firstColumn, count, reinterpret_cast<const uint16_t*>(source));
  }
}

}  // namespace hels
