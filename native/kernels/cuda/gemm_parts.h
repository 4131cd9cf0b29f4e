// What the product kernels share: where segments begin, and what becomes of their sums.
#pragma once

#include <climits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_fixed_point.h"

namespace hels::cuda {

/// Segments of a product that is summed in f32, in two halves: ((s0 + s1) + s2) + s3, then the second half likewise,
/// then both.
inline constexpr int kSlices = 8;
inline constexpr int kHalfSlices = kSlices / 2;
/// Inputs of one step of the kernels; segments begin at multiples of it, or with a granule.
inline constexpr int kBlockDepth = 32;

/// The depth in `count` segments of `depth` inputs, of which the last ones may be shorter or empty.
struct Segments {
  int count = 0;
  int depth = 0;
  int total = 0;

  __device__ __forceinline__ int begin(int segment) const { return min(segment * depth, total); }
  __device__ __forceinline__ int end(int segment) const { return min((segment + 1) * depth, total); }
};

inline Segments slicesOf(int64_t depth) {
  const int64_t slice = (depth + kSlices - 1) / kSlices;
  return {kSlices, static_cast<int>((slice + kBlockDepth - 1) / kBlockDepth * kBlockDepth), static_cast<int>(depth)};
}

inline Segments granulesOf(int64_t depth, int64_t granule) {
  return {static_cast<int>((depth + granule - 1) / granule), static_cast<int>(granule), static_cast<int>(depth)};
}

struct ProductArguments {
  const uint16_t* w = nullptr;  // (columns, depth)
  const uint16_t* x = nullptr;  // (rows, xStride)
  int64_t xStride = 0;
  int rows = 0;
  int columns = 0;
  Segments segments;
  float* y = nullptr;  // (rows, yStride), or two of them, one for each half
  int64_t yStride = 0;
  int64_t halfStride = 0;
  int64_t* sums = nullptr;  // (rows, sumStride)
  int64_t sumStride = 0;
  int32_t* badRow = nullptr;
  int firstRow = 0;  // what badRow calls row 0
};

/// Fixed point of any granule's partial; an impossible one is reported.
__device__ __forceinline__ int64_t wideFixedPoint(float partial, int row, const ProductArguments& arguments) {
  if (!(fabsf(partial) < 16777216.0F)) {  // true for NaN
    if (row < arguments.rows) atomicMin(arguments.badRow, arguments.firstRow + row);
    return 0;
  }
  return __double2ll_rn(static_cast<double>(partial) * 4294967296.0);
}

/// The same, quick where the partial is not large.
__device__ __forceinline__ int64_t fixedPoint(float partial, int row, const ProductArguments& arguments) {
  const FixedPointParts parts = fixedPointParts(partial);
  if (isOutside(outsideBits(parts))) return wideFixedPoint(partial, row, arguments);
  return joinParts(parts.high, parts.low, 1);
}

/// Operands in shared memory: stages of kStageDepth inputs, a row of 128 bytes for each column or row.
inline constexpr int kStageDepth = 64;
inline constexpr int kStepDepth = 16;     // of one product of the tensor cores
inline constexpr int kChunkElements = 8;  // of 16 bytes
inline constexpr int kChunks = kStageDepth / kChunkElements;

/// Where a chunk of a row lies in its stage. Chunks are exchanged so that the 16 lanes that read two chunks of four
/// rows, and the eight that write one row, meet all banks once.
__device__ __forceinline__ int chunkOffset(int row, int chunk) {
  return row * kStageDepth + (chunk ^ (row % 4 * 2)) * kChunkElements;
}

/// The lane's part of a step's inputs: four of row lane / 4 from `row` on. The tensor cores add the products of all 16
/// inputs of a step at once (measured: their order changes no bit), so that these four may stand in the places of any.
__device__ __forceinline__ uint2 stepInputs(const uint16_t* stage, int row, int step) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int chunk = step * (kStepDepth / kChunkElements) + lane % 4 / 2;
  return *reinterpret_cast<const uint2*>(stage + chunkOffset(row + lane / 4, chunk) + lane % 2 * 4);
}

/// The product of a step: of the columns g and g + 8 of W, and of row g of x.
template <DataType type>
__device__ __forceinline__ void multiplyStep(float (&d)[4], const uint2& w0, const uint2& w8, const uint2& x) {
  const uint32_t a[4] = {w0.x, w8.x, w0.y, w8.y};
  const uint32_t b[2] = {x.x, x.y};
  multiplyTile<type>(d, a, b);
}

void multiplySkinny(DataType type, const ProductArguments& arguments, bool fixedPoint, cudaStream_t stream);
void multiplyTiled(DataType type, const ProductArguments& arguments, bool fixedPoint, int splits, cudaStream_t stream);
/// Whether multiplyWgmma() can take such a product on the current device.
bool wgmmaTakes(const ProductArguments& arguments);
/// The same results by the tensor cores' warpgroup instructions. Fills all of its results at once, without a workspace.
void multiplyWgmma(DataType type, const ProductArguments& arguments, bool fixedPoint, cudaStream_t stream);
void multiplyF32(const DeviceMatrix& matrix, const DeviceRows& x, float* y, int64_t yStride, cudaStream_t stream);
void multiplyFixedPointF32(const DeviceMatrix& matrix, const DeviceRows& x, int64_t granuleDepth, int64_t* sums,
                           int64_t sumStride, int32_t* badRow, cudaStream_t stream);

/// Rows that one call of multiplySkinny() takes.
inline constexpr int kSkinnyRows = 16;

}  // namespace hels::cuda
