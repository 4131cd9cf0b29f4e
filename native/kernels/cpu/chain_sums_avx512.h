// The chains of a tile in AVX-512 registers, from and to memory. Include only where HELS_X86 is defined.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/packed_matrix.h"

// GCC 12's own avx512fintrin.h passes deliberately undefined registers.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace hels::avx512 {

template <int rows, int panels>
HELS_AVX512 inline void loadSums(const TileArguments& a, __m512 (&sums)[rows][panels]) {
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const float* c = a.c + row * a.cStride + panel * kPanelColumns;
      sums[row][panel] = a.accumulate ? _mm512_loadu_ps(c) : _mm512_setzero_ps();
    }
  }
}

template <int rows, int panels>
HELS_AVX512 inline void storeSums(const TileArguments& a, const __m512 (&sums)[rows][panels]) {
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      _mm512_storeu_ps(a.c + row * a.cStride + panel * kPanelColumns, sums[row][panel]);
    }
  }
}

}  // namespace hels::avx512
