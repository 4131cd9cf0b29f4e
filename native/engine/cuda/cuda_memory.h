// What a rank's engine on a GPU takes of its memory and of the host's, known before any of it is taken.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/cuda/cuda_remote_attention.h"
#include "engine/cuda/cuda_scratch.h"
#include "engine/cuda/step_metadata.h"
#include "engine/engine.h"
#include "kv/kv_cache.h"

namespace hels::cuda {

struct CudaMemory {
  size_t weightBytes = 0;
  size_t kvBytes = 0;
  size_t scratchBytes = 0;
  size_t kvHostBytes = 0;  // page-locked memory of the host: parked KV
  size_t kvLoanBytes = 0;  // held for other ranks
  RemoteBytes remote;      // for exchanges about lent KV

  /// On the device.
  size_t totalBytes() const { return weightBytes + kvBytes + kvLoanBytes + scratchBytes + remote.device; }
  /// Page-locked, of what is large.
  size_t hostBytes() const { return kvHostBytes + remote.host; }
};

/// Throws kShapeInvalid naming what this engine does not do, beyond what validateEngineOptions() refuses.
void validateCudaOptions(const ModelSpec& model, const EngineOptions& options);

KvShape cudaKvShape(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options, int64_t layers);

/// The largest step of these options.
StepShape largestStep(const ModelSpec& model, const EngineOptions& options);

CudaScratchSizes cudaScratchSizes(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                                  int64_t layers);

CudaMemory measureCudaMemory(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options,
                             int64_t layers);

/// Throws kMemoryExceeded naming the parts when they are more than options.memoryBytes or, but for what is `held`
/// already, than the device has free, or when the host has less than is to be page-locked.
void requireCudaMemory(const CudaMemory& memory, const CudaMemory& held, const ShardSpec& shard,
                       const EngineOptions& options);

}  // namespace hels::cuda
