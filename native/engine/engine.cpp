// Which engine stands behind the interface.
#include "engine/engine.h"

#include <utility>

#include "base/error.h"
#include "engine/cpu_engine.h"
#include "engine/device_name.h"
#ifdef HELS_HAS_CUDA
#include "engine/cuda/cuda_engine.h"
#endif

namespace hels {

std::unique_ptr<Engine> Engine::load(const ModelSpec& model, const ShardSpec& shard,
                                     std::shared_ptr<WeightSource> weights, const EngineOptions& options,
                                     std::unique_ptr<Engine> previous) {
  validateModelSpec(model);
  validateShardSpec(model, shard);
  validateEngineOptions(model, options);
  (void)kvHomesOf(model, shard, options);
  if (!cudaDeviceOf(options.device)) {
    return std::make_unique<CpuEngine>(model, shard, std::move(weights), options, remainsOf(std::move(previous)));
  }
#ifdef HELS_HAS_CUDA
  return cuda::loadCudaEngine(model, shard, std::move(weights), options, std::move(previous));
#else
  throw Error(ErrorCode::kDeviceMissing, "device is " + options.device + ": this build has no CUDA backend");
#endif
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): an engine that takes it keeps it
void Engine::connectDevice(std::shared_ptr<cuda::DeviceCommunicator> /*communicator*/) {
  throw Error(ErrorCode::kShapeInvalid, "a communicator of devices needs an engine on a GPU; connect() takes another");
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): an engine that takes it keeps it
void Engine::connectExchange(std::shared_ptr<Communicator> /*communicator*/) {
  throw Error(ErrorCode::kShapeInvalid, "exchanges beside those of connect() need an engine on a GPU");
}

}  // namespace hels
