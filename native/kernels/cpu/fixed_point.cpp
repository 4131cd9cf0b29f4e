#include "kernels/cpu/fixed_point.h"

#ifdef HELS_X86
#include "kernels/cpu/vector_avx512.h"
#endif

namespace hels {
namespace {

#ifdef HELS_X86
/// The division by a power of two is exact, and so is the product with its inverse.
HELS_AVX512 int64_t addEights(const int64_t* sums, const float* bias, int64_t count, float* residual) {
  const __m512d inverse = _mm512_set1_pd(1.0 / kFixedPointScale);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m512d value = _mm512_mul_pd(_mm512_cvtepi64_pd(_mm512_loadu_si512(sums + i)), inverse);
    __m256 sum = _mm512_cvtpd_ps(value);
    if (bias != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(bias + i));
    _mm256_storeu_ps(residual + i, _mm256_add_ps(_mm256_loadu_ps(residual + i), sum));
  }
  return i;
}
#endif

}  // namespace

void addFromFixedPoint(const int64_t* sums, const float* bias, int64_t count, float* residual, Isa isa) {
  int64_t i = 0;
#ifdef HELS_X86
  if (isa >= Isa::kAvx512) i = addEights(sums, bias, count, residual);
#else
  (void)isa;
#endif
  for (; i < count; ++i) {
    const float sum = fromFixedPoint(sums[i]);
    residual[i] += bias == nullptr ? sum : sum + bias[i];
  }
}

}  // namespace hels
