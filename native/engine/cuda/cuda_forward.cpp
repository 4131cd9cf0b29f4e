#include "engine/cuda/cuda_forward.h"

#include <algorithm>
#include <cmath>

#include "engine/cuda/cuda_weights.h"
#include "kernels/cuda/activation.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/heads.h"

namespace hels::cuda {

AttentionModel attentionModel(const ModelSpec& model, int64_t layer) {
  AttentionModel attention;
  attention.queryHeadsPerGroup = model.queryHeadsPerGroup;
  if (!model.slidingWindows.empty()) attention.window = model.slidingWindows[static_cast<size_t>(layer)];
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(model.headDim)));
  return attention;
}

void CudaForward::run(const StepMetadata& metadata, cudaStream_t stream) {
  embed(metadata, stream);
  for (int64_t layer = 0; layer < static_cast<int64_t>(weights_.layers.size()); ++layer) {
    attentionBlock(metadata, layer, stream);
    mlpBlock(metadata, layer, stream);
  }
}

void CudaForward::embed(const StepMetadata& metadata, cudaStream_t stream) {
  const int64_t tokens = metadata.shape().tokens;
  const Embedding embedding{model_.weightType,   weights_.embedding, model_.embeddingSize,
                            metadata.tokenIds(), scratch_.sampled,   tokens};
  if (hasEmbeddingProjection(model_)) {
    gatherEmbedding(embedding, scratch_.embedded, scratch_.embeddingStride, stream);
    products_.multiply(deviceMatrix(weights_.projectIn.matrix), {scratch_.embedded, scratch_.embeddingStride, tokens},
                       scratch_.residual, scratch_.hiddenStride, scratch_, stream);
  } else {
    embedTokens(embedding, scratch_.residual, scratch_.hiddenStride, stream);
  }
  if (model_.position == PositionEncoding::kLearned) {
    addPositions(model_.weightType, weights_.positions, model_.hiddenSize, metadata.deviceBatch().positions,
                 model_.learnedPositionOffset, tokens, scratch_.residual, scratch_.hiddenStride, stream);
  }
  ResidualStep step = residualStep(metadata);
  if (model_.normBeforeBlock && !weights_.layers.empty()) setNorm(weights_.layers.front().attentionNorm, step);
  advanceResidual(step, stream);
}

ResidualStep CudaForward::residualStep(const StepMetadata& metadata) const {
  ResidualStep step;
  step.residual = scratch_.residual;
  step.stride = scratch_.hiddenStride;
  step.columns = model_.hiddenSize;
  step.output = scratch_.normalized;
  step.outputStride = scratch_.hiddenStride;
  step.outputType = model_.weightType;
  step.rows = metadata.shape().tokens;
  return step;
}

void CudaForward::setNorm(const NormWeights& norm, ResidualStep& step) const {
  step.norm = model_.normalization == Normalization::kRms ? RowNorm::kRms : RowNorm::kLayer;
  step.weight = norm.weight;
  step.normBias = norm.bias;
  step.epsilon = model_.normEpsilon;
}

void CudaForward::advance(const StepMetadata& metadata, const float* bias, const NormWeights* norm, bool normStays,
                          cudaStream_t stream) const {
  ResidualStep step = residualStep(metadata);
  step.sums = scratch_.sums;
  step.bias = bias;
  if (norm != nullptr) setNorm(*norm, step);
  step.normStays = normStays;
  advanceResidual(step, stream);
}

void CudaForward::multiplyRowParallel(const WeightMatrix& matrix, const void* x, int64_t stride, int64_t tokens,
                                      int64_t granule, int32_t* badRow, cudaStream_t stream) {
  products_.multiplyFixedPoint(deviceMatrix(matrix), {x, stride, tokens}, paddedDepth(matrix.type, granule), badRow,
                               scratch_, stream);
  collective_.sum(scratch_.sums, tokens * model_.hiddenSize, stream);
}

