// Products of more rows than gemm_skinny.cu takes on compute capability 9.0: one thread of a block asks the copy engine
// for tiles of both operands, two warpgroups multiply them from shared memory. Blocks of a cluster share what they
// read, or the depth of one tile where there are few of those. A step of 16 inputs gives the bits of that of
// gemm_skinny.cu.
#include <algorithm>

#include "kernels/cuda/gemm_parts.h"
#ifdef HELS_WGMMA
#include "kernels/cuda/gemm_wgmma_ring.h"
#include "kernels/cuda/gemm_wgmma_totals.h"
#include "kernels/cuda/wgmma.h"
#include "kernels/cuda/wgmma_launch.h"
#endif

namespace hels::cuda {
#ifdef HELS_WGMMA
namespace {

/// Starts the products of the first `groups` times 16 inputs of a stage, once it is there, and releases the stage
/// before.
template <DataType type, int rows, int groups>
__device__ __forceinline__ void multiplyStage(float (&sums)[Tile<rows>::kResults], bool adds, int& last,
                                              Ring<rows>& ring, const Layout& layout, const Place& place) {
  constexpr int kStep = kStepBytes / 16;  // operands count 16 bytes
  const int half = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  waitForPhase(&ring.full[ring.stage], ring.parity);
  const uint64_t weights = operandAt(sharedAddress(ring.weights()) + half * (kWeightsBytes / 2));
  const uint64_t inputs = operandAt(sharedAddress(ring.inputs()));
  holdSums(sums);
  beginProducts();
#pragma unroll
  for (int group = 0; group < groups; ++group) {
    multiplyGroup<type>(sums, weights + group * kStep, inputs + group * kStep, group > 0 || adds);
  }
  commitProducts();
  if (last >= 0) {
    waitForProducts<1>();
    release(ring, last, layout, place);
  }
  last = ring.stage;
  ring.next();
}

/// Sums of one segment for 64 columns and all rows of the tile.
template <DataType type, int rows>
__device__ __forceinline__ void multiplySegment(float (&sums)[Tile<rows>::kResults], int begin, int end,
                                                Ring<rows>& ring, const Layout& layout, const Place& place) {
  int last = -1;
  int k = begin;
  for (; k + kBlockDepth < end; k += kStageDepth) {
    multiplyStage<type, rows, kStageDepth / kStepDepth>(sums, k > begin, last, ring, layout, place);
  }
  if (k < end) multiplyStage<type, rows, kBlockDepth / kStepDepth>(sums, k > begin, last, ring, layout, place);
  waitForProducts<0>();
  holdSums(sums);
  release(ring, last, layout, place);
}

/// Stores the totals of a tile whose depth several blocks have shared: each block its part of the results.
template <int rows, typename Totals>
__device__ __forceinline__ void joinSplits(const Totals& totals, const ProductArguments& a, const Layout& layout,
                                           const Place& place, int row, int column, unsigned char* shared) {
  using Value = typename Totals::Value;
  constexpr int kResults = Tile<rows>::kResults;
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  Value* values = reinterpret_cast<Value*>(shared) + thread;
  syncThreads(1, kConsumerThreads);  // all have read the last stage
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    if (part >= Totals::partsOf(layout.splits)) break;
#pragma unroll
    for (int i = 0; i < kResults; ++i) {
      values[(part * kResults + i) * kConsumerThreads] = totals.part(part, i, layout.splits);
    }
  }
  syncCluster();
  const int share = kResults / layout.splits;
  for (int i = place.split * share; i < (place.split + 1) * share; ++i) {
    const int toRow = row + i / 4 * 8 + i % 2;
    const int toColumn = column + i / 2 % 2 * 8;
    const Value total = Totals::join(layout.splits, [&](int block, int part) {
      const uint32_t from = addressIn(values + (part * kResults + i) * kConsumerThreads, block);
      if constexpr (sizeof(Value) == sizeof(float)) {
        return loadF32(from);
      } else {
        return loadI64(from);
      }
    });
    if (toRow < a.rows && toColumn < a.columns) *Totals::target(a, toRow, toColumn) = total;
  }
}

/// Stores a whole tile by way of shared memory, from where the copy engine takes it while the next tile is multiplied:
/// all blocks end their tiles at about the same time, and plain stores would wait for each other.
template <typename Totals>
__device__ __forceinline__ void storeStaged(const Totals& totals, const ProductArguments& a, int tileRow, int column,
                                            unsigned char* staging) {
  using Value = typename Totals::Value;
  constexpr int kRows = 512 / static_cast<int>(sizeof(Value));  // at a time
  constexpr int kRowBytes = 64 * static_cast<int>(sizeof(Value)) + 16;
  constexpr int kRowsInAll = 128;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  const int lane = thread % kWarpThreads;
  unsigned char* mine = staging + warpgroup * kRowsInAll * (64 * 4 + 16);
#pragma unroll
  for (int first = 0; first < kRowsInAll; first += kRows) {
    waitUntilRead();
    syncThreads(2 + warpgroup, kWarpgroup);
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      const int row = i / 4 * 8 + i % 2 + lane % 4 * 2;
      const int toColumn = thread / kWarpThreads * 16 + lane / 4 + i / 2 % 2 * 8;
      *reinterpret_cast<Value*>(mine + row * kRowBytes + toColumn * static_cast<int>(sizeof(Value))) =
          totals.total(first / 2 + i);
    }
    publishWrites();
    syncThreads(2 + warpgroup, kWarpgroup);
    if (thread < kRows) {
      copyOut(Totals::target(a, tileRow + first + thread, column + warpgroup * 64), mine + thread * kRowBytes,
              64 * static_cast<int>(sizeof(Value)));
    }
  }
}

