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
  Linear linear(int64_t columns, int64_t depth, bool bias, Inputs inputs) {
    Linear weights;
    weights.matrix = {model_.weightType, columns, depth, nullptr, inputs};
    weights.matrix.data = arena_.takeBytes(gemm_.packedBytes(weights.matrix));
    if (bias) weights.bias = arena_.take<float>(columns);
    return weights;
  }

  std::byte* table(int64_t rows, int64_t columns) {
    return arena_.takeBytes(static_cast<size_t>(rows * columns) * bytesOf(model_.weightType));
  }

  /// bf16 weights multiply bf16 inputs, at twice the speed.
  Inputs narrowInputs() const { return model_.weightType == DataType::kBf16 ? Inputs::kBf16 : Inputs::kF32; }

  LayerWeights layer() {
    const int64_t queries = queryColumns(model_, shard_);
    const int64_t columns = queries + 2 * keyValueColumns(model_, shard_);
    const int64_t ffn = shard_.ffnColumns.size();
    LayerWeights weights;
    weights.attentionNorm = norm();
    // Attention exponentiates what comes of these, and with it the rounding of their inputs: they keep f32.
    weights.queryKeyValue = linear(columns, model_.hiddenSize, model_.qkvBias, Inputs::kF32);
    if (model_.queryKeyNorm) {
      weights.queryNorm = arena_.take<float>(model_.headDim);
      weights.keyNorm = arena_.take<float>(model_.headDim);
    }
    weights.attentionOutput = linear(model_.hiddenSize, queries, model_.attentionOutputBias, narrowInputs());
    weights.mlpNorm = norm();
    weights.mlpInput = linear(model_.gatedMlp ? 2 * ffn : ffn, model_.hiddenSize, model_.mlpBias, narrowInputs());
    weights.mlpOutput = linear(model_.hiddenSize, ffn, model_.mlpBias, narrowInputs());
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
    weights.projectIn = layout.linear(model.hiddenSize, model.embeddingSize, false, Inputs::kF32);
    weights.projectOut = layout.linear(model.embeddingSize, model.hiddenSize, false, Inputs::kF32);
  }
  for (int64_t layer = 0; layer < layers; ++layer) weights.layers.push_back(layout.layer());
  if (model.finalNorm) weights.finalNorm = layout.norm();
  weights.head = layout.linear(shard.vocabRows.size(), model.embeddingSize, false, layout.narrowInputs());
  return weights;
}

}  // namespace hels
