// Attention over KV in f32, a warp for each query row: for small models and for checks. Tiles, chunks and the rule that
// folds them are those of the other kernels.
#include "kernels/cuda/attention_parts.h"

namespace hels::cuda {
namespace {

constexpr int kColumnsPerLane = static_cast<int>(kAttentionHeadDimMax) / kWarpThreads;

/// One row and its way through the KV. outputs[i] is dimension 32 i + lane.
struct RowState {
  float maximum;
  float sum;
  float outputs[kColumnsPerLane];

  __device__ __forceinline__ void reset() {
    maximum = minusInfinity();
    sum = 0.0F;
#pragma unroll
    for (float& output : outputs) output = 0.0F;
  }
};

struct Row {
  const float* query;
  const float* keys;  // of the group
  const float* values;
  const int32_t* blockTable;
  int begin;
  int end;
};

__device__ __forceinline__ float maximumOfWarp(float value) {
#pragma unroll
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, mask));
  return value;
}

__device__ __forceinline__ float sumOfWarp(float value) {
#pragma unroll
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  return value;
}

/// q k of a position, or -infinity when the row does not see it.
__device__ __forceinline__ float scoreOf(const AttentionArguments& a, const Row& row, bool seen, int64_t offset) {
  if (!seen) return minusInfinity();
  const float* key = row.keys + offset;
  float sum = 0.0F;
  for (int d = 0; d < a.headDim; ++d) sum = fmaf(row.query[d], key[d], sum);
  return sum;
}

/// Attends to the tile at `position`, from zero: each lane has two scores, then some dimensions.
__device__ __forceinline__ void attendTile(const AttentionArguments& a, const Row& row, int position, RowState& state) {
  constexpr int kScoresPerLane = kTileTokens / kWarpThreads;
  __shared__ float weights[kTileTokens];
  __shared__ int64_t offsets[kTileTokens];
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  float scores[kScoresPerLane];
  float high = minusInfinity();
  __syncwarp();  // all lanes have read those of the tile before
#pragma unroll
  for (int i = 0; i < kScoresPerLane; ++i) {
    const int mine = position + i * kWarpThreads + lane;
    const bool seen = mine >= row.begin && mine < row.end;
    const int64_t offset = seen ? unitOffset(a, row.blockTable, mine) : 0;
    scores[i] = scoreOf(a, row, seen, offset);
    high = fmaxf(high, scores[i]);
    offsets[i * kWarpThreads + lane] = offset;
  }
  state.maximum = maximumOfWarp(high) * a.scaleLog2;
  const float base = state.maximum == minusInfinity() ? 0.0F : state.maximum;
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kScoresPerLane; ++i) {
    const float weight = exponential2(fmaf(scores[i], a.scaleLog2, -base));
    weights[i * kWarpThreads + lane] = weight;
    sum += weight;
  }
  state.sum = sumOfWarp(sum);
  __syncwarp();
  for (int i = 0; i < kTileTokens; ++i) {
    if (position + i < row.begin || position + i >= row.end) continue;
#pragma unroll
    for (int j = 0; j < kColumnsPerLane; ++j) {
      const int d = j * kWarpThreads + lane;
      if (d < a.headDim) state.outputs[j] = fmaf(weights[i], row.values[offsets[i] + d], state.outputs[j]);
    }
  }
}

__device__ __forceinline__ void mergeRow(RowState& total, const RowState& part) {
  const MergeScales scales = mergeScales(total.maximum, part.maximum);
  total.maximum = scales.maximum;
  total.sum = mergeValue(scales, total.sum, part.sum);
#pragma unroll
  for (int j = 0; j < kColumnsPerLane; ++j) total.outputs[j] = mergeValue(scales, total.outputs[j], part.outputs[j]);
}

__global__ void __launch_bounds__(kWarpThreads) f32AttentionKernel(AttentionArguments a, int tokensMax) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int sequence = a.firstSequence + static_cast<int>(blockIdx.x) / tokensMax;
  const int offset = static_cast<int>(blockIdx.x) % tokensMax;
  if (offset >= a.tokenCount[sequence]) return;
  const int head = static_cast<int>(blockIdx.y);
  const int position = a.startPosition[sequence] + offset;
  const int64_t token = a.firstToken[sequence] + offset;
  const int64_t groupOffset = head / a.queryHeadsPerGroup * a.groupElements;
  const Row row = {reinterpret_cast<const float*>(a.queries) + token * a.queryStride + head * a.headDim,
                   reinterpret_cast<const float*>(a.keys) + groupOffset,
                   reinterpret_cast<const float*>(a.values) + groupOffset,
                   a.blockTables + sequence * a.blockTableStride,
                   a.firstVisible(position),
                   position + 1};
  const uint8_t* here = a.chunkHere == nullptr ? nullptr : a.chunkHere + sequence * a.chunkStride;
  RowState total;
  total.reset();
  const int first = row.begin / kChunkTokens;
  for (int chunk = first; chunk * kChunkTokens < row.end; ++chunk) {
    if (here != nullptr && here[chunk] == 0) continue;
    RowState part;
    part.reset();
    for (int from = chunk * kChunkTokens; from < min((chunk + 1) * kChunkTokens, row.end); from += kTileTokens) {
      if (from + kTileTokens <= row.begin) continue;
      RowState tile;
      tile.reset();
      attendTile(a, row, from, tile);
      mergeRow(part, tile);
    }
    if (a.parts.outputs == nullptr) {
      mergeRow(total, part);
      continue;
    }
    const int64_t slot = (token * a.queryHeads() + head) * a.parts.slots + chunk - first;
    if (lane == 0) {
      a.parts.maxima[slot] = part.maximum;
      a.parts.sums[slot] = part.sum;
    }
#pragma unroll
    for (int j = 0; j < kColumnsPerLane; ++j) {
      const int d = j * kWarpThreads + lane;
      if (d < a.headDim) a.parts.outputs[slot * a.headDim + d] = part.outputs[j];
    }
  }
  if (a.parts.outputs != nullptr) return;
  float* output = reinterpret_cast<float*>(a.output) + token * a.outputStride + head * a.headDim;
  const float inverse = 1.0F / total.sum;
#pragma unroll
  for (int j = 0; j < kColumnsPerLane; ++j) {
    const int d = j * kWarpThreads + lane;
    if (d < a.headDim) output[d] = total.outputs[j] * inverse;
  }
}

}  // namespace

void attendF32(const AttentionArguments& arguments, int64_t sequences, int64_t tokensMax, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(sequences * tokensMax), static_cast<unsigned>(arguments.queryHeads()));
  launch(f32AttentionKernel, grid, dim3(kWarpThreads), 0, stream, arguments, static_cast<int>(tokensMax));
}

}  // namespace hels::cuda
