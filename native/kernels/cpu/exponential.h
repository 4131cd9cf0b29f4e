// exp() in f32 by a fixed sequence of fused operations, so that every instruction set and C library gives the same
// bits. Range reduction by ln 2 in two parts (Cody and Waite), then the Taylor polynomial of degree 7 on |r| <=
// ln(2)/2: relative error below 2e-7.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "kernels/cpu/isa.h"

namespace hels {

namespace exponential {
inline constexpr float kLowest = -87.3F;  // below: 0
inline constexpr float kHighest = 88.3F;  // above: the value there, 2.2e38
inline constexpr float kLog2E = 1.44269504F;
inline constexpr float kMinusLn2High = -0.693359375F;
inline constexpr float kMinusLn2Low = 2.12194440e-4F;
inline constexpr float kTerms[] = {1.0F / 5040, 1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F};
}  // namespace exponential

/// The definition. NaN gives NaN.
inline float expF32(float value) {
  using namespace exponential;
  if (std::isnan(value)) return value;
  if (value < kLowest) return 0.0F;
  const float x = value > kHighest ? kHighest : value;
  const float n = std::nearbyint(x * kLog2E);
  float r = std::fma(n, kMinusLn2High, x);
  r = std::fma(n, kMinusLn2Low, r);
  float sum = kTerms[0];
  for (int i = 1; i < 8; ++i) sum = std::fma(sum, r, kTerms[i]);
  const auto bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return sum * power;
}

#ifdef HELS_X86
namespace avx2 {

/// expF32 of eight values.
HELS_AVX2 inline __m256 exp8(__m256 value) {
  using namespace exponential;
  const __m256 x = _mm256_min_ps(_mm256_set1_ps(kHighest), value);  // the second operand survives when it is NaN
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(kMinusLn2High), x);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(kMinusLn2Low), r);
  __m256 sum = _mm256_set1_ps(kTerms[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(kTerms[i]));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  const __m256 result = _mm256_mul_ps(sum, _mm256_castsi256_ps(power));
  return _mm256_andnot_ps(_mm256_cmp_ps(value, _mm256_set1_ps(kLowest), _CMP_LT_OQ), result);
}

}  // namespace avx2
#endif

}  // namespace hels
