// Sampling of a step on the device, when every row can be chosen from the ranks' candidates: greedy and plain
// temperature. The ranks agree as those of engine/sampler.h do, in the same slots, so both kinds can share a group.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "base/cuda/buffer.h"
#include "engine/cuda/cuda_collective.h"
#include "engine/cuda/cuda_scratch.h"
#include "engine/cuda/step_metadata.h"

namespace hels::cuda {

class CudaSampler {
 public:
  CudaSampler(const ShardSpec& shard, const EngineOptions& options, int64_t layers, const CudaScratch& scratch,
              CudaCollective& collective);

  /// Enqueues the choice of a token for every logit row of the step, its agreement and its keeping by slot; `noise`:
  /// whether any row has a temperature above 0.
  void enqueue(const StepMetadata& metadata, bool noise, cudaStream_t stream);

  /// Enqueues the copy of bad rows and of the first `requests` slots to the host.
  void download(int64_t requests, cudaStream_t stream);

  /// After the stream is done: the tokens of rows [0, rows.size()). Throws, on every rank alike, kNumericRange naming
  /// slot, position, token and rank of a logit that is NaN or infinite.
  std::vector<SampledToken> read(const StepBatch& batch, const TokenBatch& tokens,
                                 const std::vector<LogitRow>& rows) const;

  /// As downloaded: (layers, 2), of each row-parallel product the first row with a partial out of range, or a number
  /// beyond all rows.
  const int32_t* badRows() const { return host_.as<int32_t>(); }

 private:
  SampledToken readRow(int64_t row, int32_t slot, int64_t position) const;

  const ShardSpec& shard_;
  const size_t slotsOffset_;
  const CudaScratch& scratch_;
  CudaCollective& collective_;
  PinnedBuffer host_;  // as scratch.results
};

}  // namespace hels::cuda
