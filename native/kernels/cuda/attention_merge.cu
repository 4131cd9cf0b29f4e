// Merges the parts of chunks: a block owns 32 dimensions of one query row. Its warps fetch parts and find out their
// scales side by side, the first one then adds in ascending order.
#include <algorithm>

#include "kernels/cuda/attention_parts.h"

namespace hels::cuda {
namespace {

constexpr int kWarpsMax = 8;
constexpr int kSlice = 32;            // dimensions of a block
constexpr int kBatch = kWarpThreads;  // slots that a warp fetches at once

/// What a warp has fetched.
struct Fetched {
  float outputs[kBatch][kSlice];
  float sums[kBatch];
  MergeScales scales[kBatch];
  float maximum;
  float unused[3];  // sizes stay multiples of 16 bytes
};
static_assert(sizeof(Fetched) % 16 == 0);

/// Starts the copies of a warp's slots, as far as there are any.
__device__ __forceinline__ void fetchOutputs(const AttentionArguments& a, int64_t part, int firstSlot, int slots,
                                             int firstColumn, float (*target)[kSlice]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int column = firstColumn + lane % 8 * 4;
  for (int i = lane / 8; i < kBatch && firstSlot + i < slots; i += 4) {
    const bool valid = column < a.headDim;
    const float* from = a.parts.outputs + (part + firstSlot + i) * a.headDim;
    copyAsync16(target[i] + lane % 8 * 4, from + (valid ? column : 0), valid);
  }
  commitCopies();
}

/// A row of the launch: of sequences with one token, else of tokens.
struct MergeRow {
  int64_t token = 0;
  int position = -1;  // -1: nothing to do
};

__device__ __forceinline__ MergeRow mergeRow(const AttentionArguments& a, int row) {
  if (!a.partsBySequence) return {row, a.sequenceOf[row] < 0 ? -1 : a.positions[row]};
  const int sequence = a.firstSequence + row;
  return {a.firstToken[sequence], a.tokenCount[sequence] == 1 ? a.startPosition[sequence] : -1};
}

template <DataType type>
__global__ void __launch_bounds__(kWarpsMax* kWarpThreads) mergeKernel(AttentionArguments a) {
  HELS_DYNAMIC_SHARED(Fetched, fetched);  // by warp
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int row = static_cast<int>(blockIdx.x);
  const MergeRow at = mergeRow(a, row);
  if (at.position < 0) return;
  const int slots = at.position / kChunkTokens - a.firstVisible(at.position) / kChunkTokens + 1;
  const int head = static_cast<int>(blockIdx.y);
  const int firstColumn = static_cast<int>(blockIdx.z) * kSlice;
  const int64_t part = (static_cast<int64_t>(row) * a.queryHeads() + head) * a.parts.slots;

  float maximum = minusInfinity();  // of the batches before
  float sum = 0.0F;
  float output = 0.0F;
  for (int base = 0; base < slots; base += warps * kBatch) {
    const int firstSlot = base + warp * kBatch;
    fetchOutputs(a, part, firstSlot, slots, firstColumn, fetched[warp].outputs);
    const int slot = firstSlot + lane;
    const float mine = slot < slots ? a.parts.maxima[part + slot] : minusInfinity();
    float upTo = mine;
#pragma unroll
    for (int distance = 1; distance < kWarpThreads; distance *= 2) {
      const float before = __shfl_up_sync(kAllLanes, upTo, distance);
      if (lane >= distance) upTo = fmaxf(upTo, before);
    }
    float before = __shfl_up_sync(kAllLanes, upTo, 1);
    if (lane == 0) before = minusInfinity();
    if (lane == kWarpThreads - 1) fetched[warp].maximum = upTo;
    __syncthreads();
    for (int i = 0; i < warp; ++i) before = fmaxf(before, fetched[i].maximum);
    fetched[warp].scales[lane] = mergeScales(fmaxf(maximum, before), mine);
    fetched[warp].sums[lane] = slot < slots ? a.parts.sums[part + slot] : 0.0F;
    for (int i = 0; i < warps; ++i) maximum = fmaxf(maximum, fetched[i].maximum);
    waitForCopies<0>();
    __syncthreads();
    if (warp == 0) {
      const int inside = min(slots - base, warps * kBatch);
#pragma unroll 4
      for (int i = 0; i < inside; ++i) {
        const Fetched& from = fetched[i / kBatch];
        const MergeScales scales = from.scales[i % kBatch];
        sum = mergeValue(scales, sum, from.sums[i % kBatch]);
        output = mergeValue(scales, output, from.outputs[i % kBatch][lane]);
      }
    }
    __syncthreads();
  }
  if (warp != 0 || firstColumn + lane >= a.headDim) return;
  const int64_t to = at.token * a.outputStride + head * a.headDim + firstColumn + lane;
  const float value = output * (1.0F / sum);
  if constexpr (type == DataType::kF32) {
    reinterpret_cast<float*>(a.output)[to] = value;
  } else {
    reinterpret_cast<uint16_t*>(a.output)[to] = narrow(type, value);
  }
}

}  // namespace

void mergeSlots(DataType type, const AttentionArguments& arguments, int64_t rows, cudaStream_t stream) {
  const int64_t warps = std::clamp<int64_t>((arguments.parts.slots + kBatch - 1) / kBatch, 1, kWarpsMax);
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(arguments.queryHeads()),
                  static_cast<unsigned>((arguments.headDim + kSlice - 1) / kSlice));
  const dim3 block(static_cast<unsigned>(warps * kWarpThreads));
  const auto kernel = type == DataType::kF32    ? mergeKernel<DataType::kF32>
                      : type == DataType::kBf16 ? mergeKernel<DataType::kBf16>
                                                : mergeKernel<DataType::kF16>;
  launch(kernel, grid, block, static_cast<size_t>(warps) * sizeof(Fetched), stream, arguments);
}

}  // namespace hels::cuda
