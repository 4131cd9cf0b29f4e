#include "engine/scratch.h"

#include <algorithm>

#include "kernels/cpu/attention.h"

namespace hels {

namespace {

/// An odd number of lines: with a width of a power of two all rows would fall into the same sets of the cache.
int64_t spread(int64_t columns) {
  static_assert(kColumnPadding * sizeof(float) == 64);
  return (divCeil(columns, kColumnPadding) | 1) * kColumnPadding;
}

}  // namespace

int64_t positionsMax(const ModelSpec& model, const EngineOptions& options) {
  return std::min(model.maxPositions, options.kvBlocks * options.kvBlockTokens);
}

Scratch layoutScratch(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options, Arena& arena) {
  const int64_t tokens = options.stepTokensMax;
  const int64_t queries = queryColumns(model, shard);
  const int64_t ffn = shard.ffnColumns.size();
  Scratch scratch;
  scratch.hiddenStride = spread(model.hiddenSize);
  // Fast products want rows of results as far apart as they are long.
  const auto stride = [&](int64_t columns) {
    return options.numerics == Numerics::kExact ? spread(columns) : roundUp(columns, kColumnPadding);
  };
  scratch.queryKeyValueStride = stride(queries + 2 * keyValueColumns(model, shard));
  scratch.attentionStride = queries;
  scratch.mlpStride = stride(model.gatedMlp ? 2 * ffn : ffn);
  scratch.embeddingStride = stride(model.embeddingSize);
  scratch.logitsStride = stride(shard.vocabRows.size());

  scratch.residual = arena.take<float>(tokens * scratch.hiddenStride);
  scratch.normalized = arena.take<float>(tokens * scratch.hiddenStride);
  scratch.queryKeyValue = arena.take<float>(tokens * scratch.queryKeyValueStride);
  scratch.attention = arena.take<float>(tokens * scratch.attentionStride);
  scratch.mlp = arena.take<float>(tokens * scratch.mlpStride);
  scratch.sums = arena.take<int64_t>(tokens * model.hiddenSize);
  if (model.position == PositionEncoding::kRope && !shard.headGroups.empty()) {
    scratch.ropeTable = arena.take<float>(positionsMax(model, options) * model.headDim);
  }
  scratch.attentionWorkFloats =
      static_cast<int64_t>(roundUp(static_cast<int64_t>(attentionWorkspaceFloats(model.headDim)), 16));
  scratch.attentionWork = arena.take<float>(options.threads * scratch.attentionWorkFloats);

  const int64_t logitRows = std::min(kLogitRowsMax, tokens);
  scratch.headInput = arena.take<float>(logitRows * scratch.hiddenStride);
  if (hasEmbeddingProjection(model)) {
    scratch.embedded = arena.take<float>(tokens * scratch.embeddingStride);
    scratch.headProjected = arena.take<float>(logitRows * scratch.embeddingStride);
  }
  scratch.logits = arena.take<float>(logitRows * scratch.logitsStride);
  scratch.sampling = arena.take<int64_t>(kGatherRowsMax * divCeil(model.vocabRows, 2) +
                                         std::min(options.sequencesMax, tokens) * shard.ranks * 2);
  return scratch;
}

}  // namespace hels
