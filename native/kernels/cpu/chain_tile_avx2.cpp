// The chain kernels with AVX2 and FMA: two registers hold the 16 columns of a panel, up to six rows at once.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include <algorithm>

#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/narrow_blocks.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/vector_avx2.h"

namespace hels {
namespace {

using avx2::Bf16;
using avx2::F16;
using avx2::load8;

constexpr int64_t kPrefetchBytes = 1024;  // ahead of the hardware: few streams of weights do not keep memory busy

template <typename Weight, int rows, int panels>
HELS_AVX2 void tile(const TileArguments& a) {
  __m256 sums[rows][panels][2];
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const float* c = a.c + row * a.cStride + panel * kPanelColumns;
      sums[row][panel][0] = a.accumulate ? _mm256_loadu_ps(c) : _mm256_setzero_ps();
      sums[row][panel][1] = a.accumulate ? _mm256_loadu_ps(c + 8) : _mm256_setzero_ps();
    }
  }
  const std::byte* x = a.x;
  const std::byte* weights = a.panel;
  for (int64_t k = 0; k < a.depth; ++k, x += sizeof(float), weights += kPanelColumns * sizeof(Weight)) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const auto* w = reinterpret_cast<const Weight*>(weights + panel * a.panelStrideBytes);
      _mm_prefetch(reinterpret_cast<const char*>(w) + kPrefetchBytes, _MM_HINT_T0);
      const __m256 low = load8(w);
      const __m256 high = load8(w + 8);
#pragma GCC unroll 16
      for (int row = 0; row < rows; ++row) {
        const __m256 value = _mm256_broadcast_ss(reinterpret_cast<const float*>(x + row * a.xStrideBytes));
        sums[row][panel][0] = _mm256_fmadd_ps(value, low, sums[row][panel][0]);
        sums[row][panel][1] = _mm256_fmadd_ps(value, high, sums[row][panel][1]);
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      float* c = a.c + row * a.cStride + panel * kPanelColumns;
      _mm256_storeu_ps(c, sums[row][panel][0]);
      _mm256_storeu_ps(c + 8, sums[row][panel][1]);
    }
  }
}

/// Eight pairs of bf16 as their odd and their even halves, widened.
struct PairsOfEight {
  __m256 odd, even;
};
HELS_AVX2 inline PairsOfEight split8(__m256i pairs) {
  return {_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000U)))),
          _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))};
}

/// The chain after a block; `scales` of its 8 columns, or null.
HELS_AVX2 inline __m256 withBlock(__m256 chain, __m256 ofBlock, const float* scales) {
  if (scales == nullptr) return _mm256_add_ps(chain, ofBlock);
  return _mm256_fmadd_ps(_mm256_loadu_ps(scales), _mm256_add_ps(ofBlock, _mm256_setzero_ps()), chain);
}

/// Adds a block's chains of `inputs` inputs to c(rows, 8).
template <int rows>
HELS_AVX2 inline void addBlock(const TileArguments& a, const std::byte* x, const __m256i* weights, int64_t inputs,
                               const float* scales, float* c) {
  PairsOfEight sums[rows];
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) sums[row].even = sums[row].odd = _mm256_setzero_ps();
  for (int64_t k = 0; k < inputs; k += 2, x += 2 * sizeof(uint16_t), weights += 2) {
    const PairsOfEight w = split8(_mm256_loadu_si256(weights));
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
      const PairsOfEight value = split8(_mm256_set1_epi32(*reinterpret_cast<const int32_t*>(x + row * a.xStrideBytes)));
      sums[row].even = _mm256_fmadd_ps(value.even, w.even, sums[row].even);
      sums[row].odd = _mm256_fmadd_ps(value.odd, w.odd, sums[row].odd);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
    if (inputs < kBlockInputs) {  // what zeros come to: -0 becomes +0
      sums[row].even = _mm256_add_ps(sums[row].even, _mm256_setzero_ps());
      sums[row].odd = _mm256_add_ps(sums[row].odd, _mm256_setzero_ps());
    }
    float* target = c + row * a.cStride;
    const __m256 ofBlock = _mm256_add_ps(sums[row].even, sums[row].odd);
    _mm256_storeu_ps(target, withBlock(_mm256_loadu_ps(target), ofBlock, scales));
  }
}

