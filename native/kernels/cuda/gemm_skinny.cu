// Products with few rows, bound by reading the weights: a block owns 16 columns, its eight warps stream one segment of
// the depth each from memory to registers, and meet once at the end.
#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {
namespace {

constexpr int kWarps = 8;
static_assert(kWarps == kSlices);
constexpr int kTileColumns = 16;
/// How a kernel hides the latency of memory: by many blocks on a multiprocessor, or, where there are not as many, by
/// more loads in flight. `unroll` blocks of depth are asked for before the last as many are multiplied.
template <int rowTilesOfIt, int unrollOfIt, int blocksOfIt>
struct Pace {
  static constexpr int kRowTiles = rowTilesOfIt;
  static constexpr int kUnroll = unrollOfIt;
  static constexpr int kBlocks = blocksOfIt;  // on a multiprocessor
  static constexpr int kRows = kRowTiles * 8;
};

/// The operands of kUnroll blocks of depth: of 16 columns, rows g and g + 8 of the tile, and of 8 rows of x each.
template <typename Pace>
struct Operands {
  uint4 weights[Pace::kUnroll][2];
  uint4 inputs[Pace::kUnroll][Pace::kRowTiles];
};

/// Where a lane reads its part of the depth.
template <typename Pace>
struct Sources {
  const uint16_t* weights[2];
  const uint16_t* inputs[Pace::kRowTiles];

  __device__ __forceinline__ Sources(const ProductArguments& a, int column) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    const int g = lane / 4;
    const int first = lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      weights[i] = a.w + static_cast<int64_t>(min(column + g + i * 8, a.columns - 1)) * a.segments.total + first;
    }
#pragma unroll
    for (int tile = 0; tile < Pace::kRowTiles; ++tile)
      inputs[tile] = a.x + min(tile * 8 + g, a.rows - 1) * a.xStride + first;
  }
  /// Of the blocks from k on, zeros where they lie behind `end`.
  __device__ __forceinline__ void loadWeights(int k, int end, Operands<Pace>& operands) const {
    end -= static_cast<int>(threadIdx.x) % 4 * 8;
#pragma unroll
    for (int i = 0; i < Pace::kUnroll; ++i, k += kBlockDepth) {
      operands.weights[i][0] = loadOnce16(weights[0] + k, k < end);
      operands.weights[i][1] = loadOnce16(weights[1] + k, k < end);
    }
  }
  __device__ __forceinline__ void loadInputs(int k, int end, Operands<Pace>& operands) const {
    end -= static_cast<int>(threadIdx.x) % 4 * 8;
#pragma unroll
    for (int i = 0; i < Pace::kUnroll; ++i, k += kBlockDepth) {
#pragma unroll
      for (int tile = 0; tile < Pace::kRowTiles; ++tile) operands.inputs[i][tile] = load16(inputs[tile] + k, k < end);
    }
  }
};

/// Walks over every kWarps-th segment, so many inputs at a time.
template <int step>
struct GroupWalk {
  int segment;
  int k;
  int end;

  __device__ __forceinline__ GroupWalk(const Segments& segments, int first) { begin(segments, first); }
  __device__ __forceinline__ bool done() const { return end == 0; }
  __device__ __forceinline__ bool lastOfSegment() const { return k + step >= end; }
  __device__ __forceinline__ void next(const Segments& segments) {
    k += step;
    if (k >= end) begin(segments, segment + kWarps);
  }

 private:
  __device__ __forceinline__ void begin(const Segments& segments, int next) {
    segment = next;
    k = segments.begin(next);
    end = segments.end(next);
    if (segment >= segments.count || k >= end) end = 0;  // empty segments are the last ones
  }
};

/// The products of the warp's segments; endOfSegment(sums) takes each one's. Loads run ahead across segments.
template <DataType type, typename Pace, typename EndOfSegment>
__device__ __forceinline__ void segmentProducts(const ProductArguments& a, int column, int warp,
                                                const EndOfSegment& endOfSegment) {
  using Walk = GroupWalk<Pace::kUnroll * kBlockDepth>;
  const Sources<Pace> sources(a, column);
  Walk loading(a.segments, warp);
  Operands<Pace> operands;
  letNextStart();
  sources.loadWeights(loading.k, loading.end, operands);  // no kernel writes them: they need not wait
  waitForPrevious();
  sources.loadInputs(loading.k, loading.end, operands);
  float sums[Pace::kRowTiles][4] = {};
  for (Walk walk = loading; !walk.done(); walk.next(a.segments)) {
    const Operands<Pace> current = operands;
    if (!loading.done()) loading.next(a.segments);
    sources.loadWeights(loading.k, loading.end, operands);
    sources.loadInputs(loading.k, loading.end, operands);
#pragma unroll
    for (int i = 0; i < Pace::kUnroll; ++i) {
#pragma unroll
      for (int tile = 0; tile < Pace::kRowTiles; ++tile) {
        multiplyBlock<type>(sums[tile], current.weights[i][0], current.weights[i][1], current.inputs[i][tile]);
      }
    }
    if (!walk.lastOfSegment()) continue;
    endOfSegment(sums);
#pragma unroll
    for (auto& tile : sums) {
#pragma unroll
      for (float& sum : tile) sum = 0.0F;
    }
  }
}

