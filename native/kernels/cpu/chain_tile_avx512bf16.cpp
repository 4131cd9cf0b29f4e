// The chain kernels for bf16 inputs with the processor's bf16 dot product: one instruction takes a pair of inputs for
// the 16 columns of a panel. Measured to round as two multiply-adds, the pair's second first, subnormals as zero; the
// self-check at load compares it with the portable kernels on every machine.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/chain_sums_avx512.h"
#include "kernels/cpu/narrow_blocks.h"
#include "kernels/cpu/vector_avx2.h"

namespace hels {
namespace {

using avx512::loadSums;
using avx512::storeSums;

constexpr int64_t kFourBytes = int64_t{4} * sizeof(uint16_t);     // of inputs of a row
constexpr int64_t kFourWeightBytes = kFourBytes * kPanelColumns;  // of a panel
constexpr int64_t kBlockWeightBytes = kBlockInputs / 4 * kFourWeightBytes;
constexpr int kChainsAtOnce = 14;  // even and odd ones together, beside their operands in 32 registers

/// Where a block's operands lie.
struct Block {
  const std::byte* x;
  int64_t xStrideBytes;
  const std::byte* weights;
  int64_t panelStrideBytes;
  int64_t inputs;
};

/// One pair of each four inputs of a block into its chains, the first ones (even inputs) or the second.
template <int rows, int panels>
HELS_AVX512_BF16 inline void addPair(__m512 (&sums)[rows][panels], const std::byte* x, const std::byte* weights,
                                     const Block& block) {
  __m512bh w[panels];
#pragma GCC unroll 16
  for (int panel = 0; panel < panels; ++panel) {
    w[panel] = (__m512bh)_mm512_loadu_si512(weights + panel * block.panelStrideBytes);
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
    const auto pair = (__m512bh)_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x + row * block.xStrideBytes));
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      sums[row][panel] = _mm512_dpbf16_ps(sums[row][panel], pair, w[panel]);
    }
  }
}

template <int rows, int panels>
HELS_AVX512_BF16 inline void clear(__m512 (&sums)[rows][panels]) {
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) sums[row][panel] = _mm512_setzero_ps();
  }
}

/// Adds a block to the chains: its even and odd chains side by side, or, where that takes too many registers, one after
/// the other.
template <int rows, int panels>
HELS_AVX512_BF16 inline void addBlock(__m512 (&sums)[rows][panels], const Block& block) {
  __m512 even[rows][panels], odd[rows][panels];
  const std::byte* x = block.x;
  const std::byte* weights = block.weights;
  const std::byte* end = x + divCeil(block.inputs, 4) * kFourBytes;
  clear(even);
  if constexpr (rows * panels <= kChainsAtOnce) {
    clear(odd);
    for (; x != end; x += kFourBytes, weights += kFourWeightBytes) {
      addPair(even, x, weights, block);
      addPair(odd, x + kFourBytes / 2, weights + kFourWeightBytes / 2, block);
    }
  } else {
    for (; x != end; x += kFourBytes, weights += kFourWeightBytes) addPair(even, x, weights, block);
    clear(odd);
    x = block.x;
    weights = block.weights;
    for (; x != end; x += kFourBytes, weights += kFourWeightBytes) {
      addPair(odd, x + kFourBytes / 2, weights + kFourWeightBytes / 2, block);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const __m512 sum = avx512::sumOfBlock(even[row][panel], odd[row][panel], block.inputs);
      sums[row][panel] = _mm512_add_ps(sums[row][panel], sum);
    }
  }
}

/// A function of its own, so that no arithmetic moves out of the caller's SubnormalFlush.
template <int rows, int panels>
HELS_AVX512_BF16 __attribute__((noinline)) void addBlocks(const TileArguments& a) {
  __m512 sums[rows][panels];
  loadSums(a, sums);
  Block block{a.x, a.xStrideBytes, a.panel, a.panelStrideBytes, kBlockInputs};
  for (int64_t left = a.depth; left > 0; left -= kBlockInputs, block.weights += kBlockWeightBytes) {
    block.inputs = std::min(kBlockInputs, left);
    for (int term = 0; term < a.terms; ++term, block.x += a.xBlockBytes) addBlock(sums, block);
  }
  storeSums(a, sums);
}

template <int rows, int panels>
HELS_AVX512_BF16 void tile(const TileArguments& a) {
  const avx2::SubnormalFlush flush;
  addBlocks<rows, panels>(a);
}

