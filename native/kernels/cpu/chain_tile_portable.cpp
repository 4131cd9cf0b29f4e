// The chain kernels in plain C++: what the vector kernels must equal, and the fallback for processors without AVX2.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/narrow_blocks.h"
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
  const auto* x = reinterpret_cast<const float*>(a.x);
  for (int64_t column = 0; column < kPanelColumns; ++column) {
    float sum = a.accumulate ? a.c[column] : 0.0F;
    for (int64_t k = 0; k < a.depth; ++k) sum = std::fma(x[k], widenAt<type>(a.panel, k * kPanelColumns + column), sum);
    a.c[column] = sum;
  }
}

float flushed(float value) {
  return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0F, value) : value;
}

/// Of inputs x(inputs) with weights(ceil(inputs / 2), 16, 2) of one column; an odd input is followed by a zero.
float blockSum(const uint16_t* x, const uint16_t* weights, int64_t inputs) {
  float sums[2] = {};
  for (int64_t i = 0; i < roundUp(inputs, 2); ++i) {
    const float weight = flushed(bf16ToF32(weights[i / 2 * 2 * kPanelColumns + i % 2]));
    sums[i % 2] = flushed(std::fma(flushed(bf16ToF32(x[i])), weight, sums[i % 2]));
  }
  if (inputs < kBlockInputs) {  // what zeros come to: -0 becomes +0
    sums[0] += 0.0F;
    sums[1] += 0.0F;
  }
  return flushed(sums[0] + sums[1]);
}

/// The chain after a block.
float withBlock(const TileArguments& a, int64_t block, int64_t column, float sum, float ofBlock) {
  if (a.scales == nullptr) return flushed(sum + ofBlock);
  return flushed(std::fma(a.scales[block * kPanelColumns + column], ofBlock + 0.0F, sum));
}

void pairsTile(const TileArguments& a) {
  for (int64_t column = 0; column < kPanelColumns; ++column) {
    const std::byte* x = a.x;
    const auto* weights = reinterpret_cast<const uint16_t*>(a.panel) + 2 * column;
    float sum = a.accumulate ? flushed(a.c[column]) : 0.0F;
    for (int64_t begin = 0; begin < a.depth; begin += kBlockInputs) {
      const int64_t inputs = std::min(kBlockInputs, a.depth - begin);
      for (int term = 0; term < a.terms; ++term, x += a.xBlockBytes) {
        const float ofBlock = blockSum(reinterpret_cast<const uint16_t*>(x), weights + begin * kPanelColumns, inputs);
        sum = withBlock(a, begin / kBlockInputs, column, sum, ofBlock);
      }
    }
    a.c[column] = sum;
  }
}

void widen(DataType type, const std::byte* source, float* target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    target[i] = type == DataType::kBf16 ? widenAt<DataType::kBf16>(source, i) : widenAt<DataType::kF16>(source, i);
  }
}

void narrow(const float* source, uint16_t* target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = f32ToBf16(source[i]);
}

void narrowBlocks(const float* source, int64_t count, int terms, uint16_t* target, int64_t stride) {
  narrowNeighbours(source, count, terms, target, stride, narrow);
}

template <Quantization quantization>
float integerAt(const std::byte* units, int64_t k, int64_t column) {
  if constexpr (quantization == Quantization::kInt8) {
    return static_cast<float>(reinterpret_cast<const int8_t*>(units)[k * kPanelColumns + column]);
  }
  constexpr int64_t perUnit = unitInputs(quantization);
  const uint32_t lane = reinterpret_cast<const uint32_t*>(units)[k / perUnit * kPanelColumns + column];
  const auto nibble = static_cast<int>(lane >> kNibbleBits[k % perUnit] & 15U);
  return static_cast<float>(nibble < 8 ? nibble : nibble - 16);
}

template <Quantization quantization>
void dequantize(const std::byte* groups, int64_t inputs, uint16_t* target, float* scales) {
  for (int64_t begin = 0; begin < inputs; begin += kGroupInputs, scales += kPanelColumns) {
    const int64_t count = std::min(kGroupInputs, inputs - begin);
    widen(DataType::kF16, groups, scales, kPanelColumns);
    for (int64_t k = 0; k < roundUp(count, unitInputs(quantization)); ++k) {
      for (int64_t column = 0; column < kPanelColumns; ++column) {
        target[(k / 2 * kPanelColumns + column) * 2 + k % 2] =
            f32ToBf16(integerAt<quantization>(groups + kPackedScaleBytes, k, column));
      }
    }
    groups += groupBytes(quantization, count);
    target += count * kPanelColumns;
  }
}

bool addFixedPoint(const float* values, int64_t* sums, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!inFixedPointRange(values[i])) return false;
    sums[i] += toFixedPoint(values[i]);
  }
  return true;
}

ChainTileSet makeSet() {
  ChainTileSet set;
  const TileKernel kernels[] = {tile<DataType::kF32>, tile<DataType::kBf16>, tile<DataType::kF16>, pairsTile,
                                pairsTile};
  for (int kind = 0; kind <= kTileScaled; ++kind) {
    set.panels[kind][0] = 1;
    set.wide[kind][0] = set.single[kind][0] = kernels[kind];
  }
  set.widen = widen;
  set.narrow = narrow;
  set.narrowBlocks = narrowBlocks;
  set.dequantize[0] = dequantize<Quantization::kInt8>;
  set.dequantize[1] = dequantize<Quantization::kInt4>;
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
  if (isa == Isa::kAmx) return amxTileSet();
  if (isa == Isa::kAvx512Bf16) return avx512Bf16TileSet();
  if (isa == Isa::kAvx512) return avx512TileSet();
  if (isa == Isa::kAvx2) return avx2TileSet();
#endif
  (void)isa;
  return portableTileSet();
}

}  // namespace hels
