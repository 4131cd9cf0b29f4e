// Measures a GPU without its model: the layers and the head of a step, over made-up weights and KV at the shares of a
// profiling point.
#pragma once

#include "base/cuda/stream.h"
#include "engine/cuda/cuda_products.h"
#include "engine/profile.h"

namespace hels::cuda {

class CudaProfiler final : public PointMeasurer {
 public:
  /// Throws kShapeInvalid, kDeviceMissing, kDeviceLost.
  CudaProfiler(const ModelSpec& model, const EngineOptions& options);
  ~CudaProfiler() override;

  /// Takes the memory of the point for as long as it lasts. Throws kMemoryExceeded too.
  double measure(const ProfilePoint& point, int repetitions, double secondsMax) override;

 private:
  struct Device;  // what stands for the rank at a point

  const ModelSpec model_;
  const EngineOptions options_;
  const int device_;
  const Stream stream_;
  CudaProducts products_;
};

}  // namespace hels::cuda
