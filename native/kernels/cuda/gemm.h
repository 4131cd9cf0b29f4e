// Products with weight matrices on a GPU whose bits depend on nothing but the row of x and the column of the result:
// the depth is cut into segments at fixed places, each segment is one chain of tensor-core products over k ascending in
// steps of 16, and segments are summed in a fixed order. Any number of rows, any slice of the columns and any tiling
// give the same bits. f32 weights are one chain of fused multiply-adds, k ascending, as on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"

namespace hels::cuda {

/// W(columns, depth) in device memory, row-major, 16-byte aligned. For 16-bit types depth is a multiple of 8.
struct DeviceMatrix {
  DataType type = DataType::kBf16;
  int64_t columns = 0;
  int64_t depth = 0;
  const std::byte* data = nullptr;
};

/// x(rows, depth) in device memory, of the matrix' type; `stride` in elements, a multiple of 8 for 16-bit types.
struct DeviceRows {
  const void* data = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
};

/// Bytes of the workspace of multiply() for up to `rows` rows and `columns` columns.
size_t multiplyWorkspaceBytes(int64_t rows, int64_t columns);

/// y(rows, columns) in f32 = x W^T, on `stream`.
void multiply(const DeviceMatrix& matrix, const DeviceRows& x, float* y, int64_t yStride, std::byte* workspace,
              cudaStream_t stream);

/// sums(rows, columns) = the sum over granules of `granuleDepth` inputs (the last may be shorter; a multiple of 8 for
/// 16-bit types) of the granule's product in f32, rounded to fixed point of scale 2^32. *badRow becomes the smallest
/// row with a partial that is NaN, infinite or not below 2^24, if that is smaller than what is there.
void multiplyFixedPoint(const DeviceMatrix& matrix, const DeviceRows& x, int64_t granuleDepth, int64_t* sums,
                        int64_t sumStride, int32_t* badRow, cudaStream_t stream);

}  // namespace hels::cuda
