// The attention kernels with AVX2 and FMA: lanes are positions for scores and head dimensions for values.
#include "kernels/cpu/attention_kernels.h"

#ifdef HELS_X86

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/exponential.h"
#include "kernels/cpu/vector_avx2.h"

namespace hels {
namespace {

using avx2::Bf16;
using avx2::exp8;
using avx2::F16;
using avx2::load8;

constexpr int64_t kLanes = 8;

HELS_AVX2 inline float widen(float value) { return value; }
HELS_AVX2 inline float widen(Bf16 value) { return bf16ToF32(value.bits); }
HELS_AVX2 inline float widen(F16 value) { return f16ToF32(value.bits); }

template <typename Element, int rows, int tiles>
HELS_AVX2 void scoreTiles(int64_t headDim, const float* const* queries, const ChunkTiles& keys, int64_t firstTile,
                          float* result) {
  constexpr auto kRowBytes = static_cast<int64_t>(kAttentionTileTokens * sizeof(Element));
  __m256 sums[rows][tiles][2];
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 8
    for (int tile = 0; tile < tiles; ++tile) sums[row][tile][0] = sums[row][tile][1] = _mm256_setzero_ps();
  }
  for (int64_t d = 0; d < headDim; ++d) {
#pragma GCC unroll 8
    for (int tile = 0; tile < tiles; ++tile) {
      const auto* key = reinterpret_cast<const Element*>(keys.data[firstTile + tile] + d * kRowBytes);
      if (d * kRowBytes % kLineBytes == 0) askFor(keys.ahead[firstTile + tile] + d * kRowBytes);
      const __m256 low = load8(key);
      const __m256 high = load8(key + kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row) {
        const __m256 query = _mm256_broadcast_ss(queries[row] + d);
        sums[row][tile][0] = _mm256_fmadd_ps(query, low, sums[row][tile][0]);
        sums[row][tile][1] = _mm256_fmadd_ps(query, high, sums[row][tile][1]);
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 8
    for (int tile = 0; tile < tiles; ++tile) {
      float* target = result + row * kAttentionChunkTokens + tile * kAttentionTileTokens;
      _mm256_storeu_ps(target, sums[row][tile][0]);
      _mm256_storeu_ps(target + kLanes, sums[row][tile][1]);
    }
  }
}

template <typename Element>
void scoresTyped(int64_t headDim, const float* const* queries, int rows, const ChunkTiles& keys, int64_t firstTile,
                 int64_t endTile, float* result) {
  int row = 0;
  for (; row + 4 <= rows; row += 4) {
    for (int64_t tile = firstTile; tile < endTile; ++tile) {
      scoreTiles<Element, 4, 1>(headDim, queries + row, keys, tile,
                                result + row * kAttentionChunkTokens + tile * kAttentionTileTokens);
    }
  }
  for (; row < rows; ++row) {  // few rows take several tiles, to have enough chains in flight
    float* target = result + row * kAttentionChunkTokens;
    int64_t tile = firstTile;
    for (; tile + 4 <= endTile; tile += 4) {
      scoreTiles<Element, 1, 4>(headDim, queries + row, keys, tile, target + tile * kAttentionTileTokens);
    }
    for (; tile < endTile; ++tile) {
      scoreTiles<Element, 1, 1>(headDim, queries + row, keys, tile, target + tile * kAttentionTileTokens);
    }
  }
}

void scores(DataType type, int64_t headDim, const float* const* queries, int rows, const ChunkTiles& keys,
            int64_t firstTile, int64_t endTile, float* result) {
  if (type == DataType::kF32) return scoresTyped<float>(headDim, queries, rows, keys, firstTile, endTile, result);
  if (type == DataType::kBf16) return scoresTyped<Bf16>(headDim, queries, rows, keys, firstTile, endTile, result);
  scoresTyped<F16>(headDim, queries, rows, keys, firstTile, endTile, result);
}

HELS_AVX2 void softmax(float* row, int64_t begin, int64_t end, float scale, float* maximum, float* sum) {
  const __m256 none = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256 highest = none;
  __m256 hidden[kAttentionChunkTokens / kLanes];
#pragma GCC unroll 8
  for (int64_t j = 0; j < kAttentionChunkTokens; j += kLanes) {
    const __m256i position = _mm256_add_epi32(lane, _mm256_set1_epi32(static_cast<int>(j)));
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(begin)), position);
    const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(end)), position);
    hidden[j / kLanes] = _mm256_castsi256_ps(_mm256_or_si256(before, _mm256_xor_si256(inside, _mm256_set1_epi32(-1))));
    const __m256 score = _mm256_mul_ps(_mm256_loadu_ps(row + j), _mm256_set1_ps(scale));
    const __m256 masked = _mm256_blendv_ps(score, none, hidden[j / kLanes]);
    _mm256_storeu_ps(row + j, masked);
    highest = _mm256_max_ps(highest, masked);
  }
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, highest);
  *maximum = lanes[0];
  for (int64_t i = 1; i < kLanes; ++i) *maximum = *maximum > lanes[i] ? *maximum : lanes[i];
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
#pragma GCC unroll 8
  for (int64_t j = 0; j < kAttentionChunkTokens; j += kLanes) {
    const __m256 weight = exp8(_mm256_sub_ps(_mm256_loadu_ps(row + j), _mm256_set1_ps(*maximum)));
    const __m256 visible = _mm256_andnot_ps(hidden[j / kLanes], weight);
    _mm256_storeu_ps(row + j, visible);
    sums[j / kLanes % 2] = _mm256_add_ps(sums[j / kLanes % 2], visible);
  }
  const __m256 eight = _mm256_add_ps(sums[0], sums[1]);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  *sum = _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