/// One half (8 columns) of a panel, so that the chains of six rows and the operands share sixteen registers.
template <int rows>
HELS_AVX2 inline void pairsHalf(const TileArguments& a, int64_t half) {
  float* c = a.c + 8 * half;
  if (!a.accumulate) {
    for (int row = 0; row < rows; ++row) _mm256_storeu_ps(c + row * a.cStride, _mm256_setzero_ps());
  }
  const std::byte* x = a.x;
  for (int64_t k = 0; k < a.depth; k += kBlockInputs) {
    const auto* weights = reinterpret_cast<const __m256i*>(a.panel) + k + half;
    const float* scales = a.scales == nullptr ? nullptr : a.scales + k / kBlockInputs * kPanelColumns + 8 * half;
    for (int term = 0; term < a.terms; ++term, x += a.xBlockBytes) {
      addBlock<rows>(a, x, weights, std::min(kBlockInputs, a.depth - k), scales, c);
    }
  }
}

/// A function of its own, so that no arithmetic moves out of the caller's SubnormalFlush.
template <int rows>
HELS_AVX2 __attribute__((noinline)) void pairsHalves(const TileArguments& a) {
  for (int64_t half = 0; half < 2; ++half) pairsHalf<rows>(a, half);
}

template <int rows>
HELS_AVX2 void pairsTile(const TileArguments& a) {
  const avx2::SubnormalFlush flush;
  pairsHalves<rows>(a);
}

template <typename Weight>
HELS_AVX2 void widenTyped(const Weight* source, float* target, int64_t count) {
  for (int64_t i = 0; i < count; i += 8) _mm256_storeu_ps(target + i, load8(source + i));
}

void widen(DataType type, const std::byte* source, float* target, int64_t count) {
  if (type == DataType::kBf16) widenTyped(reinterpret_cast<const Bf16*>(source), target, count);
  if (type == DataType::kF16) widenTyped(reinterpret_cast<const F16*>(source), target, count);
}

/// As f32ToBf16: to nearest even, NaN stays NaN and becomes quiet.
HELS_AVX2 void narrow(const float* source, uint16_t* target, int64_t count) {
  const __m256i one = _mm256_set1_epi32(1);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 value = _mm256_loadu_ps(source + i);
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i bias = _mm256_add_epi32(_mm256_set1_epi32(0x7FFF), _mm256_and_si256(high, one));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i result = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), packed);
  }
  for (; i < count; ++i) target[i] = f32ToBf16(source[i]);
}

void narrowBlocks(const float* source, int64_t count, int terms, uint16_t* target, int64_t stride) {
  narrowNeighbours(source, count, terms, target, stride, narrow);
}

/// Eight integers of one input as floats; `unit` is that of the 8 columns.
template <Quantization quantization>
HELS_AVX2 inline __m256i floatsAt(const std::byte* unit, int64_t input) {
  if constexpr (quantization == Quantization::kInt8) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(unit + input * kPanelColumns));
    return _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
  }
  const __m256i lanes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(unit));
  const __m256i upmost = _mm256_slli_epi32(lanes, 28 - kNibbleBits[input]);
  return _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_srai_epi32(upmost, 28)));
}

template <Quantization quantization>
HELS_AVX2 void dequantize(const std::byte* groups, int64_t inputs, uint16_t* target, float* scales) {
  constexpr int64_t perUnit = unitInputs(quantization);
  constexpr int64_t half = quantization == Quantization::kInt8 ? 8 : 32;  // bytes to the upper 8 columns
  for (; inputs > 0; inputs -= kGroupInputs, scales += kPanelColumns) {
    const int64_t count = std::min(kGroupInputs, inputs);
    widenTyped(reinterpret_cast<const F16*>(groups), scales, kPanelColumns);
    const std::byte* units = groups + kPackedScaleBytes;
    for (int64_t k = 0; k < count; k += perUnit, units += kUnitBytes) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < perUnit; ++i) {  // two to a pair of inputs, for 8 columns each
        const std::byte* unit = units + i % 2 * half;
        const __m256i even = floatsAt<quantization>(unit, i / 2 * 2);
        const __m256i odd = floatsAt<quantization>(unit, i / 2 * 2 + 1);
        const __m256i pairs = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xAA);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + (k + i) * kPanelColumns), pairs);
      }
    }
    groups += groupBytes(quantization, count);
    target += count * kPanelColumns;
  }
}

