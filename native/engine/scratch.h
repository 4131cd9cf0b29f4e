// The buffers of a step, sized for the largest step at load, so that no step allocates memory for activations.
#pragma once

#include "engine/arena.h"
#include "engine/engine.h"
#include "engine/model_weights.h"

namespace hels {

/// Rows of logits computed at once.
inline constexpr int64_t kLogitRowsMax = 64;
/// Full rows of logits gathered in one collective.
inline constexpr int64_t kGatherRowsMax = 16;

/// T = stepTokensMax; strides are padded for Gemm.
struct Scratch {
  int64_t hiddenStride = 0;
  int64_t queryKeyValueStride = 0;
  int64_t attentionStride = 0;
  int64_t mlpStride = 0;
  int64_t embeddingStride = 0;
  int64_t logitsStride = 0;

  float* residual = nullptr;       // (T, hidden)
  float* normalized = nullptr;     // (T, hidden)
  float* queryKeyValue = nullptr;  // (T, queries, keys, values)
  float* attention = nullptr;      // (T, query heads * headDim)
  float* mlp = nullptr;            // (T, gate and up)
  float* embedded = nullptr;       // (T, embeddingSize), with a projection only
  int64_t* sums = nullptr;         // (T, hidden), unpadded: what the ranks sum
  float* ropeTable = nullptr;      // (positions, 2, headDim / 2)
  float* attentionWork = nullptr;  // (threads, attentionWorkFloats)
  int64_t attentionWorkFloats = 0;
  float* headInput = nullptr;      // (kLogitRowsMax, hidden)
  float* headProjected = nullptr;  // (kLogitRowsMax, embeddingSize), with a projection only
  float* logits = nullptr;         // (kLogitRowsMax, vocabulary rows of this rank)
  int64_t* sampling = nullptr;     // kGatherRowsMax packed rows of the vocabulary, then the candidates of all ranks
};

/// Positions that fit into this rank's pool: no sequence can be longer.
int64_t positionsMax(const ModelSpec& model, const EngineOptions& options);

Scratch layoutScratch(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options, Arena& arena);

}  // namespace hels
