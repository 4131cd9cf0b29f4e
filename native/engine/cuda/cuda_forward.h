// The layers of one step on one GPU, up to the residual stream and the logits, as work in a stream. All state is passed
// in; see cuda_engine.h for who owns it.
#pragma once

#include <cuda_runtime.h>

#include "engine/cuda/cuda_collective.h"
#include "engine/cuda/cuda_kv.h"
#include "engine/cuda/cuda_products.h"
#include "engine/cuda/cuda_remote_attention.h"
#include "engine/cuda/cuda_scratch.h"
#include "engine/cuda/step_metadata.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/norm.h"

namespace hels::cuda {

/// What attention must know of the model; `layer` for its sliding window.
AttentionModel attentionModel(const ModelSpec& model, int64_t layer);

class CudaForward {
 public:
  /// `remote`, which outlives this, was told of each step with begin().
  CudaForward(const ModelSpec& model, const ShardSpec& shard, const ModelWeights& weights, const CudaKv& kv,
              const CudaScratch& scratch, CudaProducts& products, CudaCollective& collective,
              CudaRemoteAttention* remote)
      : model_(model),
        shard_(shard),
        weights_(weights),
        kv_(kv),
        scratch_(scratch),
        products_(products),
        collective_(collective),
        remote_(remote) {}

  /// Enqueues the layers for the step that `metadata` describes. Of the last layer the sums are left for logits().
  void run(const StepMetadata& metadata, cudaStream_t stream);

  /// Enqueues the logits of `rows` of the step's logit rows from `firstRow` on: scratch.logits(rows, logitsStride).
  /// Each row once after a run().
  void logits(const StepMetadata& metadata, int64_t firstRow, int64_t rows, cudaStream_t stream);

 private:
  void embed(const StepMetadata& metadata, cudaStream_t stream);
  void attentionBlock(const StepMetadata& metadata, int64_t layer, cudaStream_t stream);
  void mlpBlock(const StepMetadata& metadata, int64_t layer, cudaStream_t stream);
  /// A step of the residual stream for all tokens that leaves the next product's input.
  ResidualStep residualStep(const StepMetadata& metadata) const;
  /// Adds what the ranks have summed (bias null: none), and takes `norm`, null for none.
  void advance(const StepMetadata& metadata, const float* bias, const NormWeights* norm, bool normStays,
               cudaStream_t stream) const;
  void setNorm(const NormWeights& norm, ResidualStep& step) const;
  /// scratch.sums = x W^T, summed over the ranks.
  void multiplyRowParallel(const WeightMatrix& matrix, const void* x, int64_t stride, int64_t tokens, int64_t granule,
                           int32_t* badRow, cudaStream_t stream);

  const ModelSpec& model_;
  const ShardSpec& shard_;
  const ModelWeights& weights_;
  const CudaKv kv_;
  const CudaScratch& scratch_;
  CudaProducts& products_;
  CudaCollective& collective_;
  CudaRemoteAttention* const remote_;  // null: a group without loans
};

}  // namespace hels::cuda