template <typename Element, int rows, int vectors>
HELS_AVX2 void valueVectors(int64_t headDim, int64_t d, const float* weights, const ChunkTiles& tiles, int64_t begin,
                            int64_t end, float* outputs, int64_t outputStride) {
  __m256 sums[rows][vectors];
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 8
    for (int vector = 0; vector < vectors; ++vector) sums[row][vector] = _mm256_setzero_ps();
  }
  constexpr auto kBytes = static_cast<int64_t>(vectors * kLanes * sizeof(Element));
  for (int64_t j = begin; j < end; ++j) {
    const int64_t tile = j / kAttentionTileTokens;
    const int64_t offset = (j % kAttentionTileTokens * headDim + d) * static_cast<int64_t>(sizeof(Element));
    const auto* value = reinterpret_cast<const Element*>(tiles.data[tile] + offset);
    for (int64_t line = 0; line < kBytes; line += kLineBytes) askFor(tiles.ahead[tile] + offset + line);
#pragma GCC unroll 8
    for (int vector = 0; vector < vectors; ++vector) {
      const __m256 loaded = load8(value + vector * kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row) {
        const __m256 weight = _mm256_broadcast_ss(weights + row * kAttentionChunkTokens + j);
        sums[row][vector] = _mm256_fmadd_ps(weight, loaded, sums[row][vector]);
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 8
    for (int vector = 0; vector < vectors; ++vector) {
      _mm256_storeu_ps(outputs + row * outputStride + d + vector * kLanes, sums[row][vector]);
    }
  }
}

/// All head dimensions of `rows` rows; `wide` vectors at once, then single ones, then the elements beyond the last
/// vector.
template <typename Element, int rows, int wide>
HELS_AVX2 void valueRows(int64_t headDim, const float* weights, const ChunkTiles& tiles, int64_t begin, int64_t end,
                         float* outputs, int64_t outputStride) {
  int64_t d = 0;
  for (; d + wide * kLanes <= headDim; d += wide * kLanes) {
    valueVectors<Element, rows, wide>(headDim, d, weights, tiles, begin, end, outputs, outputStride);
  }
  for (; d + kLanes <= headDim; d += kLanes) {
    valueVectors<Element, rows, 1>(headDim, d, weights, tiles, begin, end, outputs, outputStride);
  }
  for (; d < headDim; ++d) {
    for (int row = 0; row < rows; ++row) {
      float sum = 0.0F;
      for (int64_t j = begin; j < end; ++j) {
        const auto* tile = reinterpret_cast<const Element*>(tiles.data[j / kAttentionTileTokens]);
        sum = std::fma(weights[row * kAttentionChunkTokens + j], widen(tile[j % kAttentionTileTokens * headDim + d]),
                       sum);
      }
      outputs[row * outputStride + d] = sum;
    }
  }
}

template <typename Element>
void valuesTyped(int64_t headDim, const float* weights, int rows, const ChunkTiles& tiles, int64_t begin, int64_t end,
                 float* outputs, int64_t outputStride) {
  int row = 0;
  for (; row + 4 <= rows; row += 4) {
    valueRows<Element, 4, 2>(headDim, weights + row * kAttentionChunkTokens, tiles, begin, end,
                             outputs + row * outputStride, outputStride);
  }
  for (; row + 2 <= rows; row += 2) {
    valueRows<Element, 2, 4>(headDim, weights + row * kAttentionChunkTokens, tiles, begin, end,
                             outputs + row * outputStride, outputStride);
  }
  if (row < rows) {
    valueRows<Element, 1, 8>(headDim, weights + row * kAttentionChunkTokens, tiles, begin, end,
                             outputs + row * outputStride, outputStride);
  }
}

void values(DataType type, int64_t headDim, const float* weights, int rows, const ChunkTiles& tiles, int64_t begin,
            int64_t end, float* outputs, int64_t outputStride) {
  if (type == DataType::kF32)
    return valuesTyped<float>(headDim, weights, rows, tiles, begin, end, outputs, outputStride);
  if (type == DataType::kBf16)
    return valuesTyped<Bf16>(headDim, weights, rows, tiles, begin, end, outputs, outputStride);
  valuesTyped<F16>(headDim, weights, rows, tiles, begin, end, outputs, outputStride);
}

HELS_AVX2 void exponentials(float* values) {
  for (int64_t i = 0; i < int64_t{2} * kAttentionRowsMax; i += kLanes) {
    _mm256_storeu_ps(values + i, exp8(_mm256_loadu_ps(values + i)));
  }
}

HELS_AVX2 void merge(float* total, float totalScale, const float* part, float partScale, int64_t count) {
  int64_t d = 0;
  for (; d + kLanes <= count; d += kLanes) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(part + d), _mm256_set1_ps(partScale));
    _mm256_storeu_ps(total + d, _mm256_fmadd_ps(_mm256_loadu_ps(total + d), _mm256_set1_ps(totalScale), scaled));
  }
  for (; d < count; ++d) total[d] = std::fma(total[d], totalScale, part[d] * partScale);
}

HELS_AVX2 void divide(float* values, float divisor, int64_t count) {
  int64_t d = 0;
  for (; d + kLanes <= count; d += kLanes) {
    _mm256_storeu_ps(values + d, _mm256_div_ps(_mm256_loadu_ps(values + d), _mm256_set1_ps(divisor)));
  }
  for (; d < count; ++d) values[d] /= divisor;
}

}  // namespace

const AttentionKernels& avx2AttentionKernels() {
  static const AttentionKernels kernels{scores, softmax, values, exponentials, merge, divide};
  return kernels;
}

}  // namespace hels

#endif
