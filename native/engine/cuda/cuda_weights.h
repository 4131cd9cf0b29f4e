// One rank's weights in device memory: matrices row-major as the product kernels read them, tables in the weights'
// type, norms and biases in f32. Laid out and loaded by the code of the CPU, and like there each part in regions of its
// own, so that the engine of the next plan can take over the parts whose ranges stay.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "base/cuda/buffer.h"
#include "engine/model_weights.h"
#include "kernels/cuda/gemm.h"
#include "model/weight_block.h"

namespace hels::cuda {

/// Inputs of a product as they lie in memory: 16-bit rows are filled up with zeros to whole 16 bytes.
int64_t paddedDepth(DataType type, int64_t depth);

DeviceMatrix deviceMatrix(const WeightMatrix& matrix);

/// One part that is loaded, or being loaded.
struct CudaWeightRegion {
  DeviceBuffer matrices;
  DeviceBuffer others;  // tables, norms and biases
  Range range;          // of the plan; of the replicated parts empty
  LoadAccounting accounting;

  size_t sizeBytes() const { return matrices.sizeBytes() + others.sizeBytes(); }
};

/// Shared between engines that follow each other; null: none.
using CudaWeightRegions = ByWeightPart<std::shared_ptr<CudaWeightRegion>>;

class CudaWeights {
 public:
  /// Bytes in device memory of `layers` layers.
  static size_t measure(const ModelSpec& model, const ShardSpec& shard, int64_t layers);
  /// Of `previous`, regions of the same model, lets those go that the weights of this shard are not in.
  static CudaWeightRegions kept(const ModelSpec& model, const ShardSpec& shard, CudaWeightRegions previous);

  /// Takes the memory of all parts that are not among `kept`; contents are zeros.
  CudaWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, CudaWeightRegions kept = {});

  /// Fills what was not kept. Throws kModelInvalid. Passes through host memory: slices of matrices a piece at a time,
  /// all else of a part at once.
  void load(WeightReader& reader);
  /// Made-up weights whose products have about the size of their inputs: a pure function of `seed`. `stream` is done
  /// afterwards.
  void fillRandom(uint64_t seed, cudaStream_t stream);

  /// All pointers are of the device.
  const ModelWeights& views() const { return views_; }
  const CudaWeightRegions& regions() const { return regions_; }
  /// Bytes of the files that the parts that were kept had been loaded from.
  uint64_t adoptedBytes() const { return adoptedBytes_; }

 private:
  /// With tables, norms and biases at `others`.
  ModelWeights layout(const ByWeightPart<std::byte*>& others) const;

  const ModelSpec& model_;
  const ShardSpec& shard_;
  const int64_t layers_;
  CudaWeightRegions regions_;
  ByWeightPart<bool> wanted_ = {};
  ModelWeights views_;
  uint64_t adoptedBytes_ = 0;
};

}  // namespace hels::cuda
