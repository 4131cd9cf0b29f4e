// The chain kernels with AVX-512: one register holds the 16 columns of a panel, up to fourteen rows at once.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/chain_sums_avx512.h"
#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/vector_avx2.h"
#include "kernels/cpu/widen_integers_avx512.h"

namespace hels {
namespace {

using avx2::Bf16;
using avx2::F16;
using avx512::loadSums;
using avx512::storeSums;

HELS_AVX512 inline __m512 load16(const float* source) { return _mm512_loadu_ps(source); }
HELS_AVX512 inline __m512 load16(const Bf16* source) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
HELS_AVX512 inline __m512 load16(const F16* source) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}

template <typename Weight, int rows, int panels>
HELS_AVX512 void tile(const TileArguments& a) {
  __m512 sums[rows][panels];
  loadSums(a, sums);
  const std::byte* x = a.x;
  const std::byte* weights = a.panel;
  for (int64_t k = 0; k < a.depth; ++k, x += sizeof(float), weights += kPanelColumns * sizeof(Weight)) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const __m512 w = load16(reinterpret_cast<const Weight*>(weights + panel * a.panelStrideBytes));
#pragma GCC unroll 16
      for (int row = 0; row < rows; ++row) {
        const __m512 value = _mm512_set1_ps(*reinterpret_cast<const float*>(x + row * a.xStrideBytes));
        sums[row][panel] = _mm512_fmadd_ps(value, w, sums[row][panel]);
      }
    }
  }
  storeSums(a, sums);
}

/// Adds a block's chains of `inputs` inputs to c(rows, 16): pairs of bf16 as two multiply-adds, for processors without
/// their dot product.
template <int rows>
HELS_AVX512 inline void addBlock(const TileArguments& a, const std::byte* x, const std::byte* weights, int64_t inputs,
                                 const float* scales) {
  const __m512i oddMask = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  __m512 even[rows], odd[rows];
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) even[row] = odd[row] = _mm512_setzero_ps();
  for (int64_t k = 0; k < inputs; k += 2, x += 2 * sizeof(uint16_t), weights += sizeof(__m512i)) {
    const __m512i pairs = _mm512_loadu_si512(weights);
    const __m512 wOdd = _mm512_castsi512_ps(_mm512_and_si512(pairs, oddMask));
    const __m512 wEven = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
      const __m512i pair = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x + row * a.xStrideBytes));
      odd[row] = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(pair, oddMask)), wOdd, odd[row]);
      even[row] = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)), wEven, even[row]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
    float* c = a.c + row * a.cStride;
    const __m512 chain = _mm512_loadu_ps(c);
    const __m512 ofBlock = avx512::sumOfBlock(even[row], odd[row], inputs);
    _mm512_storeu_ps(c, scales == nullptr ? _mm512_add_ps(chain, ofBlock)
                                          : avx512::withScaled(chain, ofBlock, _mm512_loadu_ps(scales)));
  }
}

template <int rows>
HELS_AVX512 __attribute__((noinline)) void pairsSums(const TileArguments& a) {
  if (!a.accumulate) {
    for (int row = 0; row < rows; ++row) _mm512_storeu_ps(a.c + row * a.cStride, _mm512_setzero_ps());
  }
  const std::byte* x = a.x;
  for (int64_t k = 0; k < a.depth; k += kBlockInputs) {
    const std::byte* weights = a.panel + k * kPanelColumns * static_cast<int64_t>(sizeof(uint16_t));
    const float* scales = a.scales == nullptr ? nullptr : a.scales + k / kBlockInputs * kPanelColumns;
    for (int term = 0; term < a.terms; ++term, x += a.xBlockBytes) {
      addBlock<rows>(a, x, weights, std::min(kBlockInputs, a.depth - k), scales);
    }
  }
}

template <int rows>
HELS_AVX512 void pairsTile(const TileArguments& a) {
  const avx2::SubnormalFlush flush;
  pairsSums<rows>(a);
}

/// The same as value * 2^32 rounded to nearest even: the product is exact, the conversion rounds.
HELS_AVX512 bool addFixedPoint(const float* values, int64_t* sums, int64_t count) {
  const __m256 scale = _mm256_set1_ps(static_cast<float>(kFixedPointScale));
  const __m512 limit = _mm512_set1_ps(kFixedPointLimit);
  __mmask16 bad = 0;
  for (int64_t i = 0; i < count; i += 16) {
    // NaN, too. Beside the sums, not one after the other as masked comparisons would be.
    bad |= _mm512_cmp_ps_mask(_mm512_abs_ps(_mm512_loadu_ps(values + i)), limit, _CMP_NLT_UQ);
    for (int64_t k = i; k < i + 16; k += 8) {
      const __m512i fixed = _mm512_cvtps_epi64(_mm256_mul_ps(_mm256_loadu_ps(values + k), scale));
      _mm512_storeu_si512(sums + k, _mm512_add_epi64(_mm512_loadu_si512(sums + k), fixed));
    }
  }
  return bad == 0;
}

constexpr int kRowsMax = 14;

template <typename Weight, int rows>
void fillRows(ChainTileSet& set, TileKind kind) {
  constexpr int panels = rows == 1 ? 8 : rows == 2 ? 4 : rows <= 6 ? 2 : 1;
  set.panels[kind][rows - 1] = panels;
  set.wide[kind][rows - 1] = tile<Weight, rows, panels>;
  set.single[kind][rows - 1] = tile<Weight, rows, 1>;
  if constexpr (rows < kRowsMax) fillRows<Weight, rows + 1>(set, kind);
}

template <int rows>
void fillPairs(ChainTileSet& set) {
  for (const TileKind kind : {kTilePairs, kTileScaled}) {
    set.panels[kind][rows - 1] = 1;
    set.wide[kind][rows - 1] = set.single[kind][rows - 1] = pairsTile<rows>;
  }
  if constexpr (rows < kRowsMax) fillPairs<rows + 1>(set);
}

ChainTileSet makeSet() {
  ChainTileSet set = avx2TileSet();  // conversions are bound by memory: eight lanes suffice
  set.isa = Isa::kAvx512;
  std::fill_n(set.rowsMax, kTileKinds, kRowsMax);
  fillRows<float, 1>(set, kTileF32);
  fillRows<Bf16, 1>(set, kTileBf16);
  fillRows<F16, 1>(set, kTileF16);
  fillPairs<1>(set);
  set.dequantize[0] = avx512::dequantize<Quantization::kInt8, PairOrder::kNeighbours>;
  set.dequantize[1] = avx512::dequantize<Quantization::kInt4, PairOrder::kNeighbours>;
  set.addFixedPoint = addFixedPoint;
  return set;
}

}  // namespace

const ChainTileSet& avx512TileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

}  // namespace hels

#endif