/// Which row and column of the block's tile a lane's result is.
__device__ __forceinline__ int rowOf(int tile, int i) {
  return tile * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
}
__device__ __forceinline__ int columnOf(int i) { return static_cast<int>(threadIdx.x) % kWarpThreads / 4 + i / 2 * 8; }

template <DataType type, typename Pace>
__global__ void __launch_bounds__(kWarps* kWarpThreads, Pace::kBlocks) skinnyKernel(ProductArguments a) {
  __shared__ float partials[kWarps][Pace::kRows][kTileColumns];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int column = static_cast<int>(blockIdx.x) * kTileColumns;
  float totals[Pace::kRowTiles][4] = {};
  segmentProducts<type, Pace>(a, column, warp, [&](const float(&sums)[Pace::kRowTiles][4]) {
#pragma unroll
    for (int i = 0; i < Pace::kRowTiles * 4; ++i) totals[i / 4][i % 4] = sums[i / 4][i % 4];
  });
#pragma unroll
  for (int i = 0; i < Pace::kRowTiles * 4; ++i)
    partials[warp][rowOf(i / 4, i % 4)][columnOf(i % 4)] = totals[i / 4][i % 4];
  __syncthreads();
  for (int item = static_cast<int>(threadIdx.x); item < Pace::kRows * kTileColumns; item += kWarps * kWarpThreads) {
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

template <DataType type, typename Pace>
__global__ void __launch_bounds__(kWarps* kWarpThreads, Pace::kBlocks) skinnyFixedPointKernel(ProductArguments a) {
  __shared__ int64_t partials[kWarps][Pace::kRows][kTileColumns];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int column = static_cast<int>(blockIdx.x) * kTileColumns;
  int64_t totals[Pace::kRowTiles][4] = {};
  segmentProducts<type, Pace>(a, column, warp, [&](const float(&sums)[Pace::kRowTiles][4]) {
#pragma unroll
    for (int i = 0; i < Pace::kRowTiles * 4; ++i) {
      totals[i / 4][i % 4] += fixedPoint(sums[i / 4][i % 4], rowOf(i / 4, i % 4), a);
    }
  });
#pragma unroll
  for (int i = 0; i < Pace::kRowTiles * 4; ++i)
    partials[warp][rowOf(i / 4, i % 4)][columnOf(i % 4)] = totals[i / 4][i % 4];
  __syncthreads();
  for (int item = static_cast<int>(threadIdx.x); item < Pace::kRows * kTileColumns; item += kWarps * kWarpThreads) {
    const int row = item / kTileColumns;
    const int offset = item % kTileColumns;
    if (row >= a.rows || column + offset >= a.columns) continue;
    int64_t sum = 0;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) sum += partials[part][row][offset];
    a.sums[row * a.sumStride + column + offset] = sum;
  }
}

template <DataType type, typename Pace>
void launchPace(const ProductArguments& arguments, bool fixedPoint, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((arguments.columns + kTileColumns - 1) / kTileColumns));
  launchEarly(fixedPoint ? skinnyFixedPointKernel<type, Pace> : skinnyKernel<type, Pace>, grid,
              dim3(kWarps * kWarpThreads), 0, stream, arguments);
}

/// Columns up to which two blocks on each of the largest devices' multiprocessors are enough for all.
constexpr int kFewColumns = 2 * 132 * kTileColumns;

template <DataType type>
void launchSkinny(const ProductArguments& arguments, bool fixedPoint, cudaStream_t stream) {
  const bool few = arguments.columns <= kFewColumns;
  if (arguments.rows <= 8) {
    if (few) return launchPace<type, Pace<1, 4, 2>>(arguments, fixedPoint, stream);
    return launchPace<type, Pace<1, 2, 4>>(arguments, fixedPoint, stream);
  }
  if (few) return launchPace<type, Pace<2, 3, 2>>(arguments, fixedPoint, stream);
  launchPace<type, Pace<2, 2, 3>>(arguments, fixedPoint, stream);
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
