// The chain kernels for bf16 inputs with the processor's bf16 dot product: one instruction takes a pair of inputs for
// the 16 columns of a panel. Measured to round as two multiply-adds, odd input first, subnormals as zero; the
// self-check at load compares it with the portable kernels on every machine.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <immintrin.h>

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
  return set;
}

}  // namespace

const ChainTileSet& avx512Bf16TileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

}  // namespace hels

#endif
