// Biases, norms, rotation and the store of keys and values: a warp for each head of a token. Keys and values that come
// from another rank: a block for each token.
#include <cmath>

#include "kernels/cuda/device.h"
#include "kernels/cuda/heads.h"

namespace hels::cuda {
namespace {

constexpr int kWarps = 4;  // heads of a block

struct HeadArguments {
  const float* rows = nullptr;
  int64_t rowStride = 0;
  int queryHeads = 0;
  int groups = 0;
  int headDim = 0;
  const float* bias = nullptr;
  const float* queryNorm = nullptr;
  const float* keyNorm = nullptr;
  float normEpsilon = 0.0F;
  const float* ropeTable = nullptr;
  std::byte* queries = nullptr;
  int64_t queryStride = 0;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  int64_t groupElements = 0;
  int blockTokens = 0;
  const int32_t* sequenceOf = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* blockTables = nullptr;
  int64_t blockTableStride = 0;
  std::byte* elsewhere = nullptr;
  int64_t elsewhereStride = 0;
};

/// Two neighbouring elements at `index` of a row in the cache's type.
template <DataType type>
__device__ __forceinline__ void storePair(std::byte* row, int64_t index, float2 pair) {
  if constexpr (type == DataType::kF32) {
    *reinterpret_cast<float2*>(row + index * 4) = pair;
  } else {
    *reinterpret_cast<uint32_t*>(row + index * 2) = narrowPair(type, pair.x, pair.y);
  }
}

__device__ __forceinline__ float2 loadPair(const float* from) { return *reinterpret_cast<const float2*>(from); }

__device__ __forceinline__ float2 loadBiased(const float* row, const float* bias, int index) {
  float2 pair = loadPair(row + index);
  if (bias != nullptr) {
    pair.x += bias[index];
    pair.y += bias[index + 1];
  }
  return pair;
}

/// 1 / sqrt(mean(x^2) + epsilon) of a head, of which each lane has its pairs.
__device__ __forceinline__ float normScale(const float* row, const float* bias, int headDim, float epsilon) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  float squares = 0.0F;
  for (int i = 2 * lane; i < headDim; i += 2 * kWarpThreads) {
    const float2 pair = loadBiased(row, bias, i);
    squares = fmaf(pair.x, pair.x, squares);
    squares = fmaf(pair.y, pair.y, squares);
  }
#pragma unroll
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2) squares += __shfl_xor_sync(kAllLanes, squares, mask);
  return 1.0F / sqrtf(squares / static_cast<float>(headDim) + epsilon);
}

__device__ __forceinline__ float2 scaled(float2 pair, float scale, const float* weights, int index) {
  if (weights == nullptr) return pair;
  return make_float2(pair.x * scale * weights[index], pair.y * scale * weights[index + 1]);
}

/// Where a token's element 0 of a group's keys or values lies in the cache.
__device__ __forceinline__ int64_t cacheOffset(const HeadArguments& a, int block, int position, int group) {
  return group * a.groupElements + (static_cast<int64_t>(block) * a.blockTokens + position % a.blockTokens) * a.headDim;
}

/// Rows are (query heads, key heads, value heads).
template <DataType type>
__global__ void __launch_bounds__(kWarps* kWarpThreads) headsKernel(HeadArguments a) {
  letNextStart();
  waitForPrevious();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / kWarpThreads;
  if (head >= a.queryHeads + 2 * a.groups) return;
  const int sequence = a.sequenceOf[token];
  if (sequence < 0) return;
  const int position = a.positions[token];
  const float* row = a.rows + token * a.rowStride + static_cast<int64_t>(head) * a.headDim;
  const float* bias = a.bias == nullptr ? nullptr : a.bias + static_cast<int64_t>(head) * a.headDim;
  const bool isQuery = head < a.queryHeads;
  const bool isValue = head >= a.queryHeads + a.groups;
  std::byte* target = isQuery ? a.queries : isValue ? a.values : a.keys;
  int64_t to = token * a.queryStride + static_cast<int64_t>(head) * a.headDim;
  if (!isQuery) {
    const int block = a.blockTables[sequence * a.blockTableStride + position / a.blockTokens];
    if (block < 0) {
      target = a.elsewhere;
      to = token * a.elsewhereStride + static_cast<int64_t>(head - a.queryHeads) * a.headDim;
    } else {
      to = cacheOffset(a, block, position, (head - a.queryHeads) % a.groups);
    }
  }
  const float* norm = isQuery ? a.queryNorm : isValue ? nullptr : a.keyNorm;
  const float scale = norm == nullptr ? 1.0F : normScale(row, bias, a.headDim, a.normEpsilon);
  if (isValue || a.ropeTable == nullptr) {
    for (int i = 2 * lane; i < a.headDim; i += 2 * kWarpThreads) {
      storePair<type>(target, to + i, scaled(loadBiased(row, bias, i), scale, norm, i));
    }
    return;
  }
  const int half = a.headDim / 2;
  const float* cosines = a.ropeTable + static_cast<int64_t>(position) * a.headDim;
  for (int i = 2 * lane; i < half; i += 2 * kWarpThreads) {
    const float2 first = scaled(loadBiased(row, bias, i), scale, norm, i);
    const float2 second = scaled(loadBiased(row, bias, half + i), scale, norm, half + i);
    const float2 cosine = loadPair(cosines + i);
    const float2 sine = loadPair(cosines + half + i);
    storePair<type>(target, to + i,
                    make_float2(first.x * cosine.x - second.x * sine.x,  //
                                first.y * cosine.y - second.y * sine.y));
    storePair<type>(target, to + half + i,
                    make_float2(second.x * cosine.x + first.x * sine.x, second.y * cosine.y + first.y * sine.y));
  }
}

