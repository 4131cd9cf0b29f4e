// Products with many rows: a block owns a tile of columns by rows, both operands pass through shared memory in a
// pipeline of asynchronous copies, and each warp multiplies its part of the tile. The order of every sum is that of
// gemm_skinny.cu.
#include <type_traits>

#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {
namespace {

constexpr int kStageDepth = 64;  // inputs of one stage, as two panels of kBlockDepth: their rows of 64 bytes are read
                                 // without bank conflicts
constexpr int kPanels = kStageDepth / kBlockDepth;
constexpr int kChunks = kStageDepth / 8;  // of 16 bytes, in a row of a stage

/// A block's tile and its warps' parts of it.
template <int columns, int rows, int warpColumns, int warpRows, int stages>
struct Tile {
  static constexpr int kColumns = columns;
  static constexpr int kRows = rows;
  static constexpr int kColumnTiles = warpColumns / 16;
  static constexpr int kRowTiles = warpRows / 8;
  static constexpr int kWarpColumns = warpColumns;
  static constexpr int kWarpRows = warpRows;
  static constexpr int kThreads = columns / warpColumns * (rows / warpRows) * kWarpThreads;
  static constexpr int kStages = stages;
  static constexpr int kStageElements = (columns + rows) * kStageDepth;
  static constexpr size_t kSharedBytes = static_cast<size_t>(stages) * kStageElements * 2;
};

/// Walks over the stages of the segments [segment, endSegment).
struct StageWalk {
  int segment;
  int endSegment;
  int k;  // of the current stage

  __device__ __forceinline__ StageWalk(const Segments& segments, int first, int end)
      : segment(first), endSegment(end), k(segments.begin(first)) {
    skipEmpty(segments);
  }
  __device__ __forceinline__ bool done() const { return segment >= endSegment; }
  __device__ __forceinline__ bool lastOfSegment(const Segments& segments) const {
    return k + kStageDepth >= segments.end(segment);
  }
  __device__ __forceinline__ void next(const Segments& segments) {
    k += kStageDepth;
    if (k < segments.end(segment)) return;
    ++segment;
    if (!done()) k = segments.begin(segment);
    skipEmpty(segments);
  }

 private:
  __device__ __forceinline__ void skipEmpty(const Segments& segments) {
    while (!done() && segments.begin(segment) >= segments.end(segment)) ++segment;
    if (!done() && k < segments.begin(segment)) k = segments.begin(segment);
  }
};

/// Where a warp's part of the block's tile lies.
template <typename Shape>
struct WarpTile {
  int column;
  int row;

  __device__ __forceinline__ explicit WarpTile(int warp)
      : column(warp % kAcross * Shape::kWarpColumns), row(warp / kAcross * Shape::kWarpRows) {}

 private:
  static constexpr int kAcross = Shape::kColumns / Shape::kWarpColumns;
};

/// visit(tile, rowTile, i, column, row) for each of the lane's results that exists.
template <typename Shape, typename Visit>
__device__ __forceinline__ void forEachResult(const ProductArguments& a, int column, int row, const Visit& visit) {
#pragma unroll
  for (int tile = 0; tile < Shape::kColumnTiles; ++tile) {
#pragma unroll
    for (int rowTile = 0; rowTile < Shape::kRowTiles; ++rowTile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int toColumn = column + tile * 16 + i / 2 * 8;
        const int toRow = row + rowTile * 8 + i % 2;
        if (toColumn < a.columns && toRow < a.rows) visit(tile, rowTile, i, toColumn, toRow);
      }
    }
  }
}

/// Starts the copies of one stage: rows of `source` from `first` on, at depth k, zeros beyond the segment.
template <int rows, int threads>
__device__ __forceinline__ void copyRows(uint16_t* target, const uint16_t* source, int64_t stride, int first, int count,
                                         int k, int end) {
#pragma unroll
  for (int item = static_cast<int>(threadIdx.x); item < rows * kChunks; item += threads) {
    const int row = item / kChunks;
    const int chunk = item % kChunks;
    const int from = k + chunk * 8;
    uint16_t* to = target + (chunk / 4 * rows + row) * kBlockDepth + chunk % 4 * 8;
    const int sourceRow = min(first + row, count - 1);
    copyAsync16(to, source + sourceRow * stride + (from < end ? from : 0), from < end);
  }
}

