// Between the products and attention: biases, norms of query and key heads, rotation, and the store of keys and values
// in the paged cache. Each head's bits depend on its own row only.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention.h"

namespace hels::cuda {

/// What happens to a head between its product and attention. Null pointers: not done. All in f32 in device memory.
struct HeadPreparation {
  int64_t queryHeadsPerGroup = 1;
  const float* bias = nullptr;       // one for each column of the rows
  const float* queryNorm = nullptr;  // (headDim): weights of the RMS norm of query heads
  const float* keyNorm = nullptr;    // (headDim)
  float normEpsilon = 0.0F;
  const float* ropeTable = nullptr;  // (positions, headDim): of a position the cosines, then the sines
  /// (tokens, elsewhereStride) of the cache's type, columns keys (groups, headDim), values (groups, headDim): of tokens
  /// whose block is not here, which the block table says by a number below 0. Null: all are here.
  void* elsewhere = nullptr;
  int64_t elsewhereStride = 0;
};

/// From rows(tokens, rowStride) in f32, columns: queries (groups, queryHeadsPerGroup, headDim), keys (groups, headDim),
/// values (groups, headDim). Adds the bias, norms and rotates queries and keys, rounds to kv.type, writes
/// queries(tokens, queryStride) and stores keys and values at the tokens' positions. rowStride and queryStride are
/// even, headDim is a multiple of 4. Tokens with sequenceOf -1 are skipped.
void prepareHeads(const HeadPreparation& preparation, const DeviceKv& kv, const DeviceBatch& batch, const float* rows,
                  int64_t rowStride, void* queries, int64_t queryStride, cudaStream_t stream);

/// Stores rows(count, rowStride) of kv.type, columns keys (groups, headDim), values (groups, headDim), at slots(count):
/// block * blockTokens + the position in it. All but kv.data in multiples of 8 elements.
void storeKeysAndValues(const DeviceKv& kv, const void* rows, int64_t rowStride, const int32_t* slots, int64_t count,
                        cudaStream_t stream);

}  // namespace hels::cuda
