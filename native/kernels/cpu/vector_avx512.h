// Loads of sixteen elements of any weight type as f32, and exp, for the AVX-512 kernels. Include only where HELS_X86 is
// defined.
#pragma once

#include <cstdint>

#include "kernels/cpu/avx512_intrinsics.h"
#include "kernels/cpu/exponential.h"
#include "kernels/cpu/vector_avx2.h"

namespace hels::avx512 {

HELS_AVX512 inline __m512 widened(const avx2::Bf16*, __m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
HELS_AVX512 inline __m512 widened(const avx2::F16*, __m256i bits) { return _mm512_cvtph_ps(bits); }

HELS_AVX512 inline __m512 load16(const float* source) { return _mm512_loadu_ps(source); }
template <typename Half>
HELS_AVX512 inline __m512 load16(const Half* source) {
  return widened(source, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}

/// Only the lanes in `lanes` are read, the others are 0.
HELS_AVX512 inline __m512 load16(const float* source, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, source); }
template <typename Half>
HELS_AVX512 inline __m512 load16(const Half* source, __mmask16 lanes) {
  return widened(source, _mm256_maskz_loadu_epi16(lanes, source));
}

/// expF32 of sixteen values.
HELS_AVX512 inline __m512 exp16(__m512 value) {
  using namespace exponential;
  const __m512 x = _mm512_min_ps(_mm512_set1_ps(kHighest), value);  // the second operand survives when it is NaN
  const __m512 n =
      _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(kMinusLn2High), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(kMinusLn2Low), r);
  __m512 sum = _mm512_set1_ps(kTerms[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(kTerms[i]));
  const __m512i power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
  const __mmask16 zero = _mm512_cmp_ps_mask(value, _mm512_set1_ps(kLowest), _CMP_LT_OQ);
  return _mm512_maskz_mul_ps(static_cast<__mmask16>(~zero), sum, _mm512_castsi512_ps(power));
}

}  // namespace hels::avx512
