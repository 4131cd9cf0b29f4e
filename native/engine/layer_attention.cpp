// The attention half of a layer: project, rotate, store KV, attend, project back and sum over the ranks.
#include <algorithm>
#include <cmath>

#include "engine/forward_pass.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rope.h"

namespace hels {

void ForwardPass::attentionBlock(const TokenBatch& batch, int64_t layer) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t tokens = batch.tokens();
  if (!shard_.headGroups.empty()) {
    const float* input = scratch_.residual;
    if (model_.normBeforeBlock) {
      normalize(weights.attentionNorm, tokens, scratch_.normalized);
      input = scratch_.normalized;
    }
    projectQueryKeyValue(batch, layer, input);
    parallelForDynamic(options_.threads, static_cast<int64_t>(attentionItems_.size()), [&](int64_t item, int thread) {
      attendItem(batch, layer, attentionItems_[static_cast<size_t>(item)], thread);
    });
  }
  addRowParallel(batch, layer, "attention output", weights.attentionOutput, scratch_.attention,
                 scratch_.attentionStride, model_.queryHeadsPerGroup * model_.headDim);
  if (!model_.normBeforeBlock) normalize(weights.attentionNorm, tokens, scratch_.residual);
}

void ForwardPass::projectQueryKeyValue(const TokenBatch& batch, int64_t layer, const float* input) {
  const Linear& linear = weights_.layers[static_cast<size_t>(layer)].queryKeyValue;
  gemm_.multiply(linear.matrix, input, scratch_.hiddenStride, batch.tokens(), scratch_.queryKeyValue,
                 scratch_.queryKeyValueStride);
  addBias(linear, scratch_.queryKeyValue, scratch_.queryKeyValueStride, batch.tokens());
  const int threads = rowThreads(batch.tokens(), linear.matrix.columns);
  parallelFor(threads, batch.tokens(), [&](int64_t token) { prepareHeads(batch, layer, token); });
}

/// Norms and rotates the token's queries and keys in place and stores its keys and values.
void ForwardPass::prepareHeads(const TokenBatch& batch, int64_t layer, int64_t token) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t headDim = model_.headDim;
  const int64_t groups = shard_.headGroups.size();
  const int64_t queryHeads = groups * model_.queryHeadsPerGroup;
  const int64_t position = batch.positions[static_cast<size_t>(token)];
  float* heads = scratch_.queryKeyValue + token * scratch_.queryKeyValueStride;
  for (int64_t head = 0; head < queryHeads + groups; ++head) {
    float* values = heads + head * headDim;
    if (model_.queryKeyNorm) {
      rmsNorm(values, head < queryHeads ? weights.queryNorm : weights.keyNorm, headDim, model_.normEpsilon, values);
    }
    if (scratch_.ropeTable != nullptr) applyRope(values, scratch_.ropeTable + position * headDim, headDim);
  }
  const BatchSequence& sequence = batch.sequences[static_cast<size_t>(batch.sequenceOf[static_cast<size_t>(token)])];
  const int32_t block = sequence.blockTable[position / options_.kvBlockTokens];
  const float* keys = heads + queryHeads * headDim;
  const float* values = keys + groups * headDim;
  for (int64_t group = 0; group < groups; ++group) {
    kv_.store(layer, group, block, position % options_.kvBlockTokens, keys + group * headDim, values + group * headDim);
  }
}

/// Cuts the batch into items of at most kAttentionRowsMax query rows, which share the loads of their KV.
void ForwardPass::listAttentionItems(const TokenBatch& batch) {
  attentionItems_.clear();
  const int64_t heads = std::min<int64_t>(model_.queryHeadsPerGroup, kAttentionRowsMax);
  const int64_t tokensPerItem = kAttentionRowsMax / heads;
  for (const BatchSequence& sequence : batch.sequences) {
    for (int64_t token = 0; token < sequence.tokens; token += tokensPerItem) {
      for (int64_t group = 0; group < shard_.headGroups.size(); ++group) {
        for (int64_t head = 0; head < model_.queryHeadsPerGroup; head += heads) {
          attentionItems_.push_back({sequence.firstToken + token, std::min(tokensPerItem, sequence.tokens - token),
                                     group, head, std::min(heads, model_.queryHeadsPerGroup - head)});
        }
      }
    }
  }
}

void ForwardPass::attendItem(const TokenBatch& batch, int64_t layer, const AttentionItem& item, int thread) {
  const int64_t headDim = model_.headDim;
  const auto firstToken = static_cast<size_t>(item.firstToken);
  const BatchSequence& sequence = batch.sequences[static_cast<size_t>(batch.sequenceOf[firstToken])];
  AttentionRows rows;
  for (int64_t token = item.firstToken; token < item.firstToken + item.tokens; ++token) {
    for (int64_t head = item.firstHead; head < item.firstHead + item.heads; ++head) {
      const int64_t column = (item.group * model_.queryHeadsPerGroup + head) * headDim;
      rows.queries[rows.count] = scratch_.queryKeyValue + token * scratch_.queryKeyValueStride + column;
      rows.outputs[rows.count] = scratch_.attention + token * scratch_.attentionStride + column;
      rows.positions[rows.count] = batch.positions[static_cast<size_t>(token)];
      ++rows.count;
    }
  }
  AttentionShape shape;
  shape.headDim = headDim;
  if (!model_.slidingWindows.empty()) shape.window = model_.slidingWindows[static_cast<size_t>(layer)];
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(headDim)));
  attend(shape, kv_.blocks(layer, item.group, sequence.blockTable), rows,
         scratch_.attentionWork + thread * scratch_.attentionWorkFloats, bestIsa());
}

}  // namespace hels
