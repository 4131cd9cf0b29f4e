// The chain kernels with AVX-512: one register holds the 16 columns of a panel, up to fourteen rows at once.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <immintrin.h>

#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/vector_avx2.h"

// GCC 12's own avx512fintrin.h passes deliberately undefined registers.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace hels {
namespace {

using avx2::Bf16;
using avx2::F16;

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
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const float* c = a.c + row * a.cStride + panel * kPanelColumns;
      sums[row][panel] = a.accumulate ? _mm512_loadu_ps(c) : _mm512_setzero_ps();
    }
  }
  const float* x = a.x;
  const std::byte* weights = a.panel;
  for (int64_t k = 0; k < a.depth; ++k, ++x, weights += kPanelColumns * sizeof(Weight)) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const __m512 w = load16(reinterpret_cast<const Weight*>(weights + panel * a.panelStrideBytes));
#pragma GCC unroll 16
      for (int row = 0; row < rows; ++row) {
        sums[row][panel] = _mm512_fmadd_ps(_mm512_set1_ps(x[row * a.xStride]), w, sums[row][panel]);
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

template <typename Weight, int rows>
void fillRow(ChainTileSet& set, int type) {
  constexpr int panels = rows == 1 ? 8 : rows == 2 ? 4 : rows <= 6 ? 2 : 1;
  set.panels[rows - 1] = panels;
  set.wide[type][rows - 1] = tile<Weight, rows, panels>;
  set.single[type][rows - 1] = tile<Weight, rows, 1>;
  if constexpr (rows < kTileRowsMax) fillRow<Weight, rows + 1>(set, type);
}

ChainTileSet makeSet() {
  ChainTileSet set = avx2TileSet();  // widening and fixed-point sums are bound by memory: eight lanes suffice
  set.isa = Isa::kAvx512;
  set.rowsMax = kTileRowsMax;
  fillRow<float, 1>(set, static_cast<int>(DataType::kF32));
  fillRow<Bf16, 1>(set, static_cast<int>(DataType::kBf16));
  fillRow<F16, 1>(set, static_cast<int>(DataType::kF16));
  return set;
}

}  // namespace

const ChainTileSet& avx512TileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

}  // namespace hels

#endif
