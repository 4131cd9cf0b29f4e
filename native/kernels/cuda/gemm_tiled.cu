// Products with many rows: a block owns a tile of columns by rows, both operands pass through shared memory in a
// pipeline of asynchronous copies, and each warp multiplies its part of the tile. The order of every sum is that of
// gemm_skinny.cu.
#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {
namespace {

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
  static constexpr size_t kStagesBytes = static_cast<size_t>(stages) * kStageElements * 2;
  /// Results of one lane.
  static constexpr int kResults = kColumnTiles * kRowTiles * 4;
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

/// visit(index, column, row) for each of the lane's results that exists.
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
        if (toColumn < a.columns && toRow < a.rows) visit((tile * Shape::kRowTiles + rowTile) * 4 + i, toColumn, toRow);
      }
    }
  }
}

/// What a thread copies of each stage: the same chunk of every so-many-th row of one operand.
template <int rows, int threads>
struct RowCopies {
  static constexpr int kCopies = rows * kChunks / threads;
  static_assert(rows * kChunks % threads == 0);
  const uint16_t* sources[kCopies];
  int chunk;

  /// Rows of `source` from `first` on; behind the last of `count`, that one again, for results that nobody takes.
  __device__ __forceinline__ RowCopies(const uint16_t* source, int64_t stride, int first, int count)
      : chunk(static_cast<int>(threadIdx.x) % kChunks) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      sources[i] = source + min(first + rowOf(i), count - 1) * stride + chunk * kChunkElements;
    }
  }
  /// Starts the copies of the stage at depth k, zeros behind the segment's end.
  __device__ __forceinline__ void start(uint16_t* target, int k, int end) const {
    const bool inside = k + chunk * kChunkElements < end;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      copyAsync16(target + chunkOffset(rowOf(i), chunk), sources[i] + (inside ? k : 0), inside);
    }
  }

 private:
  static __device__ __forceinline__ int rowOf(int i) {
    return static_cast<int>(threadIdx.x) / kChunks + i * (threads / kChunks);
  }
};

/// Adds the products of one stage to the warp's sums.
template <DataType type, typename Shape>
__device__ __forceinline__ void multiplyStage(const uint16_t* w, const uint16_t* x,
                                              float (&sums)[Shape::kColumnTiles][Shape::kRowTiles][4]) {
#pragma unroll
  for (int step = 0; step < kStageDepth / kStepDepth; ++step) {
    uint2 inputs[Shape::kRowTiles];
#pragma unroll
    for (int tile = 0; tile < Shape::kRowTiles; ++tile) inputs[tile] = stepInputs(x, tile * 8, step);
#pragma unroll
    for (int tile = 0; tile < Shape::kColumnTiles; ++tile) {
      const uint2 w0 = stepInputs(w, tile * 16, step);
      const uint2 w8 = stepInputs(w, tile * 16 + 8, step);
#pragma unroll
      for (int rowTile = 0; rowTile < Shape::kRowTiles; ++rowTile) {
        multiplyStep<type>(sums[tile][rowTile], w0, w8, inputs[rowTile]);
      }
    }
  }
}

