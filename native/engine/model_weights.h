// One rank's weights in memory, as views into arenas.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"
#include "kernels/cpu/gemm.h"
#include "model/model_spec.h"
#include "shard/shard_spec.h"

namespace hels {

/// What belongs together: the shares of one range of the plan, or what every rank holds whatever its ranges.
enum class WeightPart : uint8_t {
  kReplicated,  // positions, projections, norms, and biases that are added after the sum over ranks
  kEmbedding,   // replicated, too; apart because a tied head of all rows holds it in its stead
  kAttention,   // of the head groups
  kMlp,         // of the FFN columns
  kHead,        // of the vocabulary rows
};
inline constexpr std::array kWeightParts = {WeightPart::kReplicated, WeightPart::kEmbedding, WeightPart::kAttention,
                                            WeightPart::kMlp, WeightPart::kHead};
constexpr size_t indexOf(WeightPart part) { return static_cast<size_t>(part); }

/// What a part holds of a shard's plan; of the replicated parts empty.
Range rangeOf(WeightPart part, const ShardSpec& shard);

/// One of each for every part; in the order of kWeightParts.
template <typename Item>
using ByWeightPart = std::array<Item, kWeightParts.size()>;

/// bias is null for RMS normalization.
struct NormWeights {
  float* weight = nullptr;
  float* bias = nullptr;
};

/// bias is null when the model has none.
struct Linear {
  WeightMatrix matrix;
  float* bias = nullptr;
};

/// Columns of one rank. A rank without heads or FFN columns has matrices of zero columns or zero depth.
struct LayerWeights {
  NormWeights attentionNorm;
  Linear queryKeyValue;  // columns: queries, keys, values of this rank's head groups; bias too
  float* queryNorm = nullptr;
  float* keyNorm = nullptr;
  Linear attentionOutput;  // depth: this rank's query heads; bias replicated, added after the sum over ranks
  NormWeights mlpNorm;
  Linear mlpInput;   // columns: gate then up, or the one input matrix; this rank's FFN columns
  Linear mlpOutput;  // depth: this rank's FFN columns; bias replicated
};

struct ModelWeights {
  // (vocabRows, embeddingSize) in the weights' type; replicated. Null where the head is read in its stead.
  std::byte* embedding = nullptr;
  std::byte* positions = nullptr;  // (learnedPositionOffset + maxPositions, hiddenSize); null without learned positions
  Linear projectIn;                // embeddingSize -> hiddenSize, when they differ; replicated
  Linear projectOut;
  std::vector<LayerWeights> layers;
  NormWeights finalNorm;
  Linear head;  // columns: this rank's vocabulary rows
};

bool hasEmbeddingProjection(const ModelSpec& model);
/// Sizes of one rank's share.
int64_t queryColumns(const ModelSpec& model, const ShardSpec& shard);
int64_t keyValueColumns(const ModelSpec& model, const ShardSpec& shard);  // keys and values, each

/// Lays out `layers` layers; with a counting arena every pointer is null.
ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                           Arena& arena);
/// The same with an arena for each part.
ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                           const ByWeightPart<Arena*>& parts);
/// The same with what products multiply apart from tables, norms and biases.
ModelWeights layoutWeights(const ModelSpec& model, const ShardSpec& shard, int64_t layers, const WeightPacker& packer,
                           const ByWeightPart<Arena*>& matrices, const ByWeightPart<Arena*>& others);

}  // namespace hels
