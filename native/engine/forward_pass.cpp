#include "engine/forward_pass.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rope.h"

namespace hels {
namespace {

constexpr int64_t kParallelElementsMin = int64_t{64} * 1024;

/// target[i] = row(index) of a table in the weights' type, widened.
void widenRow(DataType type, const std::byte* table, int64_t index, int64_t columns, float* target) {
  const std::byte* row = table + static_cast<size_t>(index * columns) * bytesOf(type);
  for (int64_t i = 0; i < columns; ++i) {
    if (type == DataType::kF32) {
      target[i] = reinterpret_cast<const float*>(row)[i];
    } else {
      const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[i];
      target[i] = type == DataType::kBf16 ? bf16ToF32(bits) : f16ToF32(bits);
    }
  }
}

}  // namespace

ForwardPass::ForwardPass(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options, Gemm& gemm,
                         const ModelWeights& weights, const KvCache& kv, const Scratch& scratch, Collective& collective,
                         RemoteAttention* remote)
    : model_(model),
      shard_(shard),
      options_(options),
      gemm_(gemm),
      weights_(weights),
      kv_(kv),
      scratch_(scratch),
      collective_(collective),
      remote_(remote) {
  if (scratch_.ropeTable == nullptr) return;
  const std::vector<float> frequencies = ropeFrequencies(model);
  for (int64_t position = 0; position < positionsMax(model, options); ++position) {
    fillRopeRow(frequencies, position, scratch_.ropeTable + position * model.headDim);
  }
}

void ForwardPass::run(const TokenBatch& batch) {
  embed(batch);
  listAttentionItems(batch);
  if (remote_ != nullptr) remote_->begin(batch);
  for (int64_t layer = 0; layer < static_cast<int64_t>(weights_.layers.size()); ++layer) {
    attentionBlock(batch, layer);
    mlpBlock(batch, layer);
  }
}

void ForwardPass::embed(const TokenBatch& batch) {
  const bool projected = hasEmbeddingProjection(model_);
  float* target = projected ? scratch_.embedded : scratch_.residual;
  const int64_t stride = projected ? scratch_.embeddingStride : scratch_.hiddenStride;
  const int threads = rowThreads(batch.tokens(), model_.embeddingSize);
  parallelFor(threads, batch.tokens(), [&](int64_t token) {
    const int32_t id = batch.tokenIds[static_cast<size_t>(token)];
    if (weights_.embedding == nullptr) {
      gemm_.unpack(weights_.head.matrix, id, target + token * stride);
    } else {
      widenRow(model_.weightType, weights_.embedding, id, model_.embeddingSize, target + token * stride);
    }
  });
  if (projected) {
    gemm_.multiply(weights_.projectIn.matrix, target, stride, batch.tokens(), scratch_.residual, scratch_.hiddenStride);
  }
  if (model_.position != PositionEncoding::kLearned) return;
  parallelFor(threads, batch.tokens(), [&](int64_t token) {
    float* position = scratch_.normalized + token * scratch_.hiddenStride;
    widenRow(model_.weightType, weights_.positions,
             batch.positions[static_cast<size_t>(token)] + model_.learnedPositionOffset, model_.hiddenSize, position);
    float* residual = scratch_.residual + token * scratch_.hiddenStride;
    for (int64_t i = 0; i < model_.hiddenSize; ++i) residual[i] += position[i];
  });
}

void ForwardPass::normalizeRow(const NormWeights& norm, const float* source, float* target) const {
  if (model_.normalization == Normalization::kRms) {
    rmsNorm(source, norm.weight, model_.hiddenSize, model_.normEpsilon, target);
  } else {
    layerNorm(source, norm.weight, norm.bias, model_.hiddenSize, model_.normEpsilon, target);
  }
}

void ForwardPass::normalize(const NormWeights& norm, int64_t tokens, float* target) {
  parallelFor(rowThreads(tokens, model_.hiddenSize), tokens, [&](int64_t token) {
    normalizeRow(norm, scratch_.residual + token * scratch_.hiddenStride, target + token * scratch_.hiddenStride);
  });
}

void ForwardPass::addBias(const Linear& linear, float* rows, int64_t stride, int64_t tokens) const {
  if (linear.bias == nullptr) return;
  parallelFor(rowThreads(tokens, linear.matrix.columns), tokens, [&](int64_t token) {
    float* row = rows + token * stride;
    for (int64_t i = 0; i < linear.matrix.columns; ++i) row[i] += linear.bias[i];
  });
}

void ForwardPass::addRowParallel(const TokenBatch& batch, int64_t layer, const char* name, const Linear& linear,
                                 const float* input, int64_t inputStride, int64_t granuleDepth) {
  const int64_t hidden = model_.hiddenSize;
  const int64_t tokens = batch.tokens();
  const int64_t bad =
      gemm_.multiplyFixedPoint(linear.matrix, input, inputStride, tokens, granuleDepth, scratch_.sums, hidden);
  if (bad >= 0) {
    throw Error(ErrorCode::kNumericRange,
                "layer " + std::to_string(layer) + ", " + name + ": a partial sum of sequence " +
                    std::to_string(batch.sequenceOf[static_cast<size_t>(bad)]) + " of the step, position " +
                    std::to_string(batch.positions[static_cast<size_t>(bad)]) + ", is NaN, infinite or not below 2^24");
  }
  collective_.sum({scratch_.sums, static_cast<size_t>(tokens * hidden)});
  parallelFor(rowThreads(tokens, hidden), tokens, [&](int64_t token) {
    addFromFixedPoint(scratch_.sums + token * hidden, linear.bias, hidden,
                      scratch_.residual + token * scratch_.hiddenStride, bestIsa());
  });
}

float* ForwardPass::logits(std::span<const int64_t> tokens) {
  const auto rows = static_cast<int64_t>(tokens.size());
  for (int64_t row = 0; row < rows; ++row) {
    const float* residual = scratch_.residual + tokens[static_cast<size_t>(row)] * scratch_.hiddenStride;
    float* target = scratch_.headInput + row * scratch_.hiddenStride;
    if (model_.finalNorm) {
      normalizeRow(weights_.finalNorm, residual, target);
    } else {
      std::copy_n(residual, model_.hiddenSize, target);
    }
  }
  const float* input = scratch_.headInput;
  int64_t stride = scratch_.hiddenStride;
  if (hasEmbeddingProjection(model_)) {
    gemm_.multiply(weights_.projectOut.matrix, input, stride, rows, scratch_.headProjected, scratch_.embeddingStride);
    input = scratch_.headProjected;
    stride = scratch_.embeddingStride;
  }
  gemm_.multiply(weights_.head.matrix, input, stride, rows, scratch_.logits, scratch_.logitsStride);
  return scratch_.logits;
}

int ForwardPass::rowThreads(int64_t tokens, int64_t width) const {
  return tokens * width < kParallelElementsMin ? 1 : options_.threads;
}

}  // namespace hels
