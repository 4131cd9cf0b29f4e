// What an engine on a GPU leaves to the engine of the next plan on the same rank and device.
#pragma once

#include <memory>
#include <optional>

#include "base/cuda/buffer.h"
#include "engine/cuda/cuda_kv.h"
#include "engine/cuda/cuda_memory.h"
#include "engine/cuda/cuda_weights.h"

namespace hels::cuda {

/// KV of the engine before, of the head groups that it had.
struct CudaKeptKv {
  std::shared_ptr<DeviceBuffer> memory;
  std::shared_ptr<PinnedBuffer> hostMemory;
  KvShape shape;  // on the device
  KvHomes homes;
};

struct CudaEngineRemains {
  ModelSpec model;
  EngineOptions options;
  CudaWeightRegions weights;
  std::optional<CudaKeptKv> kv;  // none when what lies there is not whole
};

/// Ends the engine. Nothing remains of none, of one on a CPU, and of one with a corrupted tensor.
CudaEngineRemains cudaRemainsOf(std::unique_ptr<Engine> engine);

/// Lets go what an engine of these arguments cannot take over: weights of other ranges, KV that would mean something
/// else, and, because both plans' KV lies on the device and in host memory while it is migrated, KV for which there is
/// no room beside `memory` in the budget (options.memoryBytes), on the device, which is the current one, or in the
/// host. Then checks as requireCudaMemory() does.
void keepWhatFits(CudaEngineRemains& remains, const ModelSpec& model, const ShardSpec& shard,
                  const EngineOptions& options, const CudaMemory& memory);

}  // namespace hels::cuda
