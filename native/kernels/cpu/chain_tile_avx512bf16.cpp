// The chain kernels for bf16 inputs with the processor's bf16 dot product: one instruction takes a pair of inputs for
// the 16 columns of a panel. Measured to round as two multiply-adds, odd input first, subnormals as zero; the
// self-check at load compares it with the portable kernels on every machine.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/chain_sums_avx512.h"

namespace hels {
namespace {

using avx512::loadSums;
using avx512::storeSums;

template <int rows, int panels>
HELS_AVX512_BF16 void tile(const TileArguments& a) {
  __m512 sums[rows][panels];
  loadSums(a, sums);
  const std::byte* x = a.x;
  const std::byte* weights = a.panel;
  for (int64_t k = 0; k < a.depth; k += 2, x += 2 * sizeof(uint16_t), weights += sizeof(__m512i)) {
    __m512bh w[panels];
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      w[panel] = (__m512bh)_mm512_loadu_si512(weights + panel * a.panelStrideBytes);
    }
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
      const auto pair = (__m512bh)_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x + row * a.xStrideBytes));
#pragma GCC unroll 16
      for (int panel = 0; panel < panels; ++panel) {
        sums[row][panel] = _mm512_dpbf16_ps(sums[row][panel], pair, w[panel]);
      }
    }
  }
  storeSums(a, sums);
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

/// A pair of inputs of a row times the weights of a panel, into its chain. `both`: the second input is there too.
template <Inputs inputs>
HELS_AVX512_BF16 inline __m512 addPair(__m512 sum, const std::byte* x, __m512bh weights, bool both) {
  if constexpr (inputs == Inputs::kBf16) {  // what is not there is a zero
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x)), weights);
  } else {
    const auto* values = reinterpret_cast<const float*>(x);
    const __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32((__m512i)weights, 16));
    sum = _mm512_fmadd_ps(_mm512_set1_ps(values[0]), first, sum);
    if (!both) return sum;
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
    const __m512 second = _mm512_castsi512_ps(_mm512_and_si512((__m512i)weights, upper));
    return _mm512_fmadd_ps(_mm512_set1_ps(values[1]), second, sum);
  }
}

/// One unit of each panel into the chains; `count` inputs of it, all but at the end of a granule.
template <Quantization quantization, Inputs inputs, int rows, int panels>
HELS_AVX512_BF16 inline void addUnit(__m512 (&sums)[rows][panels], const TileArguments& a, const std::byte* x,
                                     const std::byte* units, const PairScales<quantization> (&scales)[panels],
                                     int64_t count) {
  __m512i unit[panels];
#pragma GCC unroll 2
  for (int panel = 0; panel < panels; ++panel) {
    unit[panel] = _mm512_loadu_si512(units + panel * a.panelStrideBytes);
    _mm_prefetch(reinterpret_cast<const char*>(units + panel * a.panelStrideBytes) + kPrefetchBytes, _MM_HINT_T0);
  }
  constexpr int64_t kPairs = unitInputs(quantization) / 2;
#pragma GCC unroll 4
  for (int64_t pair = 0; pair < kPairs; ++pair) {
    if (2 * pair >= count) continue;
#pragma GCC unroll 2
    for (int panel = 0; panel < panels; ++panel) {
      const __m512bh weights = pairsOf(unit[panel], pair, scales[panel]);
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row) {
        const std::byte* values = x + row * a.xStrideBytes + 2 * pair * inputBytes(inputs);
        sums[row][panel] = addPair<inputs>(sums[row][panel], values, weights, 2 * pair + 1 < count);
      }
    }
  }
}

/// For few rows, which would wait for weights to be widened in advance.
template <Quantization quantization, Inputs inputs, int rows, int panels>
HELS_AVX512_BF16 void quantizedTile(const TileArguments& a) {
  constexpr int64_t perUnit = unitInputs(quantization);
  __m512 sums[rows][panels];
  loadSums(a, sums);
  const std::byte* x = a.x;
  const std::byte* groups = a.panel;
  for (int64_t left = a.depth; left > 0; left -= kGroupInputs) {
    PairScales<quantization> scales[panels];
#pragma GCC unroll 2
    for (int panel = 0; panel < panels; ++panel) scales[panel].load(groups + panel * a.panelStrideBytes);
    const std::byte* units = groups + kPackedScaleBytes;
    int64_t count = std::min(kGroupInputs, left);
    groups += groupBytes(quantization, count);
    for (; count >= perUnit; count -= perUnit, units += kUnitBytes, x += perUnit * inputBytes(inputs)) {
      addUnit<quantization, inputs>(sums, a, x, units, scales, perUnit);
    }
    if (count > 0) addUnit<quantization, inputs>(sums, a, x, units, scales, count);
    x += count * inputBytes(inputs);
  }
  storeSums(a, sums);
}

template <Quantization quantization, Inputs inputs, int rows = 1>
void fillQuantized(ChainTileSet& set, TileKind kind) {
  set.panels[kind][rows - 1] = 2;
  set.wide[kind][rows - 1] = quantizedTile<quantization, inputs, rows, 2>;
  set.single[kind][rows - 1] = quantizedTile<quantization, inputs, rows, 1>;
  if constexpr (rows < kQuantizedRowsMax) fillQuantized<quantization, inputs, rows + 1>(set, kind);
}

template <int rows>
void fillPairs(ChainTileSet& set) {
  constexpr TileKind kind = kTilePairs;
  constexpr int panels = rows <= 2 ? 8 : rows <= 4 ? 4 : 2;
  set.panels[kind][rows - 1] = panels;
  set.wide[kind][rows - 1] = tile<rows, panels>;
  set.single[kind][rows - 1] = tile<rows, 1>;
  if constexpr (rows < kTileRowsMax) fillPairs<rows + 1>(set);
}

ChainTileSet makeSet() {
  ChainTileSet set = avx512TileSet();
  set.isa = Isa::kAvx512Bf16;
  fillPairs<1>(set);
  fillQuantized<Quantization::kInt8, Inputs::kF32>(set, kTileInt8);
  fillQuantized<Quantization::kInt4, Inputs::kF32>(set, kTileInt4);
  fillQuantized<Quantization::kInt8, Inputs::kBf16>(set, kTileInt8Pairs);
  fillQuantized<Quantization::kInt4, Inputs::kBf16>(set, kTileInt4Pairs);
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