template <DataType type, int rows, typename Totals>
__device__ __forceinline__ void consume(const ProductArguments& a, const Layout& layout, const Place& place,
                                        Ring<rows> ring) {
  constexpr int kResults = Tile<rows>::kResults;
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int firstColumn =
      warpgroup * (kTileColumns / 2) + static_cast<int>(threadIdx.x) % kWarpgroup / kWarpThreads * 16 + lane / 4;
  for (int cluster = firstCluster(layout); cluster < layout.clusters; cluster += clusterStep(layout)) {
    const int row = place.row(layout, cluster, rows) + lane % 4 * 2;
    const int column = place.column(layout, cluster) + firstColumn;
    Totals totals(layout.splits);
    const int endSegment = place.endSegment(layout, a.segments.count);
    for (int segment = place.firstSegment(layout, a.segments.count); segment < endSegment; ++segment) {
      const int begin = a.segments.begin(segment);
      const int end = a.segments.end(segment);
      if (begin >= end) {
        totals.addNothing(a);
        continue;
      }
      float sums[kResults];
      multiplySegment<type, rows>(sums, begin, end, ring, layout, place);
      totals.add(sums, row, a);
    }
    if (layout.splits > 1) return joinSplits<rows>(totals, a, layout, place, row, column, ring.stages);
    if constexpr (Tile<rows>::kStaged) {
      const int tileRow = place.row(layout, cluster, rows);
      const int tileColumn = place.column(layout, cluster);
      if (tileRow + rows <= a.rows && tileColumn + kTileColumns <= a.columns && Totals::targetsAreAligned(a)) {
        storeStaged(totals, a, tileRow, tileColumn, ring.stages + Tile<rows>::kStages * Tile<rows>::kStageBytes);
        continue;
      }
    }
#pragma unroll
    for (int i = 0; i < kResults; ++i) {
      const int toRow = row + i / 4 * 8 + i % 2;
      const int toColumn = column + i / 2 % 2 * 8;
      if (toRow < a.rows && toColumn < a.columns) *Totals::target(a, toRow, toColumn) = totals.total(i);
    }
  }
  if constexpr (Tile<rows>::kStaged) waitUntilOut();
}

template <DataType type, int rows, typename Totals>
__global__ void __launch_bounds__(kThreads, Tile<rows>::kBlocks)
    wgmmaKernel(const __grid_constant__ TensorMap weights, const __grid_constant__ TensorMap inputs,
                const __grid_constant__ ProductArguments a, const __grid_constant__ Layout layout) {
  HELS_DYNAMIC_SHARED(unsigned char, shared);
  __shared__ uint64_t full[Tile<rows>::kStages];
  __shared__ uint64_t empty[Tile<rows>::kStages];
  const uint32_t offset = sharedAddress(shared) % kSwizzleBytes;
  Ring<rows> ring{shared + (kSwizzleBytes - offset) % kSwizzleBytes, full, empty};
  if (threadIdx.x == 0) {
    const int writers = layout.clusterRows + layout.clusterColumns - 1;
    for (int i = 0; i < Tile<rows>::kStages; ++i) {
      initBarrier(&full[i], 1);
      initBarrier(&empty[i], writers * (kConsumerThreads / kWarpgroup));
    }
    publishBarriers();
  }
  __syncthreads();
  syncCluster();
  const Place place(layout);
  letNextStart();
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<Tile<rows>::kProducerRegisters>();
    if (threadIdx.x == 0) Producer<rows>{weights, inputs, a, layout, place}.run(ring);
    if (layout.splits > 1) syncCluster();  // as joinSplits() does
    syncCluster();
  } else {
    takeRegisters<Tile<rows>::kConsumerRegisters>();
    waitForPrevious();
    consume<type, rows, Totals>(a, layout, place, ring);
    syncCluster();  // no block ends while another may write to it or read from it
  }
}

struct Device {
  int index = -1;
  bool hasWgmma = false;
  int multiprocessors = 0;
};

