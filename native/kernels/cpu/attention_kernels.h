// The inner kernels of attention over one chunk, one set per instruction set; portable ones define the bits.
#pragma once

#include "kernels/cpu/attention.h"

namespace hels {

/// Keys or values of a chunk, by tile.
struct ChunkTiles {
  const std::byte* data[kAttentionTiles] = {};
  /// What will be read some tiles later: with each line of data[t] that a kernel reads it asks for one of ahead[t].
  const std::byte* ahead[kAttentionTiles] = {};
};

/// Memory is as fast as it can be when some 16 KiB are on their way to the second-level cache, one line at a time: all
/// lines of a tile at once would fill the first level's few places for lines to come, and reading would wait for them.
inline void askFor(const std::byte* line) { __builtin_prefetch(line, 0, 2); }
inline constexpr int64_t kLineBytes = 64;

struct AttentionKernels {
  /// scores[row][16 t + j] = chain over d of queries[row][d] * keys[t][d][j], for tiles [firstTile, endTile).
  void (*scores)(DataType type, int64_t headDim, const float* const* queries, int rows, const ChunkTiles& keys,
                 int64_t firstTile, int64_t endTile, float* scores);
  /// In place: row[j] = exp(scale * row[j] - maximum) for j in [begin, end), exactly 0 elsewhere; sets maximum and sum.
  void (*softmax)(float* row, int64_t begin, int64_t end, float scale, float* maximum, float* sum);
  /// outputs[row][d] = chain over positions [begin, end) of weights[row][position] * values[position][d].
  void (*values)(DataType type, int64_t headDim, const float* weights, int rows, const ChunkTiles& values,
                 int64_t begin, int64_t end, float* outputs, int64_t outputStride);
  /// values[i] = expF32(values[i]), i < 2 * kAttentionRowsMax.
  void (*exponentials)(float* values);
  /// total[d] = fma(total[d], totalScale, part[d] * partScale).
  void (*merge)(float* total, float totalScale, const float* part, float partScale, int64_t count);
  /// values[d] /= divisor.
  void (*divide)(float* values, float divisor, int64_t count);
};

/// The fastest for `isa`, which must be supported by this processor.
const AttentionKernels& attentionKernels(Isa isa);
const AttentionKernels& portableAttentionKernels();
#ifdef HELS_X86
const AttentionKernels& avx2AttentionKernels();
const AttentionKernels& avx512AttentionKernels();
#endif

}  // namespace hels
