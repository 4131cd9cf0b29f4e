// The residual stream between two products: what the ranks summed is added to it, and a normalization of it becomes the
// next product's input. One pass over each row; a row's bits are its own.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/data_type.h"

namespace hels::cuda {

/// kCopy: the output is the residual stream itself.
enum class RowNorm : uint8_t { kCopy, kRms, kLayer };

struct ResidualStep {
  float* residual = nullptr;  // (tokens, stride)
  int64_t stride = 0;
  int64_t columns = 0;
  const int64_t* sums = nullptr;  // (tokens, columns), fixed point of scale 2^32, added first; null: nothing is
  const float* bias = nullptr;    // (columns), added with the sums; null: none

  RowNorm norm = RowNorm::kCopy;
  const float* weight = nullptr;    // (columns)
  const float* normBias = nullptr;  // (columns), of kLayer
  double epsilon = 0.0;
  bool normStays = false;  // the residual stream becomes its own normalization: models that normalize after a block

  void* output = nullptr;  // (rows, outputStride) of `outputType`; may be null: no output
  int64_t outputStride = 0;
  DataType outputType = DataType::kF32;

  const int32_t* tokens = nullptr;  // (rows): the token of each row, all different; null: row i is token i
  int64_t rows = 0;
};

void advanceResidual(const ResidualStep& step, cudaStream_t stream);

}  // namespace hels::cuda
