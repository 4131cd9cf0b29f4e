// The feed-forward half of a layer.
#include "engine/forward_pass.h"
#include "kernels/cpu/activation.h"
#include "kernels/cpu/parallel.h"

namespace hels {

void ForwardPass::mlpBlock(const TokenBatch& batch, int64_t layer) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t tokens = batch.tokens();
  const int64_t columns = shard_.ffnColumns.size();
  if (columns > 0) {
    const float* input = scratch_.residual;
    if (model_.normBeforeBlock) {
      normalize(weights.mlpNorm, tokens, scratch_.normalized);
      input = scratch_.normalized;
    }
    gemm_.multiply(weights.mlpInput.matrix, input, scratch_.hiddenStride, tokens, scratch_.mlp, scratch_.mlpStride);
    addBias(weights.mlpInput, scratch_.mlp, scratch_.mlpStride, tokens);
    parallelFor(rowThreads(tokens, columns), tokens, [&](int64_t token) {
      float* row = scratch_.mlp + token * scratch_.mlpStride;
      const float* factors = model_.gatedMlp ? row + columns : nullptr;
      if (model_.activation == Activation::kSilu) {
        silu(row, factors, columns, bestIsa());
      } else {
        relu(row, factors, columns);
      }
    });
  }
  addRowParallel(batch, layer, "MLP output", weights.mlpOutput, scratch_.mlp, scratch_.mlpStride, model_.ffnGranule);
  if (!model_.normBeforeBlock) normalize(weights.mlpNorm, tokens, scratch_.residual);
}

}  // namespace hels
