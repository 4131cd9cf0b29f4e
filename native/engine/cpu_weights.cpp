#include "engine/cpu_weights.h"

#include <utility>

#include "engine/weight_loader.h"

namespace hels {
namespace {

ModelWeights layoutIn(const WeightRegions& regions, const ModelSpec& model, const ShardSpec& shard,
                      const WeightPacker& packer) {
  const auto view = [&](WeightPart part) {
    const Arena& arena = regions[indexOf(part)]->arena;
    return Arena(arena.data(), arena.sizeBytes());
  };
  ByWeightPart<Arena> arenas = {view(WeightPart::kReplicated), view(WeightPart::kEmbedding),
                                view(WeightPart::kAttention), view(WeightPart::kMlp), view(WeightPart::kHead)};
  ByWeightPart<Arena*> pointers = {};
  for (size_t part = 0; part < arenas.size(); ++part) pointers[part] = &arenas[part];
  return layoutWeights(model, shard, model.layers, packer, pointers);
}

}  // namespace

ByWeightPart<size_t> CpuWeights::measure(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer) {
  ByWeightPart<Arena> arenas;
  ByWeightPart<Arena*> pointers = {};
  for (size_t part = 0; part < arenas.size(); ++part) pointers[part] = &arenas[part];
  layoutWeights(model, shard, model.layers, packer, pointers);
  ByWeightPart<size_t> sizes = {};
  for (size_t part = 0; part < arenas.size(); ++part) sizes[part] = arenas[part].usedBytes();
  return sizes;
}

CpuWeights::CpuWeights(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer,
                       WeightRegions previous) {
  const ByWeightPart<size_t> sizes = measure(model, shard, packer);
  for (const WeightPart part : kWeightParts) {
    std::shared_ptr<WeightRegion> region = std::move(previous[indexOf(part)]);
    const bool same =
        region != nullptr && region->range == rangeOf(part, shard) && region->arena.sizeBytes() == sizes[indexOf(part)];
    if (!same) continue;  // and it goes
    adoptedBytes_ += region->accounting.bytesLoaded;
    regions_[indexOf(part)] = std::move(region);
  }
  for (const WeightPart part : kWeightParts) {
    std::shared_ptr<WeightRegion>& region = regions_[indexOf(part)];
    if (region != nullptr) continue;
    region = std::make_shared<WeightRegion>(sizes[indexOf(part)], rangeOf(part, shard));
    wanted_[indexOf(part)] = true;
  }
  views_ = layoutIn(regions_, model, shard, packer);
}

void CpuWeights::load(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer,
                      WeightReader& reader) {
  const ByWeightPart<LoadAccounting> parts = loadWeightParts(model, shard, packer, reader, views_, wanted_);
  for (const WeightPart part : kWeightParts) {
    if (wanted_[indexOf(part)]) regions_[indexOf(part)]->accounting = parts[indexOf(part)];
  }
  wanted_ = {};
  loaded_ = reader.accounting();
}

}  // namespace hels
