// Products with few rows, bound by reading the weights: a block owns 16 columns, its eight warps stream one segment of
// the depth each from memory to registers, and meet once at the end.
#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {
namespace {

constexpr int kWarps = 8;
static_assert(kWarps == kSlices);
constexpr int kTileColumns = 16;
/// Blocks whose loads are in flight together, twice: the next ones are asked for before the last are multiplied.
template <int rowTiles>
constexpr int kUnroll = rowTiles == 1 ? 4 : 3;

/// The operands of kUnroll blocks of depth: of 16 columns, rows g and g + 8 of the tile, and of 8 rows of x each.
template <int rowTiles>
struct Operands {
  uint4 weights[kUnroll<rowTiles>][2];
  uint4 inputs[kUnroll<rowTiles>][rowTiles];
};

/// Where a lane reads its part of a segment.
template <int rowTiles>
struct Sources {
  const uint16_t* weights[2];
  const uint16_t* inputs[rowTiles];
  int end;

  __device__ __forceinline__ void loadWeights(int k, Operands<rowTiles>& operands) const {
#pragma unroll
    for (int i = 0; i < kUnroll<rowTiles>; ++i, k += kBlockDepth) {
      operands.weights[i][0] = loadOnce16(weights[0] + k, k < end);
      operands.weights[i][1] = loadOnce16(weights[1] + k, k < end);
    }
  }
  __device__ __forceinline__ void loadInputs(int k, Operands<rowTiles>& operands) const {
#pragma unroll
    for (int i = 0; i < kUnroll<rowTiles>; ++i, k += kBlockDepth) {
#pragma unroll
      for (int tile = 0; tile < rowTiles; ++tile) operands.inputs[i][tile] = load16(inputs[tile] + k, k < end);
    }
  }
};

/// The product of one segment, in the accumulators of the warp.
template <DataType type, int rowTiles>
__device__ __forceinline__ void segmentProduct(const ProductArguments& a, int column, int segment,
                                               float (&sums)[rowTiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int g = lane / 4;
  Sources<rowTiles> sources;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sources.weights[i] = a.w + static_cast<int64_t>(min(column + g + i * 8, a.columns - 1)) * a.segments.total;
  }
#pragma unroll
  for (int tile = 0; tile < rowTiles; ++tile) {
    sources.inputs[tile] = a.x + min(tile * 8 + g, a.rows - 1) * a.xStride;
  }
  sources.end = a.segments.end(segment);
  constexpr int kStep = kUnroll<rowTiles> * kBlockDepth;
  // Lanes whose part of the last block lies behind the end go on with zeros.
  const int begin = a.segments.begin(segment);
  const int first = begin + lane % 4 * 8;
  Operands<rowTiles> operands;
  sources.loadWeights(first, operands);  // of which no kernel writes: they need not wait
  waitForPrevious();
  sources.loadInputs(first, operands);
  for (int k = begin; k < sources.end; k += kStep) {
    const Operands<rowTiles> current = operands;
    sources.loadWeights(first + k - begin + kStep, operands);
    sources.loadInputs(first + k - begin + kStep, operands);
#pragma unroll
    for (int i = 0; i < kUnroll<rowTiles>; ++i) {
#pragma unroll
      for (int tile = 0; tile < rowTiles; ++tile) {
        multiplyBlock<type>(sums[tile], current.weights[i][0], current.weights[i][1], current.inputs[i][tile]);
      }
    }
  }
}

template <DataType type, int rowTiles>
__global__ void __launch_bounds__(kWarps* kWarpThreads, 2) skinnyKernel(ProductArguments a) {
  constexpr int kRows = rowTiles * 8;
  __shared__ float partials[kWarps][kRows][kTileColumns];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int column = static_cast<int>(blockIdx.x) * kTileColumns;
  float sums[rowTiles][4] = {};
  letNextStart();
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
__global__ void __launch_bounds__(kWarps* kWarpThreads, 2) skinnyFixedPointKernel(ProductArguments a) {
  constexpr int kRows = rowTiles * 8;
  __shared__ int64_t partials[kWarps][kRows][kTileColumns];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int column = static_cast<int>(blockIdx.x) * kTileColumns;
  int64_t totals[rowTiles][4] = {};
  letNextStart();
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
    launchEarly(fixedPoint ? skinnyFixedPointKernel<type, 1> : skinnyKernel<type, 1>, grid, block, 0, stream,
                arguments);
  } else {
    launchEarly(fixedPoint ? skinnyFixedPointKernel<type, 2> : skinnyKernel<type, 2>, grid, block, 0, stream,
                arguments);
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