void CudaForward::attentionBlock(const StepMetadata& metadata, int64_t layer, cudaStream_t stream) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t tokens = metadata.shape().tokens;
  const AttentionModel attention = attentionModel(model_, layer);
  const DeviceKv kv = kv_.layer(layer);
  const DeviceBatch batch = metadata.deviceBatch();
  const bool exchanges = remote_ != nullptr && remote_->active(attention);
  if (!shard_.headGroups.empty()) {
    products_.multiply(deviceMatrix(weights.queryKeyValue.matrix), {scratch_.normalized, scratch_.hiddenStride, tokens},
                       scratch_.queryKeyValue, scratch_.queryKeyValueStride, scratch_, stream);
    HeadPreparation preparation;
    preparation.queryHeadsPerGroup = model_.queryHeadsPerGroup;
    preparation.bias = weights.queryKeyValue.bias;
    preparation.queryNorm = weights.queryNorm;
    preparation.keyNorm = weights.keyNorm;
    preparation.normEpsilon = static_cast<float>(model_.normEpsilon);
    preparation.ropeTable = scratch_.ropeTable;
    if (exchanges) {
      preparation.elsewhere = remote_->elsewhere();
      preparation.elsewhereStride = remote_->elsewhereStride();
    }
    prepareHeads(preparation, kv, batch, scratch_.queryKeyValue, scratch_.queryKeyValueStride, scratch_.queries,
                 scratch_.queryStride, stream);
    if (!exchanges) {
      attend(attention, kv, batch, scratch_.queries, scratch_.queryStride, scratch_.attention, scratch_.queryStride,
             scratch_.attentionWorkspace, stream);
    }
  }
  if (exchanges) {  // also without heads: this rank may hold KV of others
    remote_->attend(layer, attention, kv, batch, static_cast<const std::byte*>(scratch_.queries),
                    static_cast<std::byte*>(scratch_.attention), scratch_.queryStride, scratch_.attentionWorkspace,
                    stream);
  }
  multiplyRowParallel(weights.attentionOutput.matrix, scratch_.attention, scratch_.queryStride, tokens,
                      model_.queryHeadsPerGroup * model_.headDim, scratch_.badRows + 2 * layer, stream);
  advance(metadata, weights.attentionOutput.bias, model_.normBeforeBlock ? &weights.mlpNorm : &weights.attentionNorm,
          !model_.normBeforeBlock, stream);
}

void CudaForward::mlpBlock(const StepMetadata& metadata, int64_t layer, cudaStream_t stream) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t tokens = metadata.shape().tokens;
  const int64_t columns = shard_.ffnColumns.size();
  if (columns > 0) {
    products_.multiply(deviceMatrix(weights.mlpInput.matrix), {scratch_.normalized, scratch_.hiddenStride, tokens},
                       scratch_.mlp, scratch_.mlpStride, scratch_, stream);
    ActivationStep step;
    step.kind = model_.activation == Activation::kSilu ? ActivationKind::kSilu : ActivationKind::kRelu;
    step.gated = model_.gatedMlp;
    step.input = scratch_.mlp;
    step.inputStride = scratch_.mlpStride;
    step.bias = weights.mlpInput.bias;
    step.columns = columns;
    step.rows = tokens;
    step.output = scratch_.activated;
    step.outputStride = scratch_.ffnStride;
    step.outputType = model_.weightType;
    activate(step, stream);
  }
  multiplyRowParallel(weights.mlpOutput.matrix, scratch_.activated, scratch_.ffnStride, tokens, model_.ffnGranule,
                      scratch_.badRows + 2 * layer + 1, stream);
  const bool last = layer + 1 == static_cast<int64_t>(weights_.layers.size());
  if (last) return;  // logits() goes on with the rows that it needs
  advance(metadata, weights.mlpOutput.bias,
          model_.normBeforeBlock ? &weights_.layers[static_cast<size_t>(layer + 1)].attentionNorm : &weights.mlpNorm,
          !model_.normBeforeBlock, stream);
}

void CudaForward::logits(const StepMetadata& metadata, int64_t firstRow, int64_t rows, cudaStream_t stream) {
  ResidualStep step = residualStep(metadata);
  step.output = scratch_.headInput;
  step.tokens = metadata.logitTokens() + firstRow;
  step.rows = rows;
  if (!weights_.layers.empty()) {
    step.sums = scratch_.sums;
    step.bias = weights_.layers.back().mlpOutput.bias;
    if (!model_.normBeforeBlock) {
      setNorm(weights_.layers.back().mlpNorm, step);
      step.normStays = true;
    }
  }
  if (model_.finalNorm && step.norm == RowNorm::kCopy) {
    setNorm(weights_.finalNorm, step);
    advanceResidual(step, stream);
  } else {
    advanceResidual(step, stream);
    if (model_.finalNorm) {  // after a norm that stays
      ResidualStep final = residualStep(metadata);
      final.output = step.output;
      final.tokens = step.tokens;
      final.rows = rows;
      setNorm(weights_.finalNorm, final);
      advanceResidual(final, stream);
    }
  }
  DeviceRows input{scratch_.headInput, scratch_.hiddenStride, rows};
  if (hasEmbeddingProjection(model_)) {
    products_.multiply(deviceMatrix(weights_.projectOut.matrix), input, scratch_.headProjected,
                       scratch_.embeddingStride, scratch_, stream);
    narrowRows(scratch_.headProjected, scratch_.embeddingStride, rows, model_.embeddingSize, model_.weightType,
               scratch_.headNarrow, scratch_.embeddingStride, stream);
    input = {scratch_.headNarrow, scratch_.embeddingStride, rows};
  }
  products_.multiply(deviceMatrix(weights_.head.matrix), input, scratch_.logits, scratch_.logitsStride, scratch_,
                     stream);
}

}  // namespace hels::cuda
