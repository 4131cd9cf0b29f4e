// What an engine on a CPU leaves to the engine of the next plan on the same rank.
#pragma once

#include <memory>
#include <optional>

#include "engine/cpu_weights.h"
#include "engine/engine.h"
#include "kv/kv_store.h"

namespace hels {

/// KV of the engine before, of the head groups that it had and of those that it held for others.
struct KeptKv {
  std::shared_ptr<Arena> device;
  std::shared_ptr<Arena> host;
  std::shared_ptr<Arena> loans;  // null: of no use any more
  KvStore store;
};

struct CpuEngineRemains {
  ModelSpec model;
  EngineOptions options;
  WeightRegions weights;
  std::optional<KeptKv> kv;  // none when what lies there is not whole
};

/// Ends the engine. Nothing remains of none, of one on a GPU, and of one with a corrupted tensor.
CpuEngineRemains remainsOf(std::unique_ptr<Engine> engine);

/// The weights that an engine of these arguments may take over: all, or none.
WeightRegions weightsFor(CpuEngineRemains& remains, const ModelSpec& model, const EngineOptions& options);

/// The KV that can be migrated to an engine of these arguments, which needs `otherBytes` beside its KV, and `kvBytes`
/// for that on the device: only addresses that it has too, without what was held for others or none at all when they do
/// not fit into its budget (options.memoryBytes). Layers are freed as they move, so that the larger of both plans' KV
/// must fit, and while one moves that layer twice; so too in host memory.
std::optional<KeptKv> kvFor(CpuEngineRemains& remains, const ModelSpec& model, const KvHomes& homes,
                            const EngineOptions& options, size_t otherBytes, size_t kvBytes);

}  // namespace hels
