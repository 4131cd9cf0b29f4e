#include "engine/model_weights.h"

namespace hels {
namespace {

/// Where the parts go: what products multiply, and all else.
struct Arenas {
  ByWeightPart<Arena*> matrices;
  ByWeightPart<Arena*> others;
};

class Layout {
 public:
  Layout(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer, const Arenas& arenas)
      : model_(model), shard_(shard), packer_(packer), arenas_(arenas) {}

  NormWeights norm() {
    NormWeights weights;
    weights.weight = vector(WeightPart::kReplicated, model_.hiddenSize);
    if (model_.normalization == Normalization::kLayer) {
      weights.bias = vector(WeightPart::kReplicated, model_.hiddenSize);
    }
    return weights;
  }

  float* vector(WeightPart part, int64_t elements) { return arenas_.others[indexOf(part)]->take<float>(elements); }

  Linear linear(const WeightMatrix& matrix, WeightPart part) {
    Linear weights{matrix};
    weights.matrix.data = arenas_.matrices[indexOf(part)]->takeBytes(packer_.packedBytes(matrix));
    return weights;
  }

  /// The bias has as many elements as the matrix columns.
  Linear linear(const WeightMatrix& matrix, WeightPart part, bool bias, WeightPart biasPart) {
    Linear weights = linear(matrix, part);
    if (bias) weights.bias = vector(biasPart, matrix.columns);
    return weights;
  }

  /// One that is quantised if the model is, with groups counted in granules of `granule` inputs.
  WeightMatrix quantizable(int64_t columns, int64_t depth, Inputs inputs, int64_t granule) const {
    return {model_.weightType, columns, depth, nullptr, inputs, model_.quantization, granule};
  }

  /// Its errors go straight into the logits, and it is a small part of a large model: never fewer than 8 bits.
  Linear head(int64_t columns) {
    const Quantization quantization =
        model_.quantization == Quantization::kNone ? Quantization::kNone : Quantization::kInt8;
    return linear(
        {model_.weightType, columns, model_.embeddingSize, nullptr, narrowInputs(), quantization, model_.embeddingSize},
        WeightPart::kHead);
  }

  std::byte* table(WeightPart part, int64_t rows, int64_t columns) {
    Arena& arena = *arenas_.others[indexOf(part)];
    return arena.takeBytes(static_cast<size_t>(rows * columns) * bytesOf(model_.weightType));
  }

  /// bf16 weights multiply bf16 inputs, at twice the speed or more.
  Inputs narrowInputs() const { return model_.weightType == DataType::kBf16 ? Inputs::kBf16 : Inputs::kF32; }
  /// For keys and values: all later queries meet the rounding of their inputs, and attention exponentiates it.
  Inputs preciseInputs() const { return model_.weightType == DataType::kBf16 ? Inputs::kTwoBf16 : Inputs::kF32; }
  /// Queries, each of which is used once, take one term, or two where a group's do not fill whole panels: whatever the
  /// split, the same.
  int64_t oneTermColumns(int64_t queries) const {
    return model_.queryHeadsPerGroup * model_.headDim % kColumnPadding == 0 ? queries : 0;
  }

  LayerWeights layer() {
    const int64_t queries = queryColumns(model_, shard_);
    const int64_t columns = queries + 2 * keyValueColumns(model_, shard_);
    const int64_t ffn = shard_.ffnColumns.size();
    const int64_t hidden = model_.hiddenSize;
    LayerWeights weights;
    weights.attentionNorm = norm();
    WeightMatrix queryKeyValue = quantizable(columns, hidden, preciseInputs(), hidden);
    if (queryKeyValue.inputs == Inputs::kTwoBf16) queryKeyValue.oneTermColumns = oneTermColumns(queries);
    weights.queryKeyValue = linear(queryKeyValue, WeightPart::kAttention, model_.qkvBias, WeightPart::kAttention);
    if (model_.queryKeyNorm) {
      weights.queryNorm = vector(WeightPart::kReplicated, model_.headDim);
      weights.keyNorm = vector(WeightPart::kReplicated, model_.headDim);
    }
    const int64_t attentionGranule = model_.queryHeadsPerGroup * model_.headDim;
    weights.attentionOutput = linear(quantizable(hidden, queries, narrowInputs(), attentionGranule),
                                     WeightPart::kAttention, model_.attentionOutputBias, WeightPart::kReplicated);
    weights.mlpNorm = norm();
    weights.mlpInput = linear(quantizable(model_.gatedMlp ? 2 * ffn : ffn, hidden, narrowInputs(), hidden),
                              WeightPart::kMlp, model_.mlpBias, WeightPart::kMlp);
    weights.mlpOutput = linear(quantizable(hidden, ffn, narrowInputs(), model_.ffnGranule), WeightPart::kMlp,
                               model_.mlpBias, WeightPart::kReplicated);
    return weights;
  }

 private:
  const ModelSpec& model_;
  const ShardSpec& shard_;
  const WeightPacker& packer_;
  const Arenas& arenas_;
};

ModelWeights layout(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                    const Arenas& arenas) {
  Layout layout(model, shard, packer, arenas);
  ModelWeights weights;
  const bool headHoldsIt = model.tiedEmbeddings && packer.unpacks() && model.quantization == Quantization::kNone &&
                           shard.vocabRows.size() == model.vocabRows;
  if (!headHoldsIt) weights.embedding = layout.table(WeightPart::kEmbedding, model.vocabRows, model.embeddingSize);
  if (model.position == PositionEncoding::kLearned) {
    weights.positions =
        layout.table(WeightPart::kReplicated, model.learnedPositionOffset + model.maxPositions, model.hiddenSize);
  }
  if (hasEmbeddingProjection(model)) {
    const WeightPart part = WeightPart::kReplicated;
    weights.projectIn = layout.linear({model.weightType, model.hiddenSize, model.embeddingSize}, part);
    weights.projectOut = layout.linear({model.weightType, model.embeddingSize, model.hiddenSize}, part);
  }
  for (int64_t layer = 0; layer < layers; ++layer) weights.layers.push_back(layout.layer());
  if (model.finalNorm) weights.finalNorm = layout.norm();
  weights.head = layout.head(shard.vocabRows.size());
  return weights;
}

}  // namespace

Range rangeOf(WeightPart part, const ShardSpec& shard) {
  switch (part) {
    case WeightPart::kReplicated:
    case WeightPart::kEmbedding:
      return {};
    case WeightPart::kAttention:
      return shard.headGroups;
    case WeightPart::kMlp:
      return shard.ffnColumns;
    case WeightPart::kHead:
      return shard.vocabRows;
  }
  return {};
}

bool hasEmbeddingProjection(const ModelSpec& model) { return model.embeddingSize != model.hiddenSize; }

int64_t queryColumns(const ModelSpec& model, const ShardSpec& shard) {
  return shard.headGroups.size() * model.queryHeadsPerGroup * model.headDim;
}

int64_t keyValueColumns(const ModelSpec& model, const ShardSpec& shard) {
  return shard.headGroups.size() * model.headDim;
}

ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                           const ByWeightPart<Arena*>& parts) {
  return layout(model, shard, layers, packer, {parts, parts});
}

ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                           const ByWeightPart<Arena*>& matrices, const ByWeightPart<Arena*>& others) {
  return layout(model, shard, layers, packer, {matrices, others});
}

ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                           Arena& arena) {
  return layoutWeights(model, shard, layers, packer, {&arena, &arena, &arena, &arena, &arena});
}

}  // namespace hels