const Device& currentDevice() {
  thread_local Device known;
  int index = 0;
  check(cudaGetDevice(&index), "current device");
  if (index == known.index) return known;
  int major = 0;
  int minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "compute capability");
  check(cudaDeviceGetAttribute(&known.multiprocessors, cudaDevAttrMultiProcessorCount, index), "multiprocessors");
  known.hasWgmma = major == 9 && minor == 0 && encodeTensorMap() != nullptr;
  known.index = index;
  return known;
}

/// Shares of the depth that keep the device busy for the least time: rounds of blocks over shares, and what starting a
/// round costs.
int splitsFor(int tiles, int segments, bool fixedPoint, int multiprocessors) {
  constexpr double kRoundCost = 0.04;  // of the time of a whole tile
  int best = 1;
  double least = 0;
  for (const int splits : {1, 2, 4, 8}) {
    if (fixedPoint && splits > segments) break;
    const int rounds = (tiles * splits + multiprocessors - 1) / multiprocessors;
    const double time = rounds * (1.0 / splits + kRoundCost);
    if (splits == 1 || time < least) {
      best = splits;
      least = time;
    }
  }
  return best;
}

Layout layoutOf(const ProductArguments& a, int rows, bool fixedPoint, int multiprocessors) {
  const int rowTiles = (a.rows + rows - 1) / rows;
  const int columnTiles = (a.columns + kTileColumns - 1) / kTileColumns;
  Layout layout;
  if (rowTiles * columnTiles < 2 * multiprocessors) {
    layout.splits = splitsFor(rowTiles * columnTiles, a.segments.count, fixedPoint, multiprocessors);
  }
  // Pairs that leave no block without work, or few of many.
  const auto pairs = [](int tiles) { return tiles % 2 == 0 || tiles > 8; };
  if (layout.splits == 1) {
    layout.clusterRows = pairs(rowTiles) ? 2 : 1;
    layout.clusterColumns = pairs(columnTiles) ? 2 : 1;
  }
  layout.rowClusters = (rowTiles + layout.clusterRows - 1) / layout.clusterRows;
  layout.clusters = layout.rowClusters * ((columnTiles + layout.clusterColumns - 1) / layout.clusterColumns);
  return layout;
}

template <DataType type, int rows, template <int> typename Totals>
void launchTile(const ProductArguments& a, bool fixedPoint, cudaStream_t stream) {
  const int multiprocessors = currentDevice().multiprocessors;
  const Layout layout = layoutOf(a, rows, fixedPoint, multiprocessors);
  const auto depth = static_cast<int64_t>(a.segments.total);
  const TensorMap weights = makeTensorMap(a.w, a.columns, depth, depth, kTileColumns / layout.clusterRows);
  const TensorMap inputs = makeTensorMap(a.x, a.rows, depth, a.xStride, rows / layout.clusterColumns);
  const int blocks = layout.clusterBlocks();
  const int clusters = layout.splits > 1 ? layout.clusters : std::min(layout.clusters, multiprocessors / blocks);
  launchCluster(wgmmaKernel<type, rows, Totals<Tile<rows>::kResults>>, dim3(static_cast<unsigned>(clusters * blocks)),
                dim3(static_cast<unsigned>(blocks)), dim3(kThreads), Tile<rows>::kSharedBytes, stream, weights, inputs,
                a, layout);
}

template <DataType type, template <int> typename Totals>
void launchType(const ProductArguments& a, bool fixedPoint, cudaStream_t stream) {
  if (a.rows <= 16) return launchTile<type, 16, Totals>(a, fixedPoint, stream);
  if (a.rows <= 32) return launchTile<type, 32, Totals>(a, fixedPoint, stream);
  if (a.rows <= 64) return launchTile<type, 64, Totals>(a, fixedPoint, stream);
  launchTile<type, 128, Totals>(a, fixedPoint, stream);
}

}  // namespace

bool wgmmaTakes(const ProductArguments& a) {
  // Stages begin with a segment; what a segment leaves of its last one is whole blocks. Rows are 16-byte aligned.
  const bool wholeBlocks = a.segments.depth % kBlockDepth == 0 || a.segments.count == 1;
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  return wholeBlocks && a.segments.count <= kPartsMax && a.segments.total % 8 == 0 && a.xStride % 8 == 0 &&
         aligned(a.w) && aligned(a.x) && currentDevice().hasWgmma;
}

void multiplyWgmma(DataType type, const ProductArguments& a, bool fixedPoint, cudaStream_t stream) {
  if (type == DataType::kBf16) {
    if (fixedPoint) return launchType<DataType::kBf16, GranuleTotals>(a, true, stream);
    return launchType<DataType::kBf16, SliceTotals>(a, false, stream);
  }
  if (fixedPoint) return launchType<DataType::kF16, GranuleTotals>(a, true, stream);
  launchType<DataType::kF16, SliceTotals>(a, false, stream);
}

#else

bool wgmmaTakes(const ProductArguments&) { return false; }
void multiplyWgmma(DataType, const ProductArguments&, bool, cudaStream_t) {
  throw Error(ErrorCode::kInternal, "this build has no warpgroup products");
}

#endif
}  // namespace hels::cuda
