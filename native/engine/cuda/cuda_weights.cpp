#include "engine/cuda/cuda_weights.h"

#include <cmath>
#include <string>

#include "base/cuda/check.h"
#include "engine/weight_loader.h"
#include "kernels/cuda/elementwise.h"

namespace hels::cuda {
namespace {

/// Elements in 16 bytes of a 16-bit type.
constexpr int64_t kVectorElements = 8;

class DevicePacker final : public WeightPacker {
 public:
  std::string implementation() const override { return "cuda"; }

  size_t packedBytes(const WeightMatrix& matrix) const override {
    return static_cast<size_t>(matrix.columns) * rowBytes(matrix);
  }

  void pack(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source) const override {
    if (count == 0 || matrix.depth == 0) return;
    const size_t sourceBytes = static_cast<size_t>(matrix.depth) * bytesOf(matrix.type);
    std::byte* target = matrix.data + static_cast<size_t>(firstColumn) * rowBytes(matrix);
    check(cudaMemcpy2DAsync(target, rowBytes(matrix), source, sourceBytes, sourceBytes, static_cast<size_t>(count),
                            cudaMemcpyHostToDevice, nullptr),
          "copy of weights");
    check(cudaStreamSynchronize(nullptr), "copy of weights");  // the source is used again
  }

 private:
  static size_t rowBytes(const WeightMatrix& matrix) {
    return static_cast<size_t>(paddedDepth(matrix.type, matrix.depth)) * bytesOf(matrix.type);
  }
};

DeviceBuffer zeroed(size_t sizeBytes, const char* purpose) {
  DeviceBuffer buffer(sizeBytes, purpose);
  if (sizeBytes > 0) check(cudaMemset(buffer.data(), 0, sizeBytes), std::string("clearing of ") + purpose);
  return buffer;
}

struct Sizes {
  size_t matrices = 0;
  size_t others = 0;
};

Sizes sizesOf(const ModelSpec& model, const ShardSpec& shard, int64_t layers) {
  Arena matrices;
  Arena others;
  layoutWeights(model, shard, layers, DevicePacker(), matrices, others);
  return {matrices.usedBytes(), others.usedBytes()};
}

}  // namespace

int64_t paddedDepth(DataType type, int64_t depth) {
  return type == DataType::kF32 ? depth : roundUp(depth, kVectorElements);
}

DeviceMatrix deviceMatrix(const WeightMatrix& matrix) {
  return {matrix.type, matrix.columns, paddedDepth(matrix.type, matrix.depth), matrix.data};
}

size_t CudaWeights::measure(const ModelSpec& model, const ShardSpec& shard, int64_t layers) {
  const Sizes sizes = sizesOf(model, shard, layers);
  return sizes.matrices + sizes.others;
}

CudaWeights::CudaWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers)
    : model_(model),
      shard_(shard),
      layers_(layers),
      matrices_(zeroed(sizesOf(model, shard, layers).matrices, "weights")),
      others_(zeroed(sizesOf(model, shard, layers).others, "tables, norms and biases")) {
  Arena others(others_.data(), others_.sizeBytes());
  views_ = layout(others);
}

ModelWeights CudaWeights::layout(Arena& others) const {
  Arena matrices(matrices_.data(), matrices_.sizeBytes());
  return layoutWeights(model_, shard_, layers_, DevicePacker(), matrices, others);
}

void CudaWeights::load(WeightReader& reader) {
  Arena host(others_.sizeBytes(), "tables, norms and biases on their way to the device");
  const std::byte* first = host.takeBytes(0);
  loadWeights(model_, shard_, DevicePacker(), reader, layout(host));
  check(cudaMemcpy(others_.data(), first, others_.sizeBytes(), cudaMemcpyHostToDevice), "copy of weights");
}

void CudaWeights::fillRandom(uint64_t seed, cudaStream_t stream) {
  const auto fill = [&](const Linear& linear) {
    const DeviceMatrix matrix = deviceMatrix(linear.matrix);
    if (matrix.depth == 0) return;
    // Of variance 1 / depth.
    const auto amplitude = static_cast<float>(std::sqrt(3.0 / static_cast<double>(linear.matrix.depth)));
    cuda::fillRandom(matrix.type, linear.matrix.data, matrix.columns * matrix.depth, amplitude, ++seed, stream);
  };
  const auto one = [&](float* values, int64_t count) {
    if (values != nullptr) fillValue(values, count, 1.0F, stream);
  };
  cuda::fillRandom(model_.weightType, views_.embedding, model_.vocabRows * model_.embeddingSize, 1.0F, ++seed, stream);
  if (views_.positions != nullptr) {
    cuda::fillRandom(model_.weightType, views_.positions,
                     (model_.learnedPositionOffset + model_.maxPositions) * model_.hiddenSize, 1.0F, ++seed, stream);
  }
  if (hasEmbeddingProjection(model_)) {
    fill(views_.projectIn);
    fill(views_.projectOut);
  }
  for (const LayerWeights& layer : views_.layers) {
    one(layer.attentionNorm.weight, model_.hiddenSize);
    one(layer.mlpNorm.weight, model_.hiddenSize);
    one(layer.queryNorm, model_.headDim);
    one(layer.keyNorm, model_.headDim);
    for (const Linear* linear : {&layer.queryKeyValue, &layer.attentionOutput, &layer.mlpInput, &layer.mlpOutput}) {
      fill(*linear);
    }
  }
  one(views_.finalNorm.weight, model_.hiddenSize);
  fill(views_.head);
  check(cudaStreamSynchronize(stream), "made-up weights");
}

}  // namespace hels::cuda
