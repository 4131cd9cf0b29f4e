// The attention kernels with AVX-512: one register holds the 16 positions of a tile, or 16 head dimensions. Up to eight
// query rows share every load of keys and values.
#include "kernels/cpu/attention_kernels.h"

#ifdef HELS_X86

#include <algorithm>
#include <limits>

#include "kernels/cpu/exponential.h"
#include "kernels/cpu/vector_avx512.h"

namespace hels {
namespace {

using avx2::Bf16;
using avx2::F16;
using avx512::exp16;
using avx512::load16;

constexpr int64_t kLanes = 16;
/// Sums of one call: half of the registers, the rest are operands.
constexpr int kSums = 16;

template <typename Element, int rows, int tiles>
HELS_AVX512 void scoreTiles(int64_t headDim, const float* const* queries, const ChunkTiles& keys, int64_t firstTile,
                            float* result) {
  __m512 sums[rows][tiles];
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int tile = 0; tile < tiles; ++tile) sums[row][tile] = _mm512_setzero_ps();
  }
  constexpr auto kRowBytes = static_cast<int64_t>(kAttentionTileTokens * sizeof(Element));
  const std::byte* const* data = keys.data + firstTile;
  const std::byte* const* ahead = keys.ahead + firstTile;
  for (int64_t d = 0; d < headDim; ++d) {
    __m512 loaded[tiles];
#pragma GCC unroll 16
    for (int tile = 0; tile < tiles; ++tile) {
      loaded[tile] = load16(reinterpret_cast<const Element*>(data[tile] + d * kRowBytes));
    }
    if (d * kRowBytes % kLineBytes == 0) {
#pragma GCC unroll 16
      for (int tile = 0; tile < tiles; ++tile) askFor(ahead[tile] + d * kRowBytes);
    }
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
      const __m512 query = _mm512_set1_ps(queries[row][d]);
#pragma GCC unroll 16
      for (int tile = 0; tile < tiles; ++tile) {
        sums[row][tile] = _mm512_fmadd_ps(query, loaded[tile], sums[row][tile]);
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int tile = 0; tile < tiles; ++tile) {
      _mm512_storeu_ps(result + row * kAttentionChunkTokens + tile * kAttentionTileTokens, sums[row][tile]);
    }
  }
}

template <typename Element, int rows>
void scoreRows(int64_t headDim, const float* const* queries, const ChunkTiles& keys, int64_t firstTile, int64_t endTile,
               float* result) {
  constexpr int wide = rows <= kSums / 4 ? 4 : 2;
  int64_t tile = firstTile;
  for (; tile + wide <= endTile; tile += wide) {
    scoreTiles<Element, rows, wide>(headDim, queries, keys, tile, result + tile * kAttentionTileTokens);
  }
  for (; tile < endTile; ++tile) {
    scoreTiles<Element, rows, 1>(headDim, queries, keys, tile, result + tile * kAttentionTileTokens);
  }
}

/// Calls Rows<n>::run for n = rows, 1 <= rows <= kAttentionRowsMax.
template <template <int> typename Rows, int candidate = kAttentionRowsMax, typename... Arguments>
void forRows(int rows, Arguments... arguments) {
  if constexpr (candidate > 1) {
    if (rows < candidate) return forRows<Rows, candidate - 1>(rows, arguments...);
  }
  Rows<candidate>::run(arguments...);
}

template <typename Element>
struct Scores {
  template <int rows>
  struct Of {
    static void run(int64_t headDim, const float* const* queries, const ChunkTiles& keys, int64_t firstTile,
                    int64_t endTile, float* result) {
      scoreRows<Element, rows>(headDim, queries, keys, firstTile, endTile, result);
    }
  };
};

void scores(DataType type, int64_t headDim, const float* const* queries, int rows, const ChunkTiles& keys,
            int64_t firstTile, int64_t endTile, float* result) {
  if (type == DataType::kF32) {
    forRows<Scores<float>::Of>(rows, headDim, queries, keys, firstTile, endTile, result);
  } else if (type == DataType::kBf16) {
    forRows<Scores<Bf16>::Of>(rows, headDim, queries, keys, firstTile, endTile, result);
  } else {
    forRows<Scores<F16>::Of>(rows, headDim, queries, keys, firstTile, endTile, result);
  }
}

