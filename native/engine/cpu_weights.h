// One rank's weights in the memory of a CPU: each part in a region of its own, so that the engine of the next plan can
// take over the parts whose ranges stay.
#pragma once

#include <memory>

#include "engine/arena.h"
#include "engine/model_weights.h"
#include "model/weight_block.h"

namespace hels {

/// One part that is loaded, or being loaded.
struct WeightRegion {
  WeightRegion(size_t sizeBytes, Range ofRange) : arena(sizeBytes, "weights"), range(ofRange) {}

  const Arena arena;
  const Range range;          // of the plan; of the replicated parts empty
  LoadAccounting accounting;  // what it took of the files
};

/// Shared between engines that follow each other; null: none.
using WeightRegions = ByWeightPart<std::shared_ptr<WeightRegion>>;

class CpuWeights {
 public:
  /// Bytes of each part.
  static ByWeightPart<size_t> measure(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer);

  /// Takes over of `previous`, which are regions of the same model in the same packer's layout, those of the same
  /// range, and lets the others go before it takes memory of its own. Throws kMemoryExceeded.
  CpuWeights(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer, WeightRegions previous);

  /// Fills what was not taken over. Throws kModelInvalid.
  void load(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer, WeightReader& reader);

  const ModelWeights& views() const { return views_; }
  const WeightRegions& regions() const { return regions_; }
  /// Of the files, for the parts that load() filled.
  const LoadAccounting& loaded() const { return loaded_; }
  /// Bytes of the files that the parts that were taken over had been loaded from.
  uint64_t adoptedBytes() const { return adoptedBytes_; }

 private:
  WeightRegions regions_;
  ByWeightPart<bool> wanted_ = {};
  ModelWeights views_;
  LoadAccounting loaded_;
  uint64_t adoptedBytes_ = 0;
};

}  // namespace hels