/// The warp's sums over the segments of this block, in the order that Totals wants.
template <DataType type, typename Shape, typename Totals>
__device__ __forceinline__ void tileProduct(const ProductArguments& a, int firstSegment, int endSegment,
                                            uint16_t* shared, int column, int row, Totals& totals) {
  const WarpTile<Shape> warp(static_cast<int>(threadIdx.x) / kWarpThreads);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int fragment = lane / 4 * kBlockDepth + lane % 4 * 8;

  StageWalk loading(a.segments, firstSegment, endSegment);
  const auto load = [&](int stage) {
    if (!loading.done()) {
      uint16_t* target = shared + stage * Shape::kStageElements;
      const int end = a.segments.end(loading.segment);
      copyRows<Shape::kColumns, Shape::kThreads>(target, a.w, a.segments.total, column, a.columns, loading.k, end);
      copyRows<Shape::kRows, Shape::kThreads>(target + Shape::kColumns * kStageDepth, a.x, a.xStride, row, a.rows,
                                              loading.k, end);
      loading.next(a.segments);
    }
    commitCopies();  // also an empty group, so that the groups count the stages
  };
  letNextStart();
  waitForPrevious();
#pragma unroll
  for (int stage = 0; stage < Shape::kStages - 1; ++stage) load(stage);

  float sums[Shape::kColumnTiles][Shape::kRowTiles][4] = {};
  int stage = 0;
  for (StageWalk walk(a.segments, firstSegment, endSegment); !walk.done(); walk.next(a.segments)) {
    waitForCopies<Shape::kStages - 2>();
    __syncthreads();
    load((stage + Shape::kStages - 1) % Shape::kStages);  // the stage that all warps have left behind
    const uint16_t* w = shared + stage * Shape::kStageElements;
    const uint16_t* x = w + Shape::kColumns * kStageDepth;
#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel) {
      uint4 inputs[Shape::kRowTiles];
#pragma unroll
      for (int tile = 0; tile < Shape::kRowTiles; ++tile) {
        inputs[tile] =
            *reinterpret_cast<const uint4*>(x + (panel * Shape::kRows + warp.row + tile * 8) * kBlockDepth + fragment);
      }
#pragma unroll
      for (int tile = 0; tile < Shape::kColumnTiles; ++tile) {
        const uint16_t* from = w + (panel * Shape::kColumns + warp.column + tile * 16) * kBlockDepth + fragment;
        const uint4 w0 = *reinterpret_cast<const uint4*>(from);
        const uint4 w8 = *reinterpret_cast<const uint4*>(from + 8 * kBlockDepth);
#pragma unroll
        for (int rowTile = 0; rowTile < Shape::kRowTiles; ++rowTile) {
          multiplyBlock<type>(sums[tile][rowTile], w0, w8, inputs[rowTile]);
        }
      }
    }
    stage = (stage + 1) % Shape::kStages;
    if (walk.lastOfSegment(a.segments)) {
      totals.beginSegment(walk.segment);
#pragma unroll
      for (int tile = 0; tile < Shape::kColumnTiles; ++tile) {
#pragma unroll
        for (int rowTile = 0; rowTile < Shape::kRowTiles; ++rowTile) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            totals.add(tile, rowTile, i, sums[tile][rowTile][i]);
            sums[tile][rowTile][i] = 0.0F;
          }
        }
      }
    }
  }
  totals.finish();
}

/// Sums of the two halves of the slices, one after the other: the first waits in y (or stays there, with two splits).
template <typename Shape>
struct SliceTotals {
  const ProductArguments& a;
  const int column;  // of this lane's first result
  const int row;
  const int split;
  bool secondHalf = false;
  float totals[Shape::kColumnTiles][Shape::kRowTiles][4] = {};

  __device__ __forceinline__ void beginSegment(int segment) {
    if (secondHalf || segment < kHalfSlices || gridDim.z > 1) return;
    store(false);
    secondHalf = true;
  }
  __device__ __forceinline__ void add(int tile, int rowTile, int i, float sum) { totals[tile][rowTile][i] += sum; }
  __device__ __forceinline__ void finish() { store(secondHalf); }

 private:
  __device__ __forceinline__ void store(bool add) {
    forEachResult<Shape>(a, column, row, [&](int tile, int rowTile, int i, int toColumn, int toRow) {
      float* target = a.y + split * a.halfStride + toRow * a.yStride + toColumn;
      *target = add ? *target + totals[tile][rowTile][i] : totals[tile][rowTile][i];
    });
#pragma unroll
    for (auto& tile : totals) {
#pragma unroll
      for (auto& rowTile : tile) {
#pragma unroll
        for (float& total : rowTile) total = 0.0F;
      }
    }
  }
};

