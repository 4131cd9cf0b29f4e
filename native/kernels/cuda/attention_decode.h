// What both decode kernels (attention_decode.cu, attention_decode_tiles.cu) have in common: the work of a block, and
// the fold of what its warps leave in shared memory.
#pragma once

#include "kernels/cuda/attention_tile.h"

namespace hels::cuda {

/// About as many multiprocessors as the largest devices have.
inline constexpr int64_t kMultiprocessors = 132;

/// Blocks that one sequence needs at least: head groups, in pieces of 16 query heads.
inline int64_t decodeItems(const AttentionArguments& a) {
  return a.groups * static_cast<int64_t>((a.queryHeadsPerGroup + kRowsPerWarp - 1) / kRowsPerWarp);
}

/// What a block works on.
struct DecodeItem {
  int sequence;
  int group;
  int firstHead;  // of the group
  int heads;      // from there on, at most 16
  int position;
  int begin;

  /// For a grid (splits, decodeItems(), sequences).
  __device__ __forceinline__ explicit DecodeItem(const AttentionArguments& a) {
    const int rowTiles = (a.queryHeadsPerGroup + kRowsPerWarp - 1) / kRowsPerWarp;
    sequence = a.firstSequence + static_cast<int>(blockIdx.z);
    group = static_cast<int>(blockIdx.y) / rowTiles;
    firstHead = static_cast<int>(blockIdx.y) % rowTiles * kRowsPerWarp;
    heads = min(kRowsPerWarp, a.queryHeadsPerGroup - firstHead);
    position = a.startPosition[sequence];
    begin = a.firstVisible(position);
  }
  /// Row `row` of the warp's 16: all have the one token, so a row's index is its head.
  __device__ __forceinline__ QueryRow row(const AttentionArguments& a, int row) const {
    QueryRow result;
    result.token = a.firstToken[sequence];
    result.head = group * a.queryHeadsPerGroup + firstHead + min(row, heads - 1);
    result.position = row < heads ? position : -1;
    result.begin = begin;
    return result;
  }
};

/// (m, l, o) of 16 rows in shared memory, in f32: outputs (16, kStride), then maxima and sums. Rows are padded so that
/// the lanes of a warp meet no bank twice, neither as they store nor as a fold reads.
template <int kDim>
struct Kept {
  static constexpr int kStride = kDim + 8;
  static constexpr int kMaxima = kRowsPerWarp * kStride;
  static constexpr int kSums = kMaxima + kRowsPerWarp;
  static constexpr size_t kBytes = (kSums + kRowsPerWarp) * sizeof(float);

  /// A lane stores what it has of rows g and g + 8: outputs(n) are dimensions 8n + {2t, 2t + 1} of both.
  template <typename Outputs>
  __device__ __forceinline__ static void store(float* kept, int heads, const float (&maximum)[2], const float (&sum)[2],
                                               const Outputs& outputs) {
    const int lane = laneNow();
    const int t = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = lane / 4 + 8 * i;
      if (row >= heads) continue;
      if (t == 0) {
        kept[kMaxima + row] = maximum[i];
        kept[kSums + row] = sum[i];
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        const float4 both = outputs(n);
        *reinterpret_cast<float2*>(kept + row * kStride + n * 8 + 2 * t) =
            i == 0 ? make_float2(both.x, both.y) : make_float2(both.z, both.w);
      }
    }
  }
};

/// What the warps of a block have kept: entry i at `first` + i * stride, `perChunk` of them for each chunk from
/// `firstChunk` on; those in [begin, end) are there.
struct KeptEntries {
  const float* first;
  int stride;
  int perChunk;
  int firstChunk;  // absolute
  int begin;
  int end;
};

/// Four columns of a row on their way through the fold.
struct FoldedColumns {
  float maximum = minusInfinity();
  float sum = 0.0F;
  float outputs[4] = {};

  __device__ __forceinline__ void fold(float partMaximum, float partSum, const float4& part) {
    const MergeScales scales = mergeScales(maximum, partMaximum);
    maximum = scales.maximum;
    sum = mergeValue(scales, sum, partSum);
    outputs[0] = mergeValue(scales, outputs[0], part.x);
    outputs[1] = mergeValue(scales, outputs[1], part.y);
    outputs[2] = mergeValue(scales, outputs[2], part.z);
    outputs[3] = mergeValue(scales, outputs[3], part.w);
  }
  __device__ __forceinline__ float4 all() const { return make_float4(outputs[0], outputs[1], outputs[2], outputs[3]); }
};

/// Leaves four columns of a chunk to be merged later.
__device__ __forceinline__ void storeColumns(const AttentionArguments& a, const DecodeItem& item, int head, int column,
                                             int chunk, const FoldedColumns& part) {
  const int64_t token = a.partsBySequence ? item.sequence - a.firstSequence : a.firstToken[item.sequence];
  const int64_t slot = (token * a.queryHeads() + head) * a.parts.slots + chunk - item.begin / kChunkTokens;
  if (column == 0) {
    a.parts.maxima[slot] = part.maximum;
    a.parts.sums[slot] = part.sum;
  }
  float* to = a.parts.outputs + slot * a.headDim + column;
  *reinterpret_cast<float2*>(to) = make_float2(part.outputs[0], part.outputs[1]);
  *reinterpret_cast<float2*>(to + 2) = make_float2(part.outputs[2], part.outputs[3]);
}

/// Folds entries into chunks, then leaves each chunk as a part, or with `merges` folds the chunks and writes the
/// output. By all threads of the block, after a barrier.
template <DataType type, int kDim>
__device__ __forceinline__ void foldKept(const AttentionArguments& a, const DecodeItem& item,
                                         const KeptEntries& entries, bool merges) {
  const int pieces = a.headDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < item.heads * pieces; i += static_cast<int>(blockDim.x)) {
    const int row = i / pieces;
    const int column = (i - row * pieces) * 4;
    const int head = item.group * a.queryHeadsPerGroup + item.firstHead + row;
    FoldedColumns total;
    for (int entry = entries.begin; entry < entries.end;) {
      const int chunk = entry / entries.perChunk;
      const int end = min(entries.end, (chunk + 1) * entries.perChunk);
      FoldedColumns part;
      for (; entry < end; ++entry) {
        const float* kept = entries.first + entry * entries.stride;
        part.fold(kept[Kept<kDim>::kMaxima + row], kept[Kept<kDim>::kSums + row],
                  *reinterpret_cast<const float4*>(kept + row * Kept<kDim>::kStride + column));
      }
      if (merges) {
        total.fold(part.maximum, part.sum, part.all());
      } else {
        storeColumns(a, item, head, column, entries.firstChunk + chunk, part);
      }
    }
    if (!merges) continue;
    const float inverse = 1.0F / total.sum;
    auto* to = reinterpret_cast<uint16_t*>(a.output) + a.firstToken[item.sequence] * a.outputStride + head * a.headDim;
    *reinterpret_cast<uint2*>(to + column) =
        make_uint2(narrowPair(type, total.outputs[0] * inverse, total.outputs[1] * inverse),
                   narrowPair(type, total.outputs[2] * inverse, total.outputs[3] * inverse));
  }
}

/// The tile kernel: every warp attends to one tile; with few blocks.
void attendDecodeTiles(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t slots,
                       bool merges, cudaStream_t stream);
/// Whether there are so few tiles that a warp for each pays, all of them at work at once.
bool decodeTilesFit(const AttentionArguments& arguments, int64_t sequences, int64_t slots);
/// Whether one block of the tile kernel can have all slots.
bool decodeTilesMerge(int64_t headDim, int64_t slots);

}  // namespace hels::cuda
