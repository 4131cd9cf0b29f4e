// The tokens' rows of the embedding and of the learned positions.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/data_type.h"

namespace hels::cuda {

struct Embedding {
  DataType type = DataType::kF32;    // of the tables
  const std::byte* table = nullptr;  // (vocabulary, columns)
  int64_t columns = 0;
  const int32_t* tokenIds = nullptr;  // (tokens); -(slot + 1): the token last sampled for the slot
  const int32_t* sampled = nullptr;   // (slots)
  int64_t tokens = 0;
};

/// output(tokens, stride) = the rows of the table, in its own type: the input of a projection.
void gatherEmbedding(const Embedding& embedding, void* output, int64_t stride, cudaStream_t stream);

/// residual(tokens, stride) = the rows, widened to f32.
void embedTokens(const Embedding& embedding, float* residual, int64_t stride, cudaStream_t stream);

/// residual(tokens, stride) += rows positions[token] + offset of table(_, columns).
void addPositions(DataType type, const std::byte* table, int64_t columns, const int32_t* positions, int64_t offset,
                  int64_t tokens, float* residual, int64_t stride, cudaStream_t stream);

}  // namespace hels::cuda
