// One rank's weights in device memory: matrices row-major as the product kernels read them, tables in the weights'
// type, norms and biases in f32. Laid out and loaded by the code of the CPU.
#pragma once

#include <cuda_runtime.h>

#include "base/cuda/buffer.h"
#include "engine/model_weights.h"
#include "kernels/cuda/gemm.h"
#include "model/weight_block.h"

namespace hels::cuda {

/// Inputs of a product as they lie in memory: 16-bit rows are filled up with zeros to whole 16 bytes.
int64_t paddedDepth(DataType type, int64_t depth);

DeviceMatrix deviceMatrix(const WeightMatrix& matrix);

class CudaWeights {
 public:
  /// Bytes in device memory of `layers` layers.
  static size_t measure(const ModelSpec& model, const ShardSpec& shard, int64_t layers);

  /// Takes the memory; contents are zeros.
  CudaWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers);

  /// Throws kModelInvalid. Passes through host memory: slices of matrices a piece at a time, all else at once.
  void load(WeightReader& reader);
  /// Made-up weights whose products have about the size of their inputs: a pure function of `seed`. `stream` is done
  /// afterwards.
  void fillRandom(uint64_t seed, cudaStream_t stream);

  /// All pointers are of the device.
  const ModelWeights& views() const { return views_; }

 private:
  ModelWeights layout(Arena& others) const;

  const ModelSpec& model_;
  const ShardSpec& shard_;
  const int64_t layers_;
  DeviceBuffer matrices_;
  DeviceBuffer others_;
  ModelWeights views_;
};

}  // namespace hels::cuda
