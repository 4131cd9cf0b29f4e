// Products with few rows, bound by reading the weights: a block owns 16 columns, its eight warps stream one segment of
// the depth each through shared memory of their own, and meet once at the end.
#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {
namespace {

constexpr int kWarps = 8;
static_assert(kWarps == kSlices);
constexpr int kTileColumns = 16;
/// How a kernel hides the latency of memory: each warp copies `stages` - 1 stages ahead to shared memory.
template <int rowTilesOfIt, int stagesOfIt, int blocksOfIt>
struct Pace {
  static constexpr int kRowTiles = rowTilesOfIt;
  static constexpr int kStages = stagesOfIt;
  static constexpr int kBlocks = blocksOfIt;  // on a multiprocessor
  static constexpr int kRows = kRowTiles * 8;
  static constexpr int kStageElements = (kTileColumns + kRows) * kStageDepth;  // the weights' before the inputs'
  static constexpr size_t kRingBytes = size_t{kWarps} * kStages * kStageElements * sizeof(uint16_t);
};

/// Copies of a warp: each lane the same chunk of every fourth column or row.
template <int rows>
struct RowCopies {
  static constexpr int kRowsAtOnce = kWarpThreads / kChunks;
  static constexpr int kCopies = rows / kRowsAtOnce;
  const uint16_t* source;
  int offsets[kCopies];  // from there to the lane's rows; the last one's again behind it, which no copy reads
  int count;             // of the lane's rows that exist

  /// Of the `existing` rows at `first`, `stride` elements apart.
  __device__ __forceinline__ RowCopies(const uint16_t* first, int stride, int existing)
      : source(first + lane() % kChunks * kChunkElements),
        count((existing - lane() / kChunks + kRowsAtOnce - 1) / kRowsAtOnce) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) offsets[i] = min(lane() / kChunks + i * kRowsAtOnce, existing - 1) * stride;
  }
  /// Starts the copies of the stage from k on, zeros behind `end` and for rows that do not exist.
  __device__ __forceinline__ void start(uint16_t* target, int k, int end) const {
    const bool inside = k + lane() % kChunks * kChunkElements < end;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const bool valid = inside && i < count;
      copyAsync16(target + chunkOffset(lane() / kChunks + i * kRowsAtOnce, lane() % kChunks),
                  source + offsets[i] + (valid ? k : 0), valid);
    }
  }

 private:
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarpThreads; }
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

/// Adds the products of one stage to the sums.
template <DataType type, typename Pace>
__device__ __forceinline__ void multiplyStage(const uint16_t* stage, float (&sums)[Pace::kRowTiles][4]) {
#pragma unroll
  for (int step = 0; step < kStageDepth / kStepDepth; ++step) {
    const uint2 w0 = stepInputs(stage, 0, step);
    const uint2 w8 = stepInputs(stage, 8, step);
#pragma unroll
    for (int tile = 0; tile < Pace::kRowTiles; ++tile) {
      multiplyStep<type>(sums[tile], w0, w8, stepInputs(stage, kTileColumns + tile * 8, step));
    }
  }
}

