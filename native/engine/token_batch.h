// A checked step, flattened to tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace hels {

/// The tokens [firstToken, firstToken + tokens) of the batch, at positions from startPosition on.
struct BatchSequence {
  int64_t firstToken = 0;
  int64_t tokens = 0;
  int64_t startPosition = 0;
  const int32_t* blockTable = nullptr;  // of the StepBatch
};

struct TokenBatch {
  std::vector<int32_t> tokenIds;
  std::vector<int64_t> positions;
  std::vector<int32_t> sequenceOf;  // by token
  std::vector<BatchSequence> sequences;

  int64_t tokens() const { return static_cast<int64_t>(tokenIds.size()); }
};

/// Checks the whole batch, so that nothing in it can reach memory that is not its own, and flattens it. `sampledTokens`
/// by slot, -1 = none. Throws kShapeInvalid naming the sequence, the field, the value and the allowed range.
TokenBatch makeTokenBatch(const StepBatch& batch, const ModelSpec& model, const EngineOptions& options,
                          const std::vector<int32_t>& sampledTokens);

}  // namespace hels
