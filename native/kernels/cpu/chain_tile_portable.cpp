// The chain kernels in plain C++: what the vector kernels must equal, and the fallback for processors without AVX2.
#include <cmath>

#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/packed_matrix.h"

namespace hels {
namespace {

template <DataType type>
float widenAt(const std::byte* source, int64_t index) {
  if constexpr (type == DataType::kF32) return reinterpret_cast<const float*>(source)[index];
  if constexpr (type == DataType::kBf16) return bf16ToF32(reinterpret_cast<const uint16_t*>(source)[index]);
  if constexpr (type == DataType::kF16) return f16ToF32(reinterpret_cast<const uint16_t*>(source)[index]);
}

template <DataType type>
void tile(const TileArguments& a) {
  for (int64_t column = 0; column < kPanelColumns; ++column) {
    float sum = a.accumulate ? a.c[column] : 0.0F;
    for (int64_t k = 0; k < a.depth; ++k)
      sum = std::fma(a.x[k], widenAt<type>(a.panel, k * kPanelColumns + column), sum);
    a.c[column] = sum;
  }
}

template <DataType type>
void widenTyped(const std::byte* source, float* target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = widenAt<type>(source, i);
}

void widen(DataType type, const std::byte* source, float* target, int64_t count) {
  if (type == DataType::kF32) widenTyped<DataType::kF32>(source, target, count);
  if (type == DataType::kBf16) widenTyped<DataType::kBf16>(source, target, count);
  if (type == DataType::kF16) widenTyped<DataType::kF16>(source, target, count);
}

bool addFixedPoint(const float* values, int64_t* sums) {
  for (int64_t i = 0; i < kPanelColumns; ++i) {
    if (!inFixedPointRange(values[i])) return false;
    sums[i] += toFixedPoint(values[i]);
  }
  return true;
}

ChainTileSet makeSet() {
  ChainTileSet set;
  set.rowsMax = 1;
  set.panels[0] = 1;
  const TileKernel kernels[3] = {tile<DataType::kF32>, tile<DataType::kBf16>, tile<DataType::kF16>};
  for (int type = 0; type < 3; ++type) set.wide[type][0] = set.single[type][0] = kernels[type];
  set.widen = widen;
  set.addFixedPoint = addFixedPoint;
  return set;
}

}  // namespace

const ChainTileSet& portableTileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

const ChainTileSet& chainTileSet(Isa isa) {
#ifdef HELS_X86
  if (isa == Isa::kAvx512) return avx512TileSet();
  if (isa == Isa::kAvx2) return avx2TileSet();
#endif
  (void)isa;
  return portableTileSet();
}

}  // namespace hels
