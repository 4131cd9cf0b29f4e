// Products with few rows, bound by reading the weights: a block owns 16 columns, its eight warps stream one segment of
// the depth each from memory to registers, and meet once at the end.
#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {
namespace {

constexpr int kWarps = 8;
static_assert(kWarps == kSlices);
constexpr int kTileColumns = 16;
constexpr int kUnroll = 4;  // blocks whose loads are in flight together

__device__ __forceinline__ uint4 zero16() { return make_uint4(0, 0, 0, 0); }

/// The product of one segment, in the accumulators of the warp.
template <DataType type, int rowTiles>
__device__ __forceinline__ void segmentProduct(const ProductArguments& a, int column, int segment,
                                               float (&sums)[rowTiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int g = lane / 4;
  const int depth = a.segments.total;
  const int end = a.segments.end(segment);
  const int first = a.segments.begin(segment) + lane % 4 * 8;
  const uint16_t* w0 = a.w + static_cast<int64_t>(min(column + g, a.columns - 1)) * depth;
  const uint16_t* w8 = a.w + static_cast<int64_t>(min(column + g + 8, a.columns - 1)) * depth;
  const uint16_t* x[rowTiles];
#pragma unroll
  for (int tile = 0; tile < rowTiles; ++tile) x[tile] = a.x + min(tile * 8 + g, a.rows - 1) * a.xStride;
  // The last lanes of a warp may end before the others: all go on, with zeros.
  const int blocks = (end - a.segments.begin(segment) + kBlockDepth - 1) / kBlockDepth;
  for (int block = 0; block < blocks; block += kUnroll) {
    uint4 weights[kUnroll][2];
    uint4 inputs[kUnroll][rowTiles];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int k = first + (block + i) * kBlockDepth;
      const bool inside = k < end;
      weights[i][0] = inside ? loadOnce16(w0 + k) : zero16();
      weights[i][1] = inside ? loadOnce16(w8 + k) : zero16();
#pragma unroll
      for (int tile = 0; tile < rowTiles; ++tile) {
        inputs[i][tile] = inside ? *reinterpret_cast<const uint4*>(x[tile] + k) : zero16();
      }
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
#pragma unroll
      for (int tile = 0; tile < rowTiles; ++tile) {
        multiplyBlock<type>(sums[tile], weights[i][0], weights[i][1], inputs[i][tile]);
      }
    }
  }
}

template <DataType type, int rowTiles>
__global__ void __launch_bounds__(kWarps* kWarpThreads) skinnyKernel(ProductArguments a) {
  constexpr int kRows = rowTiles * 8;
  __shared__ float partials[kWarps][kRows][kTileColumns];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int column = static_cast<int>(blockIdx.x) * kTileColumns;
  float sums[rowTiles][4] = {};
  segmentProduct<type, rowTiles>(a, column, warp, sums);
#pragma unroll
  for (int tile = 0; tile < rowTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) partials[warp][tile * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sums[tile][i];
  }
  __syncthreads();
  for (int item = static_cast<int>(threadIdx.x); item < kRows * kTileColumns; item += kWarps * kWarpThreads) {
    const int row = item / kTileColumns;
    const int offset = item % kTileColumns;
    if (row >= a.rows || column + offset >= a.columns) continue;
    float halves[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = 0.0F;
#pragma unroll
      for (int slice = 0; slice < kHalfSlices; ++slice) sum += partials[half * kHalfSlices + slice][row][offset];
      halves[half] = sum;
    }
    a.y[row * a.yStride + column + offset] = halves[0] + halves[1];
  }
}

template <DataType type, int rowTiles>
__global__ void __launch_bounds__(kWarps* kWarpThreads) skinnyFixedPointKernel(ProductArguments a) {
  constexpr int kRows = rowTiles * 8;
  __shared__ int64_t partials[kWarps][kRows][kTileColumns];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int column = static_cast<int>(blockIdx.x) * kTileColumns;
  int64_t totals[rowTiles][4] = {};
  for (int granule = warp; granule < a.segments.count; granule += kWarps) {
    float sums[rowTiles][4] = {};
    segmentProduct<type, rowTiles>(a, column, granule, sums);
#pragma unroll
    for (int tile = 0; tile < rowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) totals[tile][i] += fixedPoint(sums[tile][i], tile * 8 + lane % 4 * 2 + i % 2, a);
    }
  }
#pragma unroll
  for (int tile = 0; tile < rowTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) partials[warp][tile * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = totals[tile][i];
  }
  __syncthreads();
  for (int item = static_cast<int>(threadIdx.x); item < kRows * kTileColumns; item += kWarps * kWarpThreads) {
    const int row = item / kTileColumns;
    const int offset = item % kTileColumns;
    if (row >= a.rows || column + offset >= a.columns) continue;
    int64_t sum = 0;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) sum += partials[part][row][offset];
    a.sums[row * a.sumStride + column + offset] = sum;
  }
}

template <DataType type>
void launchSkinny(const ProductArguments& arguments, bool fixedPoint, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((arguments.columns + kTileColumns - 1) / kTileColumns));
  const dim3 block(kWarps * kWarpThreads);
  if (arguments.rows <= 8) {
    launch(fixedPoint ? skinnyFixedPointKernel<type, 1> : skinnyKernel<type, 1>, grid, block, 0, stream, arguments);
  } else {
    launch(fixedPoint ? skinnyFixedPointKernel<type, 2> : skinnyKernel<type, 2>, grid, block, 0, stream, arguments);
  }
}

}  // namespace

void multiplySkinny(DataType type, const ProductArguments& arguments, bool fixedPoint, cudaStream_t stream) {
  if (type == DataType::kBf16) {
    launchSkinny<DataType::kBf16>(arguments, fixedPoint, stream);
  } else {
    launchSkinny<DataType::kF16>(arguments, fixedPoint, stream);
  }
}

}  // namespace hels::cuda
