// Conversions and made-up values in device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/data_type.h"

namespace hels::cuda {

/// output(rows, outputStride) of `type` = source(rows, sourceStride) in f32, rounded; `columns` of each row.
void narrowRows(const float* source, int64_t sourceStride, int64_t rows, int64_t columns, DataType type, void* output,
                int64_t outputStride, cudaStream_t stream);

/// values(count) of `type`: uniform in [-amplitude, amplitude), a pure function of (seed, index).
void fillRandom(DataType type, void* values, int64_t count, float amplitude, uint64_t seed, cudaStream_t stream);

/// values(count) = value.
void fillValue(float* values, int64_t count, float value, cudaStream_t stream);

/// sums(rows, columns) int64 = fixed point of scale 2^32 of partials(rows, columns); *badRow becomes the smallest row
/// with a partial that is NaN, infinite or not below 2^24, if that is smaller than what is there.
void fixedPointRows(const float* partials, int64_t rows, int64_t columns, int64_t* sums, int32_t* badRow,
                    cudaStream_t stream);

}  // namespace hels::cuda
