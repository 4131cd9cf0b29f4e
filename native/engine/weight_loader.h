// Fills a rank's weights from a model's files: which tensor, which slice of it, whose share it is.
#pragma once

#include "engine/model_weights.h"
#include "model/weight_block.h"

namespace hels {

/// Bytes of the buffer through which slices pass while they are packed.
inline constexpr size_t kLoadStagingBytes = size_t{1} << 20;

/// Fills the parts of `weights`, as laid out by layoutWeights() for the same model and shard, that are `wanted`; the
/// others are there already, as the same files gave them. Returns what each part took of the files. Throws
/// kModelInvalid.
ByWeightPart<LoadAccounting> loadWeightParts(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer,
                                             WeightReader& reader, const ModelWeights& weights,
                                             const ByWeightPart<bool>& wanted);

}  // namespace hels
