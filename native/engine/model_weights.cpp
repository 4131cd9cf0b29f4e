#include "engine/model_weights.h"

namespace hels {
namespace {

class Layout {
 public:
  Layout(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer, Arena& matrices, Arena& arena)
      : model_(model), shard_(shard), packer_(packer), matrices_(matrices), arena_(arena) {}

  NormWeights norm() {
    NormWeights weights;
    weights.weight = arena_.take<float>(model_.hiddenSize);
    if (model_.normalization == Normalization::kLayer) weights.bias = arena_.take<float>(model_.hiddenSize);
    return weights;
  }

  /// The bias has as many elements as the matrix columns.
  Linear linear(const WeightMatrix& matrix, bool bias) {
    Linear weights{matrix};
    weights.matrix.data = matrices_.takeBytes(packer_.packedBytes(matrix));
    if (bias) weights.bias = arena_.take<float>(matrix.columns);
    return weights;
  }

  /// One that is quantised if the model is, with groups counted in granules of `granule` inputs.
  Linear quantizable(int64_t columns, int64_t depth, bool bias, Inputs inputs, int64_t granule) {
    return linear({model_.weightType, columns, depth, nullptr, inputs, model_.quantization, granule}, bias);
  }

  /// Its errors go straight into the logits, and it is a small part of a large model: never fewer than 8 bits.
  Linear head(int64_t columns) {
    const Quantization quantization =
        model_.quantization == Quantization::kNone ? Quantization::kNone : Quantization::kInt8;
    return linear(
        {model_.weightType, columns, model_.embeddingSize, nullptr, narrowInputs(), quantization, model_.embeddingSize},
        false);
  }

  std::byte* table(int64_t rows, int64_t columns) {
    return arena_.takeBytes(static_cast<size_t>(rows * columns) * bytesOf(model_.weightType));
  }

  /// bf16 weights multiply bf16 inputs, at twice the speed or more.
  Inputs narrowInputs() const { return model_.weightType == DataType::kBf16 ? Inputs::kBf16 : Inputs::kF32; }
  Inputs preciseInputs() const { return model_.weightType == DataType::kBf16 ? Inputs::kTwoBf16 : Inputs::kF32; }

  LayerWeights layer() {
    const int64_t queries = queryColumns(model_, shard_);
    const int64_t columns = queries + 2 * keyValueColumns(model_, shard_);
    const int64_t ffn = shard_.ffnColumns.size();
    LayerWeights weights;
    weights.attentionNorm = norm();
    // Attention exponentiates what comes of these, and with it the rounding of their inputs.
    weights.queryKeyValue = quantizable(columns, model_.hiddenSize, model_.qkvBias, preciseInputs(), model_.hiddenSize);
    if (model_.queryKeyNorm) {
      weights.queryNorm = arena_.take<float>(model_.headDim);
      weights.keyNorm = arena_.take<float>(model_.headDim);
    }
    weights.attentionOutput = quantizable(model_.hiddenSize, queries, model_.attentionOutputBias, narrowInputs(),
                                          model_.queryHeadsPerGroup * model_.headDim);
    weights.mlpNorm = norm();
    weights.mlpInput = quantizable(model_.gatedMlp ? 2 * ffn : ffn, model_.hiddenSize, model_.mlpBias, narrowInputs(),
                                   model_.hiddenSize);
    weights.mlpOutput = quantizable(model_.hiddenSize, ffn, model_.mlpBias, narrowInputs(), model_.ffnGranule);
    return weights;
  }

 private:
  const ModelSpec& model_;
  const ShardSpec& shard_;
  const WeightPacker& packer_;
  Arena& matrices_;
  Arena& arena_;  // of all else
};

}  // namespace

bool hasEmbeddingProjection(const ModelSpec& model) { return model.embeddingSize != model.hiddenSize; }

int64_t queryColumns(const ModelSpec& model, const ShardSpec& shard) {
  return shard.headGroups.size() * model.queryHeadsPerGroup * model.headDim;
}

int64_t keyValueColumns(const ModelSpec& model, const ShardSpec& shard) {
  return shard.headGroups.size() * model.headDim;
}

ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                           Arena& matrices, Arena& others) {
  Layout layout(model, shard, packer, matrices, others);
  ModelWeights weights;
  const bool headHoldsIt = model.tiedEmbeddings && packer.unpacks() && model.quantization == Quantization::kNone &&
                           shard.vocabRows.size() == model.vocabRows;
  if (!headHoldsIt) weights.embedding = layout.table(model.vocabRows, model.embeddingSize);
  if (model.position == PositionEncoding::kLearned) {
    weights.positions = layout.table(model.learnedPositionOffset + model.maxPositions, model.hiddenSize);
  }
  if (hasEmbeddingProjection(model)) {
    weights.projectIn = layout.linear({model.weightType, model.hiddenSize, model.embeddingSize}, false);
    weights.projectOut = layout.linear({model.weightType, model.embeddingSize, model.hiddenSize}, false);
  }
  for (int64_t layer = 0; layer < layers; ++layer) weights.layers.push_back(layout.layer());
  if (model.finalNorm) weights.finalNorm = layout.norm();
  weights.head = layout.head(shard.vocabRows.size());
  return weights;
}

ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                           Arena& arena) {
  return layoutWeights(model, shard, layers, packer, arena, arena);
}

}  // namespace hels
