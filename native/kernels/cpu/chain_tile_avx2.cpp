// The chain kernels with AVX2 and FMA: two registers hold the 16 columns of a panel, up to six rows at once.
#include "kernels/cpu/chain_tile.h"

#ifdef HELS_X86

#include "kernels/cpu/fixed_point.h"
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
  const float* x = a.x;
  const std::byte* weights = a.panel;
  for (int64_t k = 0; k < a.depth; ++k, ++x, weights += kPanelColumns * sizeof(Weight)) {
#pragma GCC unroll 16
    for (int panel = 0; panel < panels; ++panel) {
      const auto* w = reinterpret_cast<const Weight*>(weights + panel * a.panelStrideBytes);
      _mm_prefetch(reinterpret_cast<const char*>(w) + kPrefetchBytes, _MM_HINT_T0);
      const __m256 low = load8(w);
      const __m256 high = load8(w + 8);
#pragma GCC unroll 16
      for (int row = 0; row < rows; ++row) {
        const __m256 value = _mm256_broadcast_ss(x + row * a.xStride);
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

template <typename Weight>
HELS_AVX2 void widenTyped(const Weight* source, float* target, int64_t count) {
  for (int64_t i = 0; i < count; i += 8) _mm256_storeu_ps(target + i, load8(source + i));
}

void widen(DataType type, const std::byte* source, float* target, int64_t count) {
  if (type == DataType::kF32) widenTyped(reinterpret_cast<const float*>(source), target, count);
  if (type == DataType::kBf16) widenTyped(reinterpret_cast<const Bf16*>(source), target, count);
  if (type == DataType::kF16) widenTyped(reinterpret_cast<const F16*>(source), target, count);
}

// value * 2^32 as high * 2^26 + low: high = round(value * 2^6) fits in 32 bits below the limit, the rest is exact in
// f32, and because high * 2^26 is an even integer, rounding the rest to nearest even rounds the whole to nearest even.
HELS_AVX2 inline void add8(__m256 value, int64_t* sums) {
  const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(value, _mm256_set1_ps(64.0F)));
  const __m256 rest = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(high), _mm256_set1_ps(1.0F / 64.0F), value);
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(4294967296.0F)));
  for (int half = 0; half < 2; ++half) {
    const __m128i high4 = half == 0 ? _mm256_castsi256_si128(high) : _mm256_extracti128_si256(high, 1);
    const __m128i low4 = half == 0 ? _mm256_castsi256_si128(low) : _mm256_extracti128_si256(low, 1);
    const __m256i fixed =
        _mm256_add_epi64(_mm256_slli_epi64(_mm256_cvtepi32_epi64(high4), 26), _mm256_cvtepi32_epi64(low4));
    auto* target = reinterpret_cast<__m256i*>(sums + 4 * half);
    _mm256_storeu_si256(target, _mm256_add_epi64(_mm256_loadu_si256(target), fixed));
  }
}

HELS_AVX2 bool addFixedPoint(const float* values, int64_t* sums) {
  const __m256 first = _mm256_loadu_ps(values);
  const __m256 second = _mm256_loadu_ps(values + 8);
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const __m256 limit = _mm256_set1_ps(kFixedPointLimit);
  const __m256 good = _mm256_and_ps(_mm256_cmp_ps(_mm256_and_ps(first, magnitude), limit, _CMP_LT_OQ),
                                    _mm256_cmp_ps(_mm256_and_ps(second, magnitude), limit, _CMP_LT_OQ));
  if (_mm256_movemask_ps(good) != 0xff) return false;
  add8(first, sums);
  add8(second, sums + 8);
  return true;
}

template <typename Weight>
void fillKernels(ChainTileSet& set, DataType type) {
  const auto index = static_cast<int>(type);
  const TileKernel wide[6] = {tile<Weight, 1, 4>, tile<Weight, 2, 2>, tile<Weight, 3, 2>,
                              tile<Weight, 4, 1>, tile<Weight, 5, 1>, tile<Weight, 6, 1>};
  const TileKernel single[6] = {tile<Weight, 1, 1>, tile<Weight, 2, 1>, tile<Weight, 3, 1>,
                                tile<Weight, 4, 1>, tile<Weight, 5, 1>, tile<Weight, 6, 1>};
  for (int row = 0; row < 6; ++row) {
    set.wide[index][row] = wide[row];
    set.single[index][row] = single[row];
  }
}

ChainTileSet makeSet() {
  ChainTileSet set;
  set.isa = Isa::kAvx2;
  set.rowsMax = 6;
  const int panels[6] = {4, 2, 2, 1, 1, 1};
  for (int row = 0; row < 6; ++row) set.panels[row] = panels[row];
  fillKernels<float>(set, DataType::kF32);
  fillKernels<Bf16>(set, DataType::kBf16);
  fillKernels<F16>(set, DataType::kF16);
  set.widen = widen;
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
