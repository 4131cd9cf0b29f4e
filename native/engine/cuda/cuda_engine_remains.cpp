#include "engine/cuda/cuda_engine_remains.h"

#include <utility>

#include "base/cuda/check.h"
#include "base/host_memory.h"
#include "engine/cpu_engine.h"
#include "engine/cuda/cuda_engine.h"

namespace hels::cuda {
namespace {

/// Whether weights of both engines have one layout, and KV one meaning.
bool alike(const CudaEngineRemains& remains, const ModelSpec& model, const EngineOptions& options) {
  return remains.model == model && remains.options.device == options.device &&
         remains.options.numerics == options.numerics && !options.corruption;
}

size_t weightBytes(const CudaEngineRemains& remains) {
  size_t bytes = 0;
  for (const auto& region : remains.weights) bytes += region == nullptr ? 0 : region->sizeBytes();
  return bytes;
}

/// Beside all that is kept, of which the new engine takes over `held`.
bool hasRoom(const CudaKeptKv& kv, const EngineOptions& options, const CudaMemory& memory, const CudaMemory& held) {
  const size_t moreHostBytes = memory.hostBytes() - held.hostBytes();
  if (moreHostBytes > 0 && moreHostBytes >= availableHostBytes()) return false;
  if (held.kvBytes > 0) return true;
  size_t freeBytes = 0;
  size_t deviceBytes = 0;
  check(cudaMemGetInfo(&freeBytes, &deviceBytes), "free memory of the device");
  const bool inBudget = options.memoryBytes == 0 || memory.totalBytes() + kv.memory->sizeBytes() <= options.memoryBytes;
  return inBudget && memory.totalBytes() - held.totalBytes() <= freeBytes;
}

}  // namespace

CudaEngineRemains cudaRemainsOf(std::unique_ptr<Engine> engine) {
  auto* const cuda = dynamic_cast<CudaEngine*>(engine.get());
  if (cuda == nullptr) return {};
  CudaEngineRemains remains = cuda->remains();
  if (remains.options.corruption) return {};
  return remains;
}

void keepWhatFits(CudaEngineRemains& remains, const ModelSpec& model, const ShardSpec& shard,
                  const EngineOptions& options, const CudaMemory& memory) {
  if (!alike(remains, model, options)) remains = {};
  remains.weights = CudaWeights::kept(model, shard, std::move(remains.weights));
  if (remains.kv && remains.kv->shape.blockTokens != options.kvBlockTokens) remains.kv.reset();
  const KvHomes homes = kvHomesOf(model, shard, options);
  CudaMemory held;
  held.weightBytes = weightBytes(remains);
  if (remains.kv && sameOnDevice(remains.kv->homes, homes)) held.kvBytes = memory.kvBytes;
  if (remains.kv && sameInHost(remains.kv->homes, homes)) held.kvHostBytes = memory.kvHostBytes;
  if (remains.kv && !hasRoom(*remains.kv, options, memory, held)) {
    remains.kv.reset();
    held.kvBytes = held.kvHostBytes = 0;
  }
  requireCudaMemory(memory, held, shard, options);
}

}  // namespace hels::cuda
