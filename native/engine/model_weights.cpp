#include "engine/model_weights.h"

namespace hels {
namespace {

class Layout {
 public:
  Layout(const ModelSpec& model, const ShardSpec& shard, const Gemm& gemm, Arena& arena)
      : model_(model), shard_(shard), gemm_(gemm), arena_(arena) {}

  NormWeights norm() {
    NormWeights weights;
    weights.weight = arena_.take<float>(model_.hiddenSize);
    if (model_.normalization == Normalization::kLayer) weights.bias = arena_.take<float>(model_.hiddenSize);
    return weights;
  }

  /// The bias has `columns` elements.
  Linear linear(int64_t columns, int64_t depth, bool bias) {
    Linear weights;
    weights.matrix = {model_.weightType, columns, depth, nullptr};
    weights.matrix.data = arena_.takeBytes(gemm_.packedBytes(model_.weightType, columns, depth));
    if (bias) weights.bias = arena_.take<float>(columns);
    return weights;
  }

  std::byte* table(int64_t rows, int64_t columns) {
    return arena_.takeBytes(static_cast<size_t>(rows * columns) * bytesOf(model_.weightType));
  }

  LayerWeights layer() {
    const int64_t queries = queryColumns(model_, shard_);
    const int64_t columns = queries + 2 * keyValueColumns(model_, shard_);
    const int64_t ffn = shard_.ffnColumns.size();
    LayerWeights weights;
    weights.attentionNorm = norm();
    weights.queryKeyValue = linear(columns, model_.hiddenSize, model_.qkvBias);
    if (model_.queryKeyNorm) {
      weights.queryNorm = arena_.take<float>(model_.headDim);
      weights.keyNorm = arena_.take<float>(model_.headDim);
    }
    weights.attentionOutput = linear(model_.hiddenSize, queries, model_.attentionOutputBias);
    weights.mlpNorm = norm();
    weights.mlpInput = linear(model_.gatedMlp ? 2 * ffn : ffn, model_.hiddenSize, model_.mlpBias);
    weights.mlpOutput = linear(model_.hiddenSize, ffn, model_.mlpBias);
    return weights;
  }

 private:
  const ModelSpec& model_;
  const ShardSpec& shard_;
  const Gemm& gemm_;
  Arena& arena_;
};

}  // namespace

bool hasEmbeddingProjection(const ModelSpec& model) { return model.embeddingSize != model.hiddenSize; }

int64_t queryColumns(const ModelSpec& model, const ShardSpec& shard) {
  return shard.headGroups.size() * model.queryHeadsPerGroup * model.headDim;
}

int64_t keyValueColumns(const ModelSpec& model, const ShardSpec& shard) {
  return shard.headGroups.size() * model.headDim;
}

ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const Gemm& gemm,
                           Arena& arena) {
  Layout layout(model, shard, gemm, arena);
  ModelWeights weights;
  weights.embedding = layout.table(model.vocabRows, model.embeddingSize);
  if (model.position == PositionEncoding::kLearned) {
    weights.positions = layout.table(model.learnedPositionOffset + model.maxPositions, model.hiddenSize);
  }
  if (hasEmbeddingProjection(model)) {
    weights.projectIn = layout.linear(model.hiddenSize, model.embeddingSize, false);
    weights.projectOut = layout.linear(model.embeddingSize, model.hiddenSize, false);
  }
  for (int64_t layer = 0; layer < layers; ++layer) weights.layers.push_back(layout.layer());
  if (model.finalNorm) weights.finalNorm = layout.norm();
  weights.head = layout.linear(shard.vocabRows.size(), model.embeddingSize, false);
  return weights;
}

}  // namespace hels
