// The chain kernels for bf16 inputs with the processor's bf16 dot product: one instruction takes a pair of inputs for
// the 16 columns of a panel. Measured to round as two multiply-adds, odd input first, subnormals as zero; the
// self-check at load compares it with the portable kernels on every machine.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/packed_matrix.h"

// GCC 12's own avx512fintrin.h passes deliberately undefined registers.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace hels {
namespace {

template <int rows, int panels>
HELS_AVX512_BF16 void tile(const TileArguments& a) {
  __m512 sums[rows][panels];
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const float* c = a.c + row * a.cStride + panel * kPanelColumns;
      sums[row][panel] = a.accumulate ? _mm512_loadu_ps(c) : _mm512_setzero_ps();
    }
  }
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
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      _mm512_storeu_ps(a.c + row * a.cStride + panel * kPanelColumns, sums[row][panel]);
    }
  }
}

/// The scales of a panel's group beside its values: of columns 0 to 7 and 8 to 15, each for both inputs of a pair.
struct PairScales {
  __m512 low, high;
};
HELS_AVX512_BF16 inline PairScales loadScales(const std::byte* group) {
  const __m512i first = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512 scales = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group)));
  return {_mm512_permutexvar_ps(first, scales),
          _mm512_permutexvar_ps(_mm512_add_epi32(first, _mm512_set1_epi32(8)), scales)};
}

/// One row of pairs of the 16 columns. No value is subnormal, so the instruction rounds as f32ToBf16.
HELS_AVX512_BF16 inline void storePairs(uint16_t* target, __m512 low, __m512 high, const PairScales& scales) {
  const __m512bh pairs = _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, scales.high), _mm512_mul_ps(low, scales.low));
  _mm512_storeu_si512(target, (__m512i)pairs);
}

HELS_AVX512_BF16 inline __m512 int8At(const std::byte* values) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

HELS_AVX512_BF16 void dequantizeInt8(const std::byte* groups, int64_t inputs, uint16_t* target) {
  for (; inputs > 0; inputs -= kGroupInputs) {
    const int64_t count = std::min(kGroupInputs, inputs);
    const PairScales scales = loadScales(groups);
    const std::byte* values = groups + kPackedScaleBytes;
    for (int64_t k = 0; k < count; k += 2, values += 2 * kPanelColumns) {
      storePairs(target + k * kPanelColumns, int8At(values), int8At(values + kPanelColumns), scales);
    }
    groups += groupBytes(Quantization::kInt8, count);
    target += count * kPanelColumns;
  }
}

HELS_AVX512_BF16 void dequantizeInt4(const std::byte* groups, int64_t inputs, uint16_t* target) {
  const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  for (; inputs > 0; inputs -= kGroupInputs) {
    const int64_t count = std::min(kGroupInputs, inputs);
    const PairScales scales = loadScales(groups);
    const std::byte* values = groups + kPackedScaleBytes;
    for (int64_t k = 0; k < count; k += 8, values += sizeof(__m512i)) {
      const __m512i unit = _mm512_loadu_si512(values);
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair) {  // the table takes the lowest four bits of a lane
        const __m512 low = _mm512_permutexvar_ps(_mm512_srli_epi32(unit, static_cast<unsigned>(8 * pair)), table);
        const __m512 high = _mm512_permutexvar_ps(_mm512_srli_epi32(unit, static_cast<unsigned>(8 * pair + 4)), table);
        storePairs(target + (k + 2 * pair) * kPanelColumns, low, high, scales);
      }
    }
    groups += groupBytes(Quantization::kInt4, count);
    target += count * kPanelColumns;
  }
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
  set.dequantize[0] = dequantizeInt8;
  set.dequantize[1] = dequantizeInt4;
  return set;
}

}  // namespace

const ChainTileSet& avx512Bf16TileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

}  // namespace hels

#endif
