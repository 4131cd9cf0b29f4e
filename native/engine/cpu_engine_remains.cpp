#include "engine/cpu_engine_remains.h"

#include <algorithm>
#include <utility>

#include "engine/cpu_engine.h"

namespace hels {
namespace {

/// Whether products of both engines read weights of one layout, and KV has one meaning.
bool alike(const CpuEngineRemains& remains, const ModelSpec& model, const EngineOptions& options) {
  return remains.model == model && remains.options.device == options.device &&
         remains.options.numerics == options.numerics && !options.corruption;
}

}  // namespace

CpuEngineRemains remainsOf(std::unique_ptr<Engine> engine) {
  auto* const cpu = dynamic_cast<CpuEngine*>(engine.get());
  if (cpu == nullptr) return {};
  CpuEngineRemains remains = cpu->remains();
  if (remains.options.corruption) return {};
  return remains;
}

WeightRegions weightsFor(CpuEngineRemains& remains, const ModelSpec& model, const EngineOptions& options) {
  WeightRegions weights = std::exchange(remains.weights, {});
  if (!alike(remains, model, options)) return {};
  return weights;
}

std::optional<KeptKv> kvFor(CpuEngineRemains& remains, const ModelSpec& model, const KvHomes& homes,
                            const EngineOptions& options, size_t otherBytes, size_t kvBytes) {
  std::optional<KeptKv> kept = std::exchange(remains.kv, std::nullopt);
  const bool usable =
      kept && alike(remains, model, options) && kept->store.device().shape().blockTokens == options.kvBlockTokens;
  if (!usable) return std::nullopt;
  const KvHomes& before = kept->store.homes();
  kept->store.discard({homes.blocks, before.blocks});
  const auto fits = [&](size_t keptBytes) {
    return options.memoryBytes == 0 || otherBytes + std::max(keptBytes, kvBytes) <= options.memoryBytes;
  };
  const size_t ownBytes = kept->device->residentBytes();
  if (!fits(ownBytes + kept->loans->residentBytes())) {
    kept->store.dropHeld();
    kept->loans.reset();
    if (!fits(ownBytes)) return std::nullopt;
  }
  return kept;
}

}  // namespace hels