/// The products of the warp's segments; endOfSegment(sums) takes each one's. Loads run ahead across segments.
template <DataType type, typename Pace, typename EndOfSegment>
__device__ __forceinline__ void segmentProducts(const ProductArguments& a, int column, int warp, uint16_t* shared,
                                                const EndOfSegment& endOfSegment) {
  using Walk = GroupWalk<kStageDepth>;
  const RowCopies<kTileColumns> weights(a.w + static_cast<int64_t>(column) * a.segments.total, a.segments.total,
                                        a.columns - column);
  const RowCopies<Pace::kRows> inputs(a.x, static_cast<int>(a.xStride), a.rows);
  uint16_t* ring = shared + warp * Pace::kStages * Pace::kStageElements;
  const auto loadInputs = [&](int stage, const Walk& at) {
    inputs.start(ring + stage * Pace::kStageElements + kTileColumns * kStageDepth, at.k, at.end);
  };
  Walk loading(a.segments, warp);
  Walk walk = loading;
  const auto loadWeights = [&](int stage) {
    if (loading.done()) return;
    weights.start(ring + stage * Pace::kStageElements, loading.k, loading.end);
  };
  Walk first = loading;
#pragma unroll
  for (int stage = 0; stage < Pace::kStages - 1; ++stage) {
    loadWeights(stage);  // no kernel writes weights: they need not wait
    if (!loading.done()) loading.next(a.segments);
  }
  waitForPrevious();
  letNextStart();  // not before: a kernel that only waits would take room from blocks that could work
#pragma unroll
  for (int stage = 0; stage < Pace::kStages - 1; ++stage) {
    if (!first.done()) {
      loadInputs(stage, first);
      first.next(a.segments);
    }
    commitCopies();  // also an empty group, so that the groups count the stages
  }
  float sums[Pace::kRowTiles][4] = {};
  int stage = 0;
  for (; !walk.done(); walk.next(a.segments)) {
    waitForCopies<Pace::kStages - 2>();
    __syncwarp();
    const int behind = stage == 0 ? Pace::kStages - 1 : stage - 1;  // the stage that all lanes have left
    if (!loading.done()) {
      loadWeights(behind);
      loadInputs(behind, loading);
      loading.next(a.segments);
    }
    commitCopies();
    multiplyStage<type, Pace>(ring + stage * Pace::kStageElements, sums);
    stage = stage + 1 == Pace::kStages ? 0 : stage + 1;
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
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int column = static_cast<int>(blockIdx.x) * kTileColumns;
  float totals[Pace::kRowTiles][4] = {};
  HELS_DYNAMIC_SHARED(uint16_t, ring);
  segmentProducts<type, Pace>(a, column, warp, ring, [&](const float(&sums)[Pace::kRowTiles][4]) {
#pragma unroll
    for (int i = 0; i < Pace::kRowTiles * 4; ++i) totals[i / 4][i % 4] = sums[i / 4][i % 4];
  });
  __syncthreads();  // the partials lie where the stages were
  auto* partials = reinterpret_cast<float(*)[Pace::kRows][kTileColumns]>(ring);
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
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int column = static_cast<int>(blockIdx.x) * kTileColumns;
  int64_t totals[Pace::kRowTiles][4] = {};
  HELS_DYNAMIC_SHARED(uint16_t, ring);
  segmentProducts<type, Pace>(a, column, warp, ring, [&](const float(&sums)[Pace::kRowTiles][4]) {
#pragma unroll
    for (int i = 0; i < Pace::kRowTiles * 4; ++i) {
      totals[i / 4][i % 4] += fixedPoint(sums[i / 4][i % 4], rowOf(i / 4, i % 4), a);
    }
  });
  __syncthreads();  // the partials lie where the stages were
  auto* partials = reinterpret_cast<int64_t(*)[Pace::kRows][kTileColumns]>(ring);
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
              dim3(kWarps * kWarpThreads), Pace::kRingBytes, stream, arguments);
}

/// Columns up to which two blocks on each of the largest devices' multiprocessors are enough for all.
constexpr int kFewColumns = 2 * 132 * kTileColumns;

/// Rings for devices with less shared memory: a 3090, 4090, T4 or P100.
template <DataType type, int rowTiles>
void launchRows(const ProductArguments& arguments, bool fixedPoint, cudaStream_t stream) {
  constexpr size_t kLargeDevice = size_t{160} * 1024;
  if (sharedBytesMax() < kLargeDevice) return launchPace<type, Pace<rowTiles, 2, 1>>(arguments, fixedPoint, stream);
  if constexpr (rowTiles == 1) {
    if (arguments.columns > kFewColumns) return launchPace<type, Pace<1, 3, 3>>(arguments, fixedPoint, stream);
    launchPace<type, Pace<1, 4, 2>>(arguments, fixedPoint, stream);
  } else {
    launchPace<type, Pace<rowTiles, 3, 2>>(arguments, fixedPoint, stream);
  }
}

/// `count` rows from `first` on.
ProductArguments rowsOf(ProductArguments arguments, int first, int count) {
  arguments.x += first * arguments.xStride;
  if (arguments.y != nullptr) arguments.y += first * arguments.yStride;
  if (arguments.sums != nullptr) arguments.sums += first * arguments.sumStride;
  arguments.firstRow += first;
  arguments.rows = count;
  return arguments;
}

template <DataType type>
void launchSkinny(const ProductArguments& arguments, bool fixedPoint, cudaStream_t stream) {
  constexpr int kHalf = kSkinnyRows / 2;
  if (arguments.rows <= kHalf) return launchRows<type, 1>(arguments, fixedPoint, stream);
  if (Pace<2, 2, 1>::kRingBytes <= sharedBytesMax()) return launchRows<type, 2>(arguments, fixedPoint, stream);
  launchRows<type, 1>(rowsOf(arguments, 0, kHalf), fixedPoint, stream);  // a P100
  launchRows<type, 1>(rowsOf(arguments, kHalf, arguments.rows - kHalf), fixedPoint, stream);
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
