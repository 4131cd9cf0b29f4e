// Measures a device without its model: the real layers, in the real code, over made-up weights at the shares of a
// profiling point.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "engine/arena.h"
#include "engine/engine.h"
#include "kernels/cpu/gemm.h"

namespace hels {

/// What measures points on a device of its own kind.
class PointMeasurer {
 public:
  virtual ~PointMeasurer() = default;
  /// As Profiler::measure(), for a point and numbers that are checked already.
  virtual double measure(const ProfilePoint& point, int repetitions, double secondsMax) = 0;
};

/// Keeps its buffers from point to point; profileStep() is a Profiler for one point. Not thread-safe.
class Profiler {
 public:
  /// Of `options`: device, threads, speed, numerics, kvBlockTokens; memoryBytes bounds the made-up weights and KV.
  /// Throws kShapeInvalid.
  Profiler(const ModelSpec& model, const EngineOptions& options);
  ~Profiler();

  /// As profileStep(). Throws kShapeInvalid naming the field of the point.
  double measure(const ProfilePoint& point, int repetitions,
                 double secondsMax = std::numeric_limits<double>::infinity());

 private:
  /// A buffer of at least `sizeBytes`, filled with small weights when new.
  Arena& arena(std::unique_ptr<Arena>& arena, size_t& capacity, size_t sizeBytes, bool weights);

  /// Reads what the rest of the model is beside `ownBytes` of it.
  void readOthers(size_t ownBytes);

  const ModelSpec model_;
  const EngineOptions options_;
  std::unique_ptr<PointMeasurer> device_;  // for a GPU; then nothing below is used
  std::unique_ptr<Gemm> gemm_;
  std::unique_ptr<Arena> weightArena_, kvArena_, scratchArena_;
  size_t modelBytes_ = 0;
  std::vector<uint8_t> others_;
  size_t weightCapacity_ = 0, kvCapacity_ = 0, scratchCapacity_ = 0;
};

}  // namespace hels
