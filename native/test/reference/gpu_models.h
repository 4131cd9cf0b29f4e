// Tiny models whose heads are what the attention kernels of a GPU take.
#pragma once

#include "reference/rank_group.h"
#include "reference/reference_model.h"

namespace hels::reference {

inline EngineOptions gpuOptions() {
  EngineOptions options = tinyOptions();
  options.device = "cuda:0";
  return options;
}

inline ModelSpec gpuLlama() {
  ModelSpec spec = tinyLlama();
  spec.headDim = 16;
  spec.layers = 2;
  spec.slidingWindows.assign(2, 0);
  return spec;
}

inline ModelSpec gpuOpt() {
  ModelSpec spec = tinyOpt();
  spec.headDim = 16;
  return spec;
}

}  // namespace hels::reference
