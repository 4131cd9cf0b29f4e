// Products with f32 weights: one thread for each result, one chain of fused multiply-adds. For small models and for
// checks: no tensor core multiplies f32.
#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {
namespace {

constexpr int kColumns = 32;
constexpr int kRows = 8;

struct F32Arguments {
  const float* w;
  const float* x;
  int64_t xStride;
  ProductArguments product;
};

__device__ __forceinline__ float chain(const F32Arguments& a, int row, int column, int begin, int end) {
  const float* w = a.w + static_cast<int64_t>(column) * a.product.segments.total;
  const float* x = a.x + row * a.xStride;
  float sum = 0.0F;
  for (int k = begin; k < end; ++k) sum = fmaf(x[k], w[k], sum);
  return sum;
}

__global__ void f32Kernel(F32Arguments a) {
  const int column = static_cast<int>(blockIdx.x * kColumns + threadIdx.x);
  const int row = static_cast<int>(blockIdx.y * kRows + threadIdx.y);
  if (row >= a.product.rows || column >= a.product.columns) return;
  a.product.y[row * a.product.yStride + column] = chain(a, row, column, 0, a.product.segments.total);
}

__global__ void f32FixedPointKernel(F32Arguments a) {
  const int column = static_cast<int>(blockIdx.x * kColumns + threadIdx.x);
  const int row = static_cast<int>(blockIdx.y * kRows + threadIdx.y);
  if (row >= a.product.rows || column >= a.product.columns) return;
  const Segments& granules = a.product.segments;
  int64_t sum = 0;
  for (int i = 0; i < granules.count; ++i) {
    sum += fixedPoint(chain(a, row, column, granules.begin(i), granules.end(i)), row, a.product);
  }
  a.product.sums[row * a.product.sumStride + column] = sum;
}

F32Arguments argumentsOf(const DeviceMatrix& matrix, const DeviceRows& x) {
  F32Arguments arguments{reinterpret_cast<const float*>(matrix.data), static_cast<const float*>(x.data), x.stride, {}};
  arguments.product.rows = static_cast<int>(x.rows);
  arguments.product.columns = static_cast<int>(matrix.columns);
  return arguments;
}

dim3 gridOf(const ProductArguments& product) {
  return {static_cast<unsigned>((product.columns + kColumns - 1) / kColumns),
          static_cast<unsigned>((product.rows + kRows - 1) / kRows)};
}

}  // namespace

void multiplyF32(const DeviceMatrix& matrix, const DeviceRows& x, float* y, int64_t yStride, cudaStream_t stream) {
  F32Arguments arguments = argumentsOf(matrix, x);
  arguments.product.segments = {1, static_cast<int>(matrix.depth), static_cast<int>(matrix.depth)};
  arguments.product.y = y;
  arguments.product.yStride = yStride;
  launch(f32Kernel, gridOf(arguments.product), dim3(kColumns, kRows), 0, stream, arguments);
}

void multiplyFixedPointF32(const DeviceMatrix& matrix, const DeviceRows& x, int64_t granuleDepth, int64_t* sums,
                           int64_t sumStride, int32_t* badRow, cudaStream_t stream) {
  F32Arguments arguments = argumentsOf(matrix, x);
  arguments.product.segments = granulesOf(matrix.depth, granuleDepth);
  arguments.product.sums = sums;
  arguments.product.sumStride = sumStride;
  arguments.product.badRow = badRow;
  launch(f32FixedPointKernel, gridOf(arguments.product), dim3(kColumns, kRows), 0, stream, arguments);
}

}  // namespace hels::cuda
