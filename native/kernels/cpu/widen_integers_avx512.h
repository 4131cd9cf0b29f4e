// Integers of quantised weights as bf16, with AVX-512. Include only where HELS_X86 is defined.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/quantization.h"
#include "kernels/cpu/avx512_intrinsics.h"
#include "kernels/cpu/packed_matrix.h"

namespace hels::avx512 {

inline constexpr __mmask32 kUpperHalves = 0xAAAAAAAA;
inline constexpr int64_t kPrefetchBytes = 1600;  // ahead of the hardware, which does not keep memory busy

/// 16 integers of 8 bits as floats: the upper halves are bf16, the lower ones zero.
HELS_AVX512 inline __m512i floatsOf(const std::byte* integers) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(integers));
  return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
}

HELS_AVX512 inline __m512i pairOf(__m512i first, __m512i second) {
  return _mm512_mask_blend_epi16(kUpperHalves, _mm512_srli_epi32(first, 16), second);
}

/// Four inputs of 8 bits: (2, 0), (3, 1) or (0, 1), (2, 3).
template <PairOrder order>
HELS_AVX512 inline void widenFour(const std::byte* unit, __m512i* pairs) {
  __m512i inputs[4];
#pragma GCC unroll 4
  for (int64_t i = 0; i < 4; ++i) inputs[i] = floatsOf(unit + i * kPanelColumns);
  constexpr bool straddled = order == PairOrder::kStraddled;
  pairs[0] = pairOf(inputs[straddled ? 2 : 0], inputs[straddled ? 0 : 1]);
  pairs[1] = pairOf(inputs[straddled ? 3 : 2], inputs[straddled ? 1 : 3]);
}

/// bf16 of the integers by their bits; by five of them, so that what lies above a nibble does not matter.
HELS_AVX512 inline __m512i nibbleTable() {
  return _mm512_broadcast_i32x8(_mm256_setr_epi16(0, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0,
                                                  static_cast<int16_t>(0xC100), static_cast<int16_t>(0xC0E0),
                                                  static_cast<int16_t>(0xC0C0), static_cast<int16_t>(0xC0A0),
                                                  static_cast<int16_t>(0xC080), static_cast<int16_t>(0xC040),
                                                  static_cast<int16_t>(0xC000), static_cast<int16_t>(0xBF80)));
}

/// Four inputs of 4 bits, the lowest of each half and the next ones.
template <PairOrder order>
HELS_AVX512 inline void widenNibbles(__m512i unit, __m512i* pairs) {
  const __m512i even = _mm512_permutexvar_epi16(unit, nibbleTable());                       // inputs 2 and 0
  const __m512i odd = _mm512_permutexvar_epi16(_mm512_srli_epi16(unit, 4), nibbleTable());  // inputs 3 and 1
  constexpr bool straddled = order == PairOrder::kStraddled;
  pairs[0] = straddled ? even : pairOf(even, odd);
  pairs[1] = straddled ? odd : _mm512_mask_blend_epi16(kUpperHalves, even, _mm512_slli_epi32(odd, 16));
}

/// Pairs of a unit's inputs.
template <Quantization quantization>
inline constexpr int kUnitPairs = static_cast<int>(unitInputs(quantization) / 2);

template <Quantization quantization, PairOrder order>
HELS_AVX512 inline void widenUnit(const std::byte* unit, __m512i (&pairs)[kUnitPairs<quantization>]) {
  if constexpr (quantization == Quantization::kInt8) {
    widenFour<order>(unit, pairs);
  } else {
    const __m512i lanes = _mm512_loadu_si512(unit);
    widenNibbles<order>(lanes, pairs);
    widenNibbles<order>(_mm512_srli_epi16(lanes, 8), pairs + 2);
  }
}

/// The integers of a group's units: `inputs` rounded up to whole units. `ahead`: what to ask memory for meanwhile.
template <Quantization quantization, PairOrder order>
HELS_AVX512 inline void widenGroup(const std::byte* units, int64_t inputs, const std::byte* ahead, uint16_t* target) {
  constexpr int64_t kPairs = kUnitPairs<quantization>;
  for (int64_t k = 0; k < inputs; k += 2 * kPairs, units += kUnitBytes, ahead += kUnitBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
    __m512i pairs[kPairs];
    widenUnit<quantization, order>(units, pairs);
#pragma GCC unroll 4
    for (int64_t i = 0; i < kPairs; ++i, target += 2 * kPanelColumns) _mm512_storeu_si512(target, pairs[i]);
  }
}

HELS_AVX512 inline __m512 scalesOf(const std::byte* group) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group)));
}

/// As ChainTileSet::dequantize.
template <Quantization quantization, PairOrder order>
HELS_AVX512 void dequantize(const std::byte* groups, int64_t inputs, uint16_t* target, float* scales) {
  for (; inputs > 0; inputs -= kGroupInputs) {
    const int64_t count = std::min(kGroupInputs, inputs);
    _mm512_storeu_ps(scales, scalesOf(groups));
    widenGroup<quantization, order>(groups + kPackedScaleBytes, count, groups + kPrefetchBytes, target);
    groups += groupBytes(quantization, count);
    target += count * kPanelColumns;
    scales += kPanelColumns;
  }
}

}  // namespace hels::avx512
