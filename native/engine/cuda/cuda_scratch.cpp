#include "engine/cuda/cuda_scratch.h"

#include <algorithm>

#include "engine/cuda/cuda_products.h"
#include "engine/scratch.h"
#include "kernels/cuda/sampling.h"

namespace hels::cuda {
namespace {

constexpr int64_t kStrideElements = 8;
constexpr size_t kRegionBytes = 64;

}  // namespace

size_t slotsOffset(int64_t layers) {
  const size_t bytes = static_cast<size_t>(2 * layers) * sizeof(int32_t);
  return (bytes + kRegionBytes - 1) / kRegionBytes * kRegionBytes;
}

int64_t samplingRowsMax(const EngineOptions& options) { return std::min(options.sequencesMax, options.stepTokensMax); }

CudaScratch layoutCudaScratch(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                              const CudaScratchSizes& sizes, Arena& arena) {
  const int64_t tokens = sizes.tokens;
  const int64_t queries = queryColumns(model, shard);
  const int64_t ffn = shard.ffnColumns.size();
  const auto narrow = [&](int64_t rows, int64_t stride) -> void* {
    return arena.takeBytes(static_cast<size_t>(rows * stride) * bytesOf(model.weightType));
  };
  CudaScratch scratch;
  scratch.hiddenStride = roundUp(model.hiddenSize, kStrideElements);
  scratch.queryKeyValueStride = roundUp(queries + 2 * keyValueColumns(model, shard), kStrideElements);
  scratch.queryStride = roundUp(queries, kStrideElements);
  scratch.mlpStride = roundUp(model.gatedMlp ? 2 * ffn : ffn, kStrideElements);
  scratch.ffnStride = roundUp(ffn, kStrideElements);
  scratch.embeddingStride = roundUp(model.embeddingSize, kStrideElements);
  scratch.logitsStride = roundUp(shard.vocabRows.size(), kStrideElements);

  scratch.residual = arena.take<float>(tokens * scratch.hiddenStride);
  scratch.normalized = narrow(tokens, scratch.hiddenStride);
  scratch.queryKeyValue = arena.take<float>(tokens * scratch.queryKeyValueStride);
  scratch.queries = narrow(tokens, scratch.queryStride);
  scratch.attention = narrow(tokens, scratch.queryStride);
  scratch.mlp = arena.take<float>(tokens * scratch.mlpStride);
  scratch.activated = narrow(tokens, scratch.ffnStride);
  scratch.sums = arena.take<int64_t>(tokens * model.hiddenSize);
  if (options.numerics == Numerics::kFast) scratch.partials = arena.take<float>(tokens * model.hiddenSize);
  if (model.position == PositionEncoding::kRope && !shard.headGroups.empty()) {
    scratch.ropeTable = arena.take<float>(sizes.ropePositions * model.headDim);
  }
  scratch.headInput = narrow(sizes.logitRows, scratch.hiddenStride);
  if (hasEmbeddingProjection(model)) {
    scratch.embedded = narrow(tokens, scratch.embeddingStride);
    scratch.headProjected = arena.take<float>(sizes.logitRows * scratch.embeddingStride);
    scratch.headNarrow = narrow(sizes.logitRows, scratch.embeddingStride);
  }
  scratch.logits = arena.take<float>(sizes.logitRows * scratch.logitsStride);

  const int64_t samplingRows = samplingRowsMax(options);
  const int64_t slots = samplingRows * shard.ranks * kSlotValues;
  scratch.sampled = arena.take<int32_t>(options.sequencesMax);
  scratch.results = arena.takeBytes(slotsOffset(sizes.layers) + static_cast<size_t>(slots) * sizeof(int64_t));
  scratch.badRows = reinterpret_cast<int32_t*>(scratch.results);
  if (scratch.results != nullptr) {
    scratch.slots = reinterpret_cast<int64_t*>(scratch.results + slotsOffset(sizes.layers));
  }
  if (shard.ranks > 1) {
    scratch.hostSumsSize = kGatherRowsMax * divCeil(model.vocabRows, 2) + slots;
    scratch.hostSums = arena.take<int64_t>(scratch.hostSumsSize);
  }
  scratch.metadata = arena.takeBytes(sizes.metadataBytes);
  scratch.attentionWorkspace = arena.takeBytes(sizes.attentionWorkspaceBytes);
  const int64_t columnsMax =
      std::max({model.hiddenSize, model.embeddingSize, queries + 2 * keyValueColumns(model, shard),
                model.gatedMlp ? 2 * ffn : ffn, shard.vocabRows.size()});
  scratch.productWorkspaceBytes =
      productWorkspaceBytes(options.numerics, std::max(tokens, sizes.logitRows), columnsMax);
  arena.takeBytes((kProductWorkspaceAlignment - arena.usedBytes() % kProductWorkspaceAlignment) %
                  kProductWorkspaceAlignment);
  scratch.productWorkspace = arena.takeBytes(scratch.productWorkspaceBytes);
  scratch.samplingWorkspace = arena.takeBytes(samplingWorkspaceBytes(samplingRows, shard.vocabRows.size()));
  return scratch;
}

}  // namespace hels::cuda