/// 32 inputs as one or two terms in the order kStraddled.
HELS_AVX512 void narrowBlock(const float* source, uint16_t* upperTerms, uint16_t* lowerTerms) {
  const __m512 values[] = {_mm512_loadu_ps(source), _mm512_loadu_ps(source + 16)};
  const __m512i straddled = _mm512_broadcast_i32x4(_mm_setr_epi8(4, 5, 0, 1, 6, 7, 2, 3, 12, 13, 8, 9, 14, 15, 10, 11));
  const __m512i upper = avx512::roundedToBf16(values[0], values[1]);
  _mm512_storeu_si512(upperTerms, _mm512_shuffle_epi8(upper, straddled));
  if (lowerTerms == nullptr) return;
  const __m512i lower = avx512::roundedToBf16(avx512::restOf(values[0], upper, 0), avx512::restOf(values[1], upper, 1));
  _mm512_storeu_si512(lowerTerms, _mm512_shuffle_epi8(lower, straddled));
}

void narrowBlocks(const float* source, int64_t count, int terms, uint16_t* target, int64_t stride) {
  narrowInBlocks(source, count, terms, target, stride, narrowBlock);
}

constexpr int kQuantizedRowsMax = 8;
constexpr int64_t kPrefetchBytes = 1088;  // ahead of the hardware: 2 groups of 8 bits, 4 of 4 bits

/// Where a unit's field lies in the mantissa of a float that its lane is turned into: bit `position`, after a shift to
/// the right (left if below zero). With the exponent of 2^(23 - position) above it the float is that power of two plus
/// the field, and one multiply-add with the scale takes both the power and the offset off again: integer * scale,
/// exactly, as the power plus the offset has 13 bits and the scale 11.
struct Field {
  int shift, position;
};
template <Quantization quantization>
constexpr Field fieldAt(int64_t field) {
  const int bit = static_cast<int>(field * bitsOf(quantization));
  if (quantization == Quantization::kInt8) return {bit - 8, 8};
  return bit < 8 ? Field{-8, bit + 8} : bit < 20 ? Field{0, bit} : Field{12, bit - 12};
}
constexpr int kPositions = 3;  // 8, 12 and 16
constexpr int positionIndex(int position) { return position / 4 - 2; }

/// Scales for the halves of the columns, each for both inputs of a pair, and what the power and the offset come to.
template <Quantization quantization>
struct PairScales {
  __m512 scale[2];
  __m512 excess[2][kPositions];

  HELS_AVX512_BF16 void load(const std::byte* group) {
    const __m512i first = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512 scales = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group)));
    scale[0] = _mm512_permutexvar_ps(first, scales);
    scale[1] = _mm512_permutexvar_ps(_mm512_add_epi32(first, _mm512_set1_epi32(8)), scales);
#pragma GCC unroll 3
    for (int i = 0; i < kPositions; ++i) {
      const auto value = static_cast<float>((1 << (15 - 4 * i)) + offsetOf(quantization));
      excess[0][i] = _mm512_mul_ps(scale[0], _mm512_set1_ps(value));
      excess[1][i] = _mm512_mul_ps(scale[1], _mm512_set1_ps(value));
    }
  }
};

template <Quantization quantization>
HELS_AVX512_BF16 inline __m512 scaledField(__m512i unit, int64_t field, const PairScales<quantization>& scales) {
  const auto [shift, position] = fieldAt<quantization>(field);
  const __m512i shifted = shift < 0 ? _mm512_slli_epi32(unit, static_cast<unsigned>(-shift))
                                    : _mm512_srli_epi32(unit, static_cast<unsigned>(shift));
  const __m512i mask = _mm512_set1_epi32(((1 << bitsOf(quantization)) - 1) << position);
  const __m512i power = _mm512_set1_epi32((127 + 23 - position) << 23);
  constexpr int kAndThenOr = 0xEA;
  const __m512 value = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(shifted, mask, power, kAndThenOr));
  return _mm512_fmsub_ps(value, scales.scale[field % 2], scales.excess[field % 2][positionIndex(position)]);
}

/// A row of pairs of the 16 columns. No value is subnormal, so the instruction rounds as f32ToBf16.
template <Quantization quantization>
HELS_AVX512_BF16 inline __m512bh pairsOf(__m512i unit, int64_t pair, const PairScales<quantization>& scales) {
  return _mm512_cvtne2ps_pbh(scaledField(unit, 2 * pair + 1, scales), scaledField(unit, 2 * pair, scales));
}

