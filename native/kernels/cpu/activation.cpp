#include "kernels/cpu/activation.h"

#include "kernels/cpu/exponential.h"

namespace hels {
namespace {

float siluOf(float value) { return value / (1.0F + expF32(-value)); }

#ifdef HELS_X86
HELS_AVX2 int64_t siluAvx2(float* values, const float* factors, int64_t count) {
  const __m256 one = _mm256_set1_ps(1.0F);
  const __m256 sign = _mm256_set1_ps(-0.0F);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 value = _mm256_loadu_ps(values + i);
    const __m256 divisor = _mm256_add_ps(one, avx2::exp8(_mm256_xor_ps(value, sign)));
    const __m256 result = _mm256_div_ps(value, divisor);
    _mm256_storeu_ps(values + i, factors == nullptr ? result : _mm256_mul_ps(result, _mm256_loadu_ps(factors + i)));
  }
  return i;
}

HELS_AVX2 int64_t exponentialsAvx2(float* values, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(values + i, avx2::exp8(_mm256_loadu_ps(values + i)));
  return i;
}
#endif

}  // namespace

void silu(float* values, const float* factors, int64_t count, Isa isa) {
  int64_t i = 0;
#ifdef HELS_X86
  if (isa != Isa::kPortable) i = siluAvx2(values, factors, count);
#else
  (void)isa;
#endif
  for (; i < count; ++i) {
    const float value = siluOf(values[i]);
    values[i] = factors == nullptr ? value : value * factors[i];
  }
}

void exponentials(float* values, int64_t count, Isa isa) {
  int64_t i = 0;
#ifdef HELS_X86
  if (isa != Isa::kPortable) i = exponentialsAvx2(values, count);
#else
  (void)isa;
#endif
  for (; i < count; ++i) values[i] = expF32(values[i]);
}

void relu(float* values, const float* factors, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = values[i] < 0.0F ? 0.0F : values[i];
    values[i] = factors == nullptr ? value : value * factors[i];
  }
}

}  // namespace hels