/// Sums of the segments [firstSegment, endSegment); endOfSegment(segment, sums) takes each segment's.
template <DataType type, typename Shape, typename EndOfSegment>
__device__ __forceinline__ void tileProduct(const ProductArguments& a, int firstSegment, int endSegment,
                                            uint16_t* shared, int column, int row, const EndOfSegment& endOfSegment) {
  const WarpTile<Shape> warp(static_cast<int>(threadIdx.x) / kWarpThreads);
  const RowCopies<Shape::kColumns, Shape::kThreads> weights(a.w, a.segments.total, column, a.columns);
  const RowCopies<Shape::kRows, Shape::kThreads> inputs(a.x, a.xStride, row, a.rows);
  StageWalk loading(a.segments, firstSegment, endSegment);
  const auto load = [&](int stage) {
    if (!loading.done()) {
      uint16_t* target = shared + stage * Shape::kStageElements;
      const int end = a.segments.end(loading.segment);
      weights.start(target, loading.k, end);
      inputs.start(target + Shape::kColumns * kStageDepth, loading.k, end);
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
    multiplyStage<type, Shape>(w + warp.column * kStageDepth, w + (Shape::kColumns + warp.row) * kStageDepth, sums);
    stage = stage + 1 == Shape::kStages ? 0 : stage + 1;
    if (!walk.lastOfSegment(a.segments)) continue;
    endOfSegment(walk.segment, sums);
#pragma unroll
    for (auto& tile : sums) {
#pragma unroll
      for (auto& rowTile : tile) {
#pragma unroll
        for (float& sum : rowTile) sum = 0.0F;
      }
    }
  }
}

/// Where a block's tile lies and which segments are its share: all of them, or the part of its split.
template <typename Shape>
struct BlockShare {
  // Blocks that run at once share few columns: the weights are read from memory once, the rows from the cache.
  int column = static_cast<int>(blockIdx.y) * Shape::kColumns;
  int row = static_cast<int>(blockIdx.x) * Shape::kRows;
  int firstSegment;
  int endSegment;

  __device__ __forceinline__ explicit BlockShare(int segments)
      : firstSegment(static_cast<int>(blockIdx.z) * segments / static_cast<int>(gridDim.z)),
        endSegment((static_cast<int>(blockIdx.z) + 1) * segments / static_cast<int>(gridDim.z)) {}
};

/// f32 totals of the two halves of the slices, one after the other: the first waits in y, or stays there with two
/// splits. Totals are touched once a segment: they lie in shared memory and leave the registers to the sums.
template <DataType type, typename Shape>
__device__ __forceinline__ void runSlices(const ProductArguments& a, unsigned char* shared) {
  const BlockShare<Shape> share(kSlices);
  float* totals = reinterpret_cast<float*>(shared + Shape::kStagesBytes) + threadIdx.x;
  const WarpTile<Shape> warp(static_cast<int>(threadIdx.x) / kWarpThreads);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int column = share.column + warp.column + lane / 4;
  const int row = share.row + warp.row + lane % 4 * 2;
  float* y = a.y + static_cast<int>(blockIdx.z) * a.halfStride;
#pragma unroll
  for (int i = 0; i < Shape::kResults; ++i) totals[i * Shape::kThreads] = 0.0F;
  bool secondHalf = false;
  const auto store = [&] {
    forEachResult<Shape>(a, column, row, [&](int index, int toColumn, int toRow) {
      float* target = y + toRow * a.yStride + toColumn;
      const float total = totals[index * Shape::kThreads];
      *target = secondHalf ? *target + total : total;
      totals[index * Shape::kThreads] = 0.0F;
    });
  };
  tileProduct<type, Shape>(a, share.firstSegment, share.endSegment, reinterpret_cast<uint16_t*>(shared), share.column,
                           share.row, [&](int segment, const auto& sums) {
                             if (!secondHalf && segment >= kHalfSlices && gridDim.z == 1) {
                               store();
                               secondHalf = true;
                             }
#pragma unroll
                             for (int i = 0; i < Shape::kResults; ++i) {
                               totals[i * Shape::kThreads] +=
                                   sums[i / 4 / Shape::kRowTiles][i / 4 % Shape::kRowTiles][i % 4];
                             }
                           });
  store();
}

/// Fixed-point totals of the granules, likewise.
template <DataType type, typename Shape>
__device__ __forceinline__ void runGranules(const ProductArguments& a, unsigned char* shared) {
  const BlockShare<Shape> share(a.segments.count);
  int64_t* totals = reinterpret_cast<int64_t*>(shared + Shape::kStagesBytes) + threadIdx.x;
  const WarpTile<Shape> warp(static_cast<int>(threadIdx.x) / kWarpThreads);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int column = share.column + warp.column + lane / 4;
  const int row = share.row + warp.row + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < Shape::kResults; ++i) totals[i * Shape::kThreads] = 0;
  tileProduct<type, Shape>(a, share.firstSegment, share.endSegment, reinterpret_cast<uint16_t*>(shared), share.column,
                           share.row, [&](int, const auto& sums) {
#pragma unroll
                             for (int i = 0; i < Shape::kResults; ++i) {
                               const int rowTile = i / 4 % Shape::kRowTiles;
                               totals[i * Shape::kThreads] += fixedPoint(sums[i / 4 / Shape::kRowTiles][rowTile][i % 4],
                                                                         row + rowTile * 8 + i % 2, a);
                             }
                           });
  forEachResult<Shape>(a, column, row, [&](int index, int toColumn, int toRow) {
    int64_t* target = a.sums + toRow * a.sumStride + toColumn;
    const int64_t total = totals[index * Shape::kThreads];
    if (gridDim.z == 1) {
      *target = total;
    } else {
      atomicAdd(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(total));
    }
  });
}

template <DataType type, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads) tiledKernel(ProductArguments a) {
  HELS_DYNAMIC_SHARED(unsigned char, shared);
  runSlices<type, Shape>(a, shared);
}

template <DataType type, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads) tiledFixedPointKernel(ProductArguments a) {
  HELS_DYNAMIC_SHARED(unsigned char, shared);
  runGranules<type, Shape>(a, shared);
}

template <typename Shape>
size_t sharedBytesOf(bool fixedPoint) {
  const size_t totals = (fixedPoint ? sizeof(int64_t) : sizeof(float)) * Shape::kResults * Shape::kThreads;
  return Shape::kStagesBytes + totals;
}

template <DataType type, typename Shape>
void launchShape(const ProductArguments& arguments, bool fixedPoint, int splits, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((arguments.rows + Shape::kRows - 1) / Shape::kRows),
                  static_cast<unsigned>((arguments.columns + Shape::kColumns - 1) / Shape::kColumns),
                  static_cast<unsigned>(splits));
  launchEarly(fixedPoint ? tiledFixedPointKernel<type, Shape> : tiledKernel<type, Shape>, grid, dim3(Shape::kThreads),
              sharedBytesOf<Shape>(fixedPoint), stream, arguments);
}

using LeastTile = Tile<64, 32, 32, 16, 2>;  // fixed point on a P100
using TinyTile = Tile<64, 64, 32, 32, 2>;
using FlatTile = Tile<64, 32, 32, 16, 4>;
using SmallTile = Tile<64, 64, 32, 32, 4>;
using LargeTile = Tile<128, 128, 64, 32, 3>;

template <DataType type>
void launchTiled(const ProductArguments& arguments, bool fixedPoint, int splits, cudaStream_t stream) {
  if (arguments.rows > SmallTile::kRows && sharedBytesOf<LargeTile>(fixedPoint) <= sharedBytesMax()) {
    launchShape<type, LargeTile>(arguments, fixedPoint, splits, stream);
  } else if (sharedBytesOf<TinyTile>(fixedPoint) > sharedBytesMax()) {
    launchShape<type, LeastTile>(arguments, fixedPoint, splits, stream);
  } else if (sharedBytesOf<SmallTile>(fixedPoint) > sharedBytesMax()) {
    launchShape<type, TinyTile>(arguments, fixedPoint, splits, stream);
  } else if (arguments.rows <= FlatTile::kRows) {
    launchShape<type, FlatTile>(arguments, fixedPoint, splits, stream);
  } else {
    launchShape<type, SmallTile>(arguments, fixedPoint, splits, stream);
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