template <typename Shape>
struct FixedPointTotals {
  const ProductArguments& a;
  const int column;
  const int row;
  int64_t totals[Shape::kColumnTiles][Shape::kRowTiles][4] = {};

  __device__ __forceinline__ void beginSegment(int) {}
  __device__ __forceinline__ void add(int tile, int rowTile, int i, float sum) {
    totals[tile][rowTile][i] += fixedPoint(sum, row + rowTile * 8 + i % 2, a);
  }
  __device__ __forceinline__ void finish() const {
    forEachResult<Shape>(a, column, row, [&](int tile, int rowTile, int i, int toColumn, int toRow) {
      int64_t* target = a.sums + toRow * a.sumStride + toColumn;
      if (gridDim.z == 1) {
        *target = totals[tile][rowTile][i];
      } else {
        atomicAdd(reinterpret_cast<unsigned long long*>(target),
                  static_cast<unsigned long long>(totals[tile][rowTile][i]));
      }
    });
  }
};

/// This block's share of the segments: all of them, or the part of its split.
template <DataType type, typename Shape, template <typename> typename Totals>
__device__ __forceinline__ void runTile(const ProductArguments& a, uint16_t* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const WarpTile<Shape> warp(static_cast<int>(threadIdx.x) / kWarpThreads);
  const int column = static_cast<int>(blockIdx.x) * Shape::kColumns;
  const int row = static_cast<int>(blockIdx.y) * Shape::kRows;
  const int splits = static_cast<int>(gridDim.z);
  const int split = static_cast<int>(blockIdx.z);
  const int lanesColumn = column + warp.column + lane / 4;
  const int lanesRow = row + warp.row + lane % 4 * 2;
  const int first = split * a.segments.count / splits;
  const int end = (split + 1) * a.segments.count / splits;
  if constexpr (std::is_same_v<Totals<Shape>, SliceTotals<Shape>>) {
    Totals<Shape> totals{a, lanesColumn, lanesRow, split};
    tileProduct<type, Shape>(a, first, end, shared, column, row, totals);
  } else {
    Totals<Shape> totals{a, lanesColumn, lanesRow};
    tileProduct<type, Shape>(a, first, end, shared, column, row, totals);
  }
}

template <DataType type, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) tiledKernel(ProductArguments a) {
  HELS_DYNAMIC_SHARED(uint16_t, shared);
  runTile<type, Shape, SliceTotals>(a, shared);
}

template <DataType type, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) tiledFixedPointKernel(ProductArguments a) {
  HELS_DYNAMIC_SHARED(uint16_t, shared);
  runTile<type, Shape, FixedPointTotals>(a, shared);
}

template <DataType type, typename Shape>
void launchShape(const ProductArguments& arguments, bool fixedPoint, int splits, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((arguments.columns + Shape::kColumns - 1) / Shape::kColumns),
                  static_cast<unsigned>((arguments.rows + Shape::kRows - 1) / Shape::kRows),
                  static_cast<unsigned>(splits));
  launchEarly(fixedPoint ? tiledFixedPointKernel<type, Shape> : tiledKernel<type, Shape>, grid, dim3(Shape::kThreads),
              Shape::kSharedBytes, stream, arguments);
}

using SmallTile = Tile<64, 64, 32, 32, 4>;
using LargeTile = Tile<128, 128, 64, 32, 4>;

template <DataType type>
void launchTiled(const ProductArguments& arguments, bool fixedPoint, int splits, cudaStream_t stream) {
  if (arguments.rows <= SmallTile::kRows) {
    launchShape<type, SmallTile>(arguments, fixedPoint, splits, stream);
  } else {
    launchShape<type, LargeTile>(arguments, fixedPoint, splits, stream);
  }
}

}  // namespace

void multiplyTiled(DataType type, const ProductArguments& arguments, bool fixedPoint, int splits, cudaStream_t stream) {
  if (type == DataType::kBf16) {
    launchTiled<DataType::kBf16>(arguments, fixedPoint, splits, stream);
  } else {
    launchTiled<DataType::kF16>(arguments, fixedPoint, splits, stream);
  }
}

}  // namespace hels::cuda
