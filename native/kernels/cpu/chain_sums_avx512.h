// The chains of a tile in AVX-512 registers, from and to memory. Include only where HELS_X86 is defined.
#pragma once

#include "kernels/cpu/avx512_intrinsics.h"
#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/packed_matrix.h"

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

/// Thirty-two values as f32ToBf16: to nearest even, NaN stays NaN and becomes quiet.
HELS_AVX512 inline __m512i roundedToBf16(__m512 first, __m512 second) {
  __m256i halves[2];
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const __m512 value = half == 0 ? first : second;
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i bias = _mm512_add_epi32(_mm512_set1_epi32(0x7FFF), _mm512_and_si512(upper, _mm512_set1_epi32(1)));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    halves[half] = _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
  }
  return _mm512_inserti64x4(_mm512_castsi256_si512(halves[0]), halves[1], 1);
}

/// What is left of 16 values that were rounded to the first or second half of `rounded`; exact.
HELS_AVX512 inline __m512 restOf(__m512 values, __m512i rounded, int half) {
  const __m256i bits = half == 0 ? _mm512_castsi512_si256(rounded) : _mm512_extracti64x4_epi64(rounded, 1);
  return _mm512_sub_ps(values, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
}

/// What a block of `inputs` inputs adds to a chain. A short one is filled up with zeros: -0 becomes +0.
HELS_AVX512 inline __m512 sumOfBlock(__m512 even, __m512 odd, int64_t inputs) {
  if (inputs < kBlockInputs) {
    even = _mm512_add_ps(even, _mm512_setzero_ps());
    odd = _mm512_add_ps(odd, _mm512_setzero_ps());
  }
  return _mm512_add_ps(even, odd);
}

/// The chain after such a block, whose weights have a scale.
HELS_AVX512 inline __m512 withScaled(__m512 chain, __m512 ofBlock, __m512 scale) {
  return _mm512_fmadd_ps(scale, _mm512_add_ps(ofBlock, _mm512_setzero_ps()), chain);
}

}  // namespace hels::avx512
