// The buffers of a step in device memory, sized for the largest step at load, so that no step allocates any. Inputs of
// products have the weights' type and rows padded to whole 16 bytes; the padding is zero and stays so.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/arena.h"
#include "engine/engine.h"
#include "engine/model_weights.h"

namespace hels::cuda {

/// What sizes the scratch: the tokens of the largest step, and rows of logits at once.
struct CudaScratchSizes {
  int64_t tokens = 0;
  int64_t logitRows = 0;
  int64_t layers = 0;
  size_t metadataBytes = 0;
  size_t attentionWorkspaceBytes = 0;
  int64_t ropePositions = 0;
};

/// T = tokens, L = logitRows; "narrow" is the weights' type.
struct CudaScratch {
  int64_t hiddenStride = 0;  // of all rows of hiddenSize
  int64_t queryKeyValueStride = 0;
  int64_t queryStride = 0;  // of queries and attention's output
  int64_t mlpStride = 0;
  int64_t ffnStride = 0;
  int64_t embeddingStride = 0;
  int64_t logitsStride = 0;

  float* residual = nullptr;         // (T, hidden)
  void* normalized = nullptr;        // (T, hidden), narrow
  float* queryKeyValue = nullptr;    // (T, queries, keys, values)
  void* queries = nullptr;           // (T, queries), narrow
  void* attention = nullptr;         // (T, queries), narrow
  float* mlp = nullptr;              // (T, gate and up)
  void* activated = nullptr;         // (T, FFN columns), narrow
  void* embedded = nullptr;          // (T, embeddingSize), narrow; with a projection only
  int64_t* sums = nullptr;           // (T, hidden), unpadded: what the ranks sum
  float* partials = nullptr;         // (T, hidden), unpadded; fast numerics only
  const float* ropeTable = nullptr;  // (ropePositions, headDim)
  void* headInput = nullptr;         // (L, hidden), narrow
  float* headProjected = nullptr;    // (L, embeddingSize); with a projection only
  void* headNarrow = nullptr;        // (L, embeddingSize), narrow; with a projection only
  float* logits = nullptr;           // (L, vocabulary rows of this rank)

  int32_t* sampled = nullptr;    // (sequencesMax): the token last sampled, by slot
  std::byte* results = nullptr;  // what a step copies to the host: badRows, then slots
  int32_t* badRows = nullptr;    // (layers, 2): of each row-parallel product the first bad row
  int64_t* slots = nullptr;      // (samplingRows, ranks, 2)
  int64_t* hostSums = nullptr;   // (hostSumsSize): sums of values that lie in host memory
  int64_t hostSumsSize = 0;

  std::byte* metadata = nullptr;
  std::byte* attentionWorkspace = nullptr;
  std::byte* productWorkspace = nullptr;
  size_t productWorkspaceBytes = 0;
  std::byte* samplingWorkspace = nullptr;
};

/// The offset of the slots in `results`.
size_t slotsOffset(int64_t layers);

/// The largest number of sequences that can sample in one step.
int64_t samplingRowsMax(const EngineOptions& options);

/// With a counting arena all pointers are null.
CudaScratch layoutCudaScratch(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                              const CudaScratchSizes& sizes, Arena& arena);

}  // namespace hels::cuda
