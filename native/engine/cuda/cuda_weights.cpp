#include "engine/cuda/cuda_weights.h"

#include <cmath>
#include <string>
#include <utility>

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
    // Of a tied head the source may be an embedding that is on the device already.
    check(cudaMemcpy2DAsync(target, rowBytes(matrix), source, sourceBytes, sourceBytes, static_cast<size_t>(count),
                            cudaMemcpyDefault, nullptr),
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
  clear(buffer, purpose);
  return buffer;
}

/// Of one part.
struct Sizes {
  size_t matrices = 0;
  size_t others = 0;
};

ByWeightPart<Arena*> pointersTo(ByWeightPart<Arena>& arenas) {
  ByWeightPart<Arena*> pointers = {};
  for (size_t part = 0; part < arenas.size(); ++part) pointers[part] = &arenas[part];
  return pointers;
}

ByWeightPart<Sizes> sizesOf(const ModelSpec& model, const ShardSpec& shard, int64_t layers) {
  ByWeightPart<Arena> matrices;
  ByWeightPart<Arena> others;
  layoutWeights(model, shard, layers, DevicePacker(), pointersTo(matrices), pointersTo(others));
  ByWeightPart<Sizes> sizes = {};
  for (size_t part = 0; part < sizes.size(); ++part)
    sizes[part] = {matrices[part].usedBytes(), others[part].usedBytes()};
  return sizes;
}

}  // namespace

int64_t paddedDepth(DataType type, int64_t depth) {
  return type == DataType::kF32 ? depth : roundUp(depth, kVectorElements);
}

DeviceMatrix deviceMatrix(const WeightMatrix& matrix) {
  return {matrix.type, matrix.columns, paddedDepth(matrix.type, matrix.depth), matrix.data};
}

size_t CudaWeights::measure(const ModelSpec& model, const ShardSpec& shard, int64_t layers) {
  size_t bytes = 0;
  for (const Sizes& sizes : sizesOf(model, shard, layers)) bytes += sizes.matrices + sizes.others;
  return bytes;
}

CudaWeightRegions CudaWeights::kept(const ModelSpec& model, const ShardSpec& shard, CudaWeightRegions previous) {
  const ByWeightPart<Sizes> sizes = sizesOf(model, shard, model.layers);
  for (const WeightPart part : kWeightParts) {
    std::shared_ptr<CudaWeightRegion>& region = previous[indexOf(part)];
    const Sizes& size = sizes[indexOf(part)];
    const bool same = region != nullptr && region->range == rangeOf(part, shard) &&
                      region->matrices.sizeBytes() == size.matrices && region->others.sizeBytes() == size.others;
    if (!same) region.reset();
  }
  return previous;
}

CudaWeights::CudaWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, CudaWeightRegions kept)
    : model_(model), shard_(shard), layers_(layers), regions_(std::move(kept)) {
  const ByWeightPart<Sizes> sizes = sizesOf(model, shard, layers);
  ByWeightPart<std::byte*> others = {};
  for (const WeightPart part : kWeightParts) {
    std::shared_ptr<CudaWeightRegion>& region = regions_[indexOf(part)];
    if (region != nullptr) {
      adoptedBytes_ += region->accounting.bytesLoaded;
    } else {
      const Sizes& size = sizes[indexOf(part)];
      region = std::make_shared<CudaWeightRegion>();
      region->range = rangeOf(part, shard);
      region->matrices = zeroed(size.matrices, "weights");
      region->others = zeroed(size.others, "tables, norms and biases");
      wanted_[indexOf(part)] = true;
    }
    others[indexOf(part)] = region->others.data();
  }
  views_ = layout(others);
}

ModelWeights CudaWeights::layout(const ByWeightPart<std::byte*>& others) const {
  const auto matricesOf = [&](WeightPart part) {
    const DeviceBuffer& buffer = regions_[indexOf(part)]->matrices;
    return Arena(buffer.data(), buffer.sizeBytes());
  };
  const auto othersOf = [&](WeightPart part) {
    return Arena(others[indexOf(part)], regions_[indexOf(part)]->others.sizeBytes());
  };
  ByWeightPart<Arena> matrices = {matricesOf(WeightPart::kReplicated), matricesOf(WeightPart::kEmbedding),
                                  matricesOf(WeightPart::kAttention), matricesOf(WeightPart::kMlp),
                                  matricesOf(WeightPart::kHead)};
  ByWeightPart<Arena> rest = {othersOf(WeightPart::kReplicated), othersOf(WeightPart::kEmbedding),
                              othersOf(WeightPart::kAttention), othersOf(WeightPart::kMlp),
                              othersOf(WeightPart::kHead)};
  return layoutWeights(model_, shard_, layers_, DevicePacker(), pointersTo(matrices), pointersTo(rest));
}

void CudaWeights::load(WeightReader& reader) {
  const char* purpose = "tables, norms and biases on their way to the device";
  ByWeightPart<std::unique_ptr<Arena>> host;
  ByWeightPart<std::byte*> others = {};
  for (const WeightPart part : kWeightParts) {
    const DeviceBuffer& buffer = regions_[indexOf(part)]->others;
    others[indexOf(part)] = buffer.data();
    if (!wanted_[indexOf(part)]) continue;
    host[indexOf(part)] = std::make_unique<Arena>(buffer.sizeBytes(), purpose);
    others[indexOf(part)] = host[indexOf(part)]->data();
  }
  const ByWeightPart<LoadAccounting> loaded =
      loadWeightParts(model_, shard_, DevicePacker(), reader, layout(others), wanted_);
  for (const WeightPart part : kWeightParts) {
    if (!wanted_[indexOf(part)]) continue;
    CudaWeightRegion& region = *regions_[indexOf(part)];
    region.accounting = loaded[indexOf(part)];
    if (region.others.sizeBytes() == 0) continue;
    check(cudaMemcpy(region.others.data(), others[indexOf(part)], region.others.sizeBytes(), cudaMemcpyHostToDevice),
          "copy of weights");
  }
  wanted_ = {};
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