template <Quantization quantization>
HELS_AVX512_BF16 void dequantize(const std::byte* groups, int64_t inputs, uint16_t* target) {
  constexpr int64_t perUnit = unitInputs(quantization);
  for (; inputs > 0; inputs -= kGroupInputs) {
    const int64_t count = std::min(kGroupInputs, inputs);
    PairScales<quantization> scales;
    scales.load(groups);
    const std::byte* units = groups + kPackedScaleBytes;
    for (int64_t k = 0; k < count; k += perUnit, units += kUnitBytes) {
      const __m512i unit = _mm512_loadu_si512(units);
      _mm_prefetch(reinterpret_cast<const char*>(units) + kPrefetchBytes, _MM_HINT_T0);
#pragma GCC unroll 4
      for (int64_t pair = 0; pair < perUnit / 2; ++pair) {
        _mm512_storeu_si512(target + (k + 2 * pair) * kPanelColumns, (__m512i)pairsOf(unit, pair, scales));
      }
    }
    groups += groupBytes(quantization, count);
    target += count * kPanelColumns;
  }
}

/// For few rows, which would wait for weights to be widened in advance: group by group.
template <Quantization quantization, int rows, int panels>
HELS_AVX512_BF16 __attribute__((noinline)) void addQuantizedBlocks(const TileArguments& a) {
  static_assert(kGroupInputs == kBlockInputs);
  alignas(64) uint16_t weights[panels][kBlockInputs * kPanelColumns];
  __m512 sums[rows][panels];
  loadSums(a, sums);
  const std::byte* groups = a.panel;
  Block block{a.x, a.xStrideBytes, reinterpret_cast<const std::byte*>(weights), kBlockWeightBytes, kBlockInputs};
  for (int64_t left = a.depth; left > 0; left -= kBlockInputs) {
    block.inputs = std::min(kBlockInputs, left);
#pragma GCC unroll 2
    for (int panel = 0; panel < panels; ++panel) {
      dequantize<quantization>(groups + panel * a.panelStrideBytes, block.inputs, weights[panel]);
    }
    groups += groupBytes(quantization, block.inputs);
    for (int term = 0; term < a.terms; ++term, block.x += a.xBlockBytes) addBlock(sums, block);
  }
  storeSums(a, sums);
}

template <Quantization quantization, int rows, int panels>
HELS_AVX512_BF16 void quantizedTile(const TileArguments& a) {
  const avx2::SubnormalFlush flush;
  addQuantizedBlocks<quantization, rows, panels>(a);
}

template <Quantization quantization, int rows = 1>
void fillQuantized(ChainTileSet& set, TileKind kind) {
  set.panels[kind][rows - 1] = 2;
  set.wide[kind][rows - 1] = quantizedTile<quantization, rows, 2>;
  set.single[kind][rows - 1] = quantizedTile<quantization, rows, 1>;
  if constexpr (rows < kQuantizedRowsMax) fillQuantized<quantization, rows + 1>(set, kind);
}

constexpr int kRowsMax = 14;

template <int rows>
void fillPairs(ChainTileSet& set) {
  constexpr TileKind kind = kTilePairs;
  constexpr int panels = rows <= 2 ? 8 : rows <= 4 ? 4 : 2;
  set.panels[kind][rows - 1] = panels;
  set.wide[kind][rows - 1] = tile<rows, panels>;
  set.single[kind][rows - 1] = tile<rows, 1>;
  if constexpr (rows < kRowsMax) fillPairs<rows + 1>(set);
}

ChainTileSet makeSet() {
  ChainTileSet set = avx512TileSet();
  set.isa = Isa::kAvx512Bf16;
  set.pairOrder = PairOrder::kStraddled;
  set.narrowBlocks = narrowBlocks;
  fillPairs<1>(set);
  fillQuantized<Quantization::kInt8>(set, kTileInt8);
  fillQuantized<Quantization::kInt4>(set, kTileInt4);
  set.dequantize[0] = dequantize<Quantization::kInt8>;
  set.dequantize[1] = dequantize<Quantization::kInt4>;
  return set;
}

}  // namespace

const ChainTileSet& avx512Bf16TileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

}  // namespace hels

#endif