HELS_AVX512 void softmax(float* row, int64_t begin, int64_t end, float scale, float* maximum, float* sum) {
  constexpr int64_t kVectors = kAttentionChunkTokens / kLanes;
  const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  const uint64_t visible = (end == kAttentionChunkTokens ? ~uint64_t{0} : (uint64_t{1} << end) - 1) &
                           ~((uint64_t{1} << begin) - 1);  // bit j: position j
  __m512 scaled[kVectors];
  __m512 highest = none;
#pragma GCC unroll 4
  for (int64_t i = 0; i < kVectors; ++i) {
    const auto mask = static_cast<__mmask16>(visible >> (i * kLanes));
    const __m512 score = _mm512_mul_ps(_mm512_loadu_ps(row + i * kLanes), _mm512_set1_ps(scale));
    scaled[i] = _mm512_mask_blend_ps(mask, none, score);
    highest = _mm512_max_ps(highest, scaled[i]);
  }
  alignas(64) float lanes[kLanes];
  _mm512_store_ps(lanes, highest);
  __m128 most = _mm_max_ps(_mm_max_ps(_mm_load_ps(lanes), _mm_load_ps(lanes + 4)),
                           _mm_max_ps(_mm_load_ps(lanes + 8), _mm_load_ps(lanes + 12)));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  most = _mm_max_ss(most, _mm_shuffle_ps(most, most, 1));
  *maximum = _mm_cvtss_f32(most);
  __m512 sums = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int64_t i = 0; i < kVectors; ++i) {
    const auto mask = static_cast<__mmask16>(visible >> (i * kLanes));
    const __m512 weight = _mm512_maskz_mov_ps(mask, exp16(_mm512_sub_ps(scaled[i], _mm512_set1_ps(*maximum))));
    _mm512_storeu_ps(row + i * kLanes, weight);
    sums = _mm512_add_ps(sums, weight);
  }
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  *sum = _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/// outputs[row][d + i], i < vectors * 16; of the last vector only the lanes in `last`.
template <typename Element, int rows, int vectors>
HELS_AVX512 void valueVectors(int64_t headDim, int64_t d, __mmask16 last, const float* weights, const ChunkTiles& tiles,
                              int64_t begin, int64_t end, float* outputs, int64_t outputStride) {
  constexpr auto kBytes = static_cast<int64_t>(vectors * kLanes * sizeof(Element));
  __m512 sums[rows][vectors];
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int vector = 0; vector < vectors; ++vector) sums[row][vector] = _mm512_setzero_ps();
  }
  for (int64_t j = begin; j < end;) {
    const int64_t tile = j / kAttentionTileTokens;
    const int64_t tileEnd = std::min(end, (tile + 1) * kAttentionTileTokens);
    const int64_t first = j % kAttentionTileTokens * headDim + d;
    const Element* value = reinterpret_cast<const Element*>(tiles.data[tile]) + first;
    const std::byte* ahead = tiles.ahead[tile] + first * static_cast<int64_t>(sizeof(Element));
    for (; j < tileEnd; ++j, value += headDim, ahead += headDim * static_cast<int64_t>(sizeof(Element))) {
      __m512 loaded[vectors];
#pragma GCC unroll 16
      for (int vector = 0; vector < vectors; ++vector) {
        loaded[vector] = vector + 1 < vectors ? load16(value + vector * kLanes) : load16(value + vector * kLanes, last);
      }
#pragma GCC unroll 16
      for (int64_t line = 0; line < kBytes; line += kLineBytes) askFor(ahead + line);
#pragma GCC unroll 16
      for (int row = 0; row < rows; ++row) {
        const __m512 weight = _mm512_set1_ps(weights[row * kAttentionChunkTokens + j]);
#pragma GCC unroll 16
        for (int vector = 0; vector < vectors; ++vector) {
          sums[row][vector] = _mm512_fmadd_ps(weight, loaded[vector], sums[row][vector]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 16
    for (int vector = 0; vector < vectors; ++vector) {
      const auto lanes = static_cast<__mmask16>(vector + 1 < vectors ? 0xFFFF : last);
      _mm512_mask_storeu_ps(outputs + row * outputStride + d + vector * kLanes, lanes, sums[row][vector]);
    }
  }
}

template <typename Element>
struct Values {
  template <int rows>
  struct Of {
    static void run(int64_t headDim, const float* weights, const ChunkTiles& tiles, int64_t begin, int64_t end,
                    float* outputs, int64_t outputStride) {
      constexpr int wide = rows <= kSums / 4 ? 4 : 2;
      constexpr __mmask16 kAll = 0xFFFF;
      int64_t d = 0;
      for (; d + wide * kLanes <= headDim; d += wide * kLanes) {
        valueVectors<Element, rows, wide>(headDim, d, kAll, weights, tiles, begin, end, outputs, outputStride);
      }
      for (; d < headDim; d += kLanes) {
        const int64_t rest = headDim - d;
        const auto last = static_cast<__mmask16>(rest >= kLanes ? kAll : (1U << static_cast<unsigned>(rest)) - 1U);
        valueVectors<Element, rows, 1>(headDim, d, last, weights, tiles, begin, end, outputs, outputStride);
      }
    }
  };
};

void values(DataType type, int64_t headDim, const float* weights, int rows, const ChunkTiles& tiles, int64_t begin,
            int64_t end, float* outputs, int64_t outputStride) {
  if (type == DataType::kF32) {
    forRows<Values<float>::Of>(rows, headDim, weights, tiles, begin, end, outputs, outputStride);
  } else if (type == DataType::kBf16) {
    forRows<Values<Bf16>::Of>(rows, headDim, weights, tiles, begin, end, outputs, outputStride);
  } else {
    forRows<Values<F16>::Of>(rows, headDim, weights, tiles, begin, end, outputs, outputStride);
  }
}

}  // namespace

const AttentionKernels& avx512AttentionKernels() {
  static const AttentionKernels kernels = [] {
    AttentionKernels set = avx2AttentionKernels();  // what is left is short
    set.scores = scores;
    set.softmax = softmax;
    set.values = values;
    return set;
  }();
  return kernels;
}

}  // namespace hels

#endif
