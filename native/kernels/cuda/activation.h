// The feed-forward half's element-wise part: bias, SiLU or ReLU, and for gated models the product with the up columns.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/data_type.h"

namespace hels::cuda {

enum class ActivationKind : uint8_t { kSilu, kRelu };

struct ActivationStep {
  ActivationKind kind = ActivationKind::kSilu;
  bool gated = true;
  const float* input = nullptr;  // (rows, inputStride): gate, then up; or the one input matrix' columns
  int64_t inputStride = 0;
  const float* bias = nullptr;  // of the input's columns; null: none
  int64_t columns = 0;          // of the output
  int64_t rows = 0;
  void* output = nullptr;  // (rows, outputStride) of `outputType`
  int64_t outputStride = 0;
  DataType outputType = DataType::kF32;
};

void activate(const ActivationStep& step, cudaStream_t stream);

}  // namespace hels::cuda
