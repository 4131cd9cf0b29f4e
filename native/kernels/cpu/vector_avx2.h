// Loads of eight elements of any weight type as f32, for the AVX2 kernels. Include only where HELS_X86 is defined.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace hels::avx2 {

/// While this object lives, subnormal operands and results count as zero.
class SubnormalFlush {
 public:
  HELS_AVX2 SubnormalFlush() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero); }
  HELS_AVX2 ~SubnormalFlush() { _mm_setcsr(before_); }
  SubnormalFlush(const SubnormalFlush&) = delete;
  SubnormalFlush& operator=(const SubnormalFlush&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 0x8000;
  static constexpr unsigned kDenormalsAreZero = 0x0040;
  const unsigned before_;
};

/// Tags for the two 16-bit types, which share a storage type.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

HELS_AVX2 inline __m256 load8(const float* source) { return _mm256_loadu_ps(source); }
HELS_AVX2 inline __m256 load8(const Bf16* source) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
HELS_AVX2 inline __m256 load8(const F16* source) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}

}  // namespace hels::avx2
