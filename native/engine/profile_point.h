// A point of the profiling grid as work for a device: what stands for its weights, and a step of made-up sequences.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "engine/engine.h"
#include "engine/token_batch.h"
#include "kv/kv_cache.h"

namespace hels {

/// The sequences of a point: decode spreads the context evenly over one-token sequences, prefill is one chunk, and a
/// mixed point's chunk follows the decode sequences.
struct PointBatch {
  StepBatch step;
  int64_t blocks = 0;  // of the pool
};

/// What stands for the device at a point: `layers` of the model's layers, a part of the head, a pool of KV blocks.
struct PointSetup {
  ModelSpec model;
  ShardSpec shard;
  EngineOptions options;
  KvShape kv;
  int64_t layers = 1;
  PointBatch batch;
};

/// Throws kShapeInvalid naming the field of the point: of a context that the model has no positions for, too, or that
/// is long for so many sequences.
void validatePoint(const ModelSpec& model, const ProfilePoint& point);

/// Of a point that validatePoint() accepts. Made-up weights and KV are at most `bytesMax` each, and a quarter of
/// options.memoryBytes; `layerBytes`: of one layer's weights at a share.
PointSetup makePointSetup(const ModelSpec& model, const EngineOptions& options, const ProfilePoint& point,
                          size_t bytesMax, const std::function<size_t(const ModelSpec&, const ShardSpec&)>& layerBytes);

/// The step's tokens, spread over the vocabulary.
TokenBatch flattenPoint(const StepBatch& step, int64_t vocabRows);

/// Of at least one run's seconds.
double lowerQuartile(std::vector<double> seconds);

}  // namespace hels