HeadArguments argumentsOf(const HeadPreparation& preparation, const DeviceKv& kv, const DeviceBatch& batch,
                          const float* rows, int64_t rowStride) {
  HeadArguments a;
  a.rows = rows;
  a.rowStride = rowStride;
  a.groups = static_cast<int>(kv.groups);
  a.headDim = static_cast<int>(kv.headDim);
  a.bias = preparation.bias;
  a.queryNorm = preparation.queryNorm;
  a.keyNorm = preparation.keyNorm;
  a.normEpsilon = preparation.normEpsilon;
  a.ropeTable = preparation.ropeTable;
  a.keys = kv.keys;
  a.values = kv.values;
  a.groupElements = kv.blocks * kv.blockTokens * kv.headDim;
  a.blockTokens = static_cast<int>(kv.blockTokens);
  a.sequenceOf = batch.sequenceOf;
  a.positions = batch.positions;
  a.blockTables = batch.blockTables;
  a.blockTableStride = batch.blockTableStride;
  a.elsewhere = static_cast<std::byte*>(preparation.elsewhere);
  a.elsewhereStride = preparation.elsewhereStride;
  return a;
}

void launchHeads(DataType type, const HeadArguments& a, int64_t tokens, cudaStream_t stream) {
  const int heads = a.queryHeads + 2 * a.groups;
  if (tokens == 0 || heads == 0) return;
  const dim3 grid(static_cast<unsigned>(tokens), static_cast<unsigned>((heads + kWarps - 1) / kWarps));
  const auto kernel = type == DataType::kF32    ? headsKernel<DataType::kF32>
                      : type == DataType::kBf16 ? headsKernel<DataType::kBf16>
                                                : headsKernel<DataType::kF16>;
  launchEarly(kernel, grid, dim3(kWarps * kWarpThreads), 0, stream, a);
}

constexpr int kStoreThreads = 128;

/// A block stores one token: groups of keys, then of values, each of `pieces` uint4.
__global__ void __launch_bounds__(kStoreThreads)
    storeKernel(const uint4* rows, int64_t rowPieces, uint4* keys, uint4* values, int64_t groupPieces, int groups,
                int pieces, const int32_t* slots) {
  const uint4* row = rows + blockIdx.x * rowPieces;
  const int64_t slot = static_cast<int64_t>(slots[blockIdx.x]) * pieces;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * groups * pieces; i += kStoreThreads) {
    const int head = i / pieces;
    uint4* cache = head < groups ? keys : values;
    cache[head % groups * groupPieces + slot + i % pieces] = row[i];
  }
}

}  // namespace

void prepareHeads(const HeadPreparation& preparation, const DeviceKv& kv, const DeviceBatch& batch, const float* rows,
                  int64_t rowStride, void* queries, int64_t queryStride, cudaStream_t stream) {
  HeadArguments a = argumentsOf(preparation, kv, batch, rows, rowStride);
  a.queryHeads = static_cast<int>(kv.groups * preparation.queryHeadsPerGroup);
  a.queries = static_cast<std::byte*>(queries);
  a.queryStride = queryStride;
  launchHeads(kv.type, a, batch.tokens, stream);
}

void storeKeysAndValues(const DeviceKv& kv, const void* rows, int64_t rowStride, const int32_t* slots, int64_t count,
                        cudaStream_t stream) {
  if (count == 0 || kv.groups == 0) return;
  const auto inPieces = [&](int64_t elements) {
    return elements * static_cast<int64_t>(bytesOf(kv.type)) / static_cast<int64_t>(sizeof(uint4));
  };
  launch(storeKernel, dim3(static_cast<unsigned>(count)), dim3(kStoreThreads), 0, stream,
         static_cast<const uint4*>(rows), inPieces(rowStride), reinterpret_cast<uint4*>(kv.keys),
         reinterpret_cast<uint4*>(kv.values), inPieces(kv.blocks * kv.blockTokens * kv.headDim),
         static_cast<int>(kv.groups), static_cast<int>(inPieces(kv.headDim)), slots);
}

}  // namespace hels::cuda