// value * 2^32 as high * 2^26 + low: high = round(value * 2^6) fits in 32 bits below the limit, the rest is exact in
// f32, and because high * 2^26 is an even integer, rounding the rest to nearest even rounds the whole to nearest even.
HELS_AVX2 inline void add8(__m256 value, int64_t* sums) {
  const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(value, _mm256_set1_ps(64.0F)));
  const __m256 rest = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(high), _mm256_set1_ps(1.0F / 64.0F), value);
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(4294967296.0F)));
  for (int64_t half = 0; half < 2; ++half) {
    const __m128i high4 = half == 0 ? _mm256_castsi256_si128(high) : _mm256_extracti128_si256(high, 1);
    const __m128i low4 = half == 0 ? _mm256_castsi256_si128(low) : _mm256_extracti128_si256(low, 1);
    const __m256i fixed =
        _mm256_add_epi64(_mm256_slli_epi64(_mm256_cvtepi32_epi64(high4), 26), _mm256_cvtepi32_epi64(low4));
    auto* target = reinterpret_cast<__m256i*>(sums + 4 * half);
    _mm256_storeu_si256(target, _mm256_add_epi64(_mm256_loadu_si256(target), fixed));
  }
}

HELS_AVX2 bool addFixedPoint(const float* values, int64_t* sums, int64_t count) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const __m256 limit = _mm256_set1_ps(kFixedPointLimit);
  __m256 good = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  for (int64_t i = 0; i < count; i += 8) {
    const __m256 value = _mm256_loadu_ps(values + i);
    good = _mm256_and_ps(good, _mm256_cmp_ps(_mm256_and_ps(value, magnitude), limit, _CMP_LT_OQ));
    add8(value, sums + i);
  }
  return _mm256_movemask_ps(good) == 0xff;
}

constexpr int kRowsMax = 6;

template <typename Weight, int rows>
void fillRows(ChainTileSet& set, TileKind kind) {
  constexpr int panels = rows == 1 ? 4 : rows <= 3 ? 2 : 1;
  set.panels[kind][rows - 1] = panels;
  set.wide[kind][rows - 1] = tile<Weight, rows, panels>;
  set.single[kind][rows - 1] = tile<Weight, rows, 1>;
  if constexpr (rows < kRowsMax) fillRows<Weight, rows + 1>(set, kind);
}

template <int rows>
void fillPairs(ChainTileSet& set) {
  for (const TileKind kind : {kTilePairs, kTileScaled}) {
    set.panels[kind][rows - 1] = 1;
    set.wide[kind][rows - 1] = set.single[kind][rows - 1] = pairsTile<rows>;
  }
  if constexpr (rows < kRowsMax) fillPairs<rows + 1>(set);
}

ChainTileSet makeSet() {
  ChainTileSet set;
  set.isa = Isa::kAvx2;
  std::fill_n(set.rowsMax, kTileKinds, kRowsMax);
  fillRows<float, 1>(set, kTileF32);
  fillRows<Bf16, 1>(set, kTileBf16);
  fillRows<F16, 1>(set, kTileF16);
  fillPairs<1>(set);
  set.widen = widen;
  set.narrow = narrow;
  set.narrowBlocks = narrowBlocks;
  set.dequantize[0] = dequantize<Quantization::kInt8>;
  set.dequantize[1] = dequantize<Quantization::kInt4>;
  set.addFixedPoint = addFixedPoint;
  return set;
}

}  // namespace

const ChainTileSet& avx2TileSet() {
  static const ChainTileSet set = makeSet();
  return set;
}

}  // namespace hels

#endif
