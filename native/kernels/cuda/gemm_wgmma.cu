// Products of more rows than gemm_skinny.cu takes on compute capability 9.0: one thread of a block asks the copy engine
// for tiles of both operands, two warpgroups multiply them from shared memory. Where tiles are few, the
// blocks of a cluster share the depth of one. A step of 16 inputs gives the bits of that of gemm_skinny.cu.
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
                                              Ring<rows>& ring) {
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
    release(ring, last);
  }
  last = ring.stage;
  ring.next();
}

/// Sums of one segment for 64 columns and all rows of the tile.
template <DataType type, int rows>
__device__ __forceinline__ void multiplySegment(float (&sums)[Tile<rows>::kResults], int begin, int end,
                                                Ring<rows>& ring) {
  int last = -1;
  int k = begin;
  for (; k + kBlockDepth < end; k += kStageDepth) {
    multiplyStage<type, rows, kStageDepth / kStepDepth>(sums, k > begin, last, ring);
  }
  if (k < end) multiplyStage<type, rows, kBlockDepth / kStepDepth>(sums, k > begin, last, ring);
  waitForProducts<0>();
  holdSums(sums);
  release(ring, last);
}

/// Stores the totals of a tile whose depth the blocks of a cluster have shared: each block its part of the results.
template <int rows, typename Totals>
__device__ __forceinline__ void joinSplits(const Totals& totals, const typename Totals::Spare& spare,
                                           const ProductArguments& a, int splits, int row, int column,
                                           unsigned char* shared) {
  using Value = typename Totals::Value;
  constexpr int kResults = Tile<rows>::kResults;
  Value* values = reinterpret_cast<Value*>(shared) + (threadIdx.x - kWarpgroup);
  const int parts = Totals::partsOf(splits);
  const int half = splits * parts / 2;
  syncThreads(1, kConsumerThreads);  // all have read the last stage
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    if (part >= parts) break;
#pragma unroll
    for (int i = 0; i < kResults; ++i) {
      values[(part * kResults + i) * kConsumerThreads] = totals.part(part, i, spare);
    }
  }
  syncCluster();
  const int share = kResults / splits;
  const int rank = rankInCluster();
#pragma unroll 2
  for (int i = rank * share; i < (rank + 1) * share; ++i) {
    // All at once, since they are far: up to four of each half, in order.
    Value found[2][kHalfSlices];
#pragma unroll
    for (int at = 0; at < 2 * kHalfSlices; ++at) {
      const int which = at / kHalfSlices * half + at % kHalfSlices;
      found[at / kHalfSlices][at % kHalfSlices] = 0;
      if (at % kHalfSlices >= half) continue;
      loadFrom(found[at / kHalfSlices][at % kHalfSlices],
               addressIn(values + (which % parts * kResults + i) * kConsumerThreads, which / parts));
    }
    Value halves[2] = {0, 0};
#pragma unroll
    for (int at = 0; at < 2 * kHalfSlices; ++at) {
      halves[at / kHalfSlices] += found[at / kHalfSlices][at % kHalfSlices];
    }
    const int toRow = row + i / 4 * 8 + i % 2;
    const int toColumn = column + i / 2 % 2 * 8;
    if (toRow < a.rows && toColumn < a.columns) *Totals::target(a, toRow, toColumn) = halves[0] + halves[1];
  }
}

template <DataType type, int rows, typename Totals>
__device__ __forceinline__ void consume(const ProductArguments& a, const Layout& layout, const Share<rows>& share,
                                        Ring<rows> ring) {
  constexpr int kResults = Tile<rows>::kResults;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  const int firstColumn = thread / kWarpThreads * 16 + lane / 4;  // of a warp 16, of a warpgroup 64
  for (int tile = share.firstTile; tile < layout.tiles; tile += share.tileStep) {
    const int row = share.row(layout, tile) + lane % 4 * 2;
    const int column = share.column(layout, tile) + firstColumn;
    Totals totals(layout.splits);
    typename Totals::Spare spare;
    for (int segment = share.firstSegment; segment < share.endSegment; ++segment) {
      const int begin = a.segments.begin(segment);
      const int end = a.segments.end(segment);
      if (begin >= end) {
        totals.addNothing();
        continue;
      }
      float sums[kResults];
      multiplySegment<type, rows>(sums, begin, end, ring);
      totals.add(sums, spare, row, a);
    }
    if (layout.splits > 1) return joinSplits<rows>(totals, spare, a, layout.splits, row, column, ring.stages);
#pragma unroll
    for (int i = 0; i < kResults; ++i) {
      const int toRow = row + i / 4 * 8 + i % 2;
      const int toColumn = column + i / 2 % 2 * 8;
      if (toRow < a.rows && toColumn < a.columns) *Totals::target(a, toRow, toColumn) = totals.total(i, spare);
    }
  }
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
    for (int i = 0; i < Tile<rows>::kStages; ++i) {
      initBarrier(&full[i], 1);
      initBarrier(&empty[i], kConsumerThreads / kWarpgroup);
    }
    publishBarriers();
  }
  __syncthreads();
  const bool splits = layout.splits > 1;
  const Share<rows> share(layout, a.segments.count, splits ? rankInCluster() : 0);
  letNextStart();
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<Tile<rows>::kProducerRegisters>();
    if (threadIdx.x == 0) Producer<rows>{weights, inputs, a, layout, share}.run(ring);
    if (splits) syncCluster();  // as joinSplits() does
    if (splits) syncCluster();
  } else {
    takeRegisters<Tile<rows>::kConsumerRegisters>();
    waitForPrevious();
    consume<type, rows, Totals>(a, layout, share, ring);
    if (splits) syncCluster();  // no block ends while another may read from it
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

/// Shares of the depth of a tile: more while every block still finds room at once. More than four, or two of large
/// tiles, take longer to join than they save.
int splitsFor(int tiles, int rows, int segments, int room) {
  int splits = 1;
  const int most = rows == 128 ? 2 : 4;
  while (splits < most && tiles * splits * 2 <= room && splits * 2 <= segments) splits *= 2;
  return splits;
}

template <DataType type, int rows, template <int> typename Totals>
void launchTile(const ProductArguments& a, cudaStream_t stream) {
  const int room = currentDevice().multiprocessors * Tile<rows>::kBlocks;
  Layout layout;
  layout.rowTiles = (a.rows + rows - 1) / rows;
  layout.tiles = layout.rowTiles * ((a.columns + kTileColumns - 1) / kTileColumns);
  layout.splits = splitsFor(layout.tiles, rows, a.segments.count, room);
  const auto depth = static_cast<int64_t>(a.segments.total);
  const TensorMap weights = makeTensorMap(a.w, a.columns, depth, depth, kTileColumns);
  const TensorMap inputs = makeTensorMap(a.x, a.rows, depth, a.xStride, rows);
  const int blocks = std::min(layout.tiles * layout.splits, room);
  launchCluster(wgmmaKernel<type, rows, Totals<Tile<rows>::kResults>>, dim3(static_cast<unsigned>(blocks)),
                dim3(static_cast<unsigned>(layout.splits)), dim3(kThreads), Tile<rows>::kSharedBytes, stream, weights,
                inputs, a, layout);
}

template <DataType type, template <int> typename Totals>
void launchType(const ProductArguments& a, cudaStream_t stream) {
  if (a.rows <= 32) return launchTile<type, 32, Totals>(a, stream);
  if (a.rows <= 64) return launchTile<type, 64, Totals>(a, stream);
  launchTile<type, 128, Totals>(a, stream);
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
    if (fixedPoint) return launchType<DataType::kBf16, GranuleTotals>(a, stream);
    return launchType<DataType::kBf16, SliceTotals>(a, stream);
  }
  if (fixedPoint) return launchType<DataType::kF16, GranuleTotals>(a, stream);
  launchType<DataType::kF16, SliceTotals>(a, stream);
}

#else

bool wgmmaTakes(const ProductArguments&) { return false; }
void multiplyWgmma(DataType, const ProductArguments&, bool, cudaStream_t) {
  throw Error(ErrorCode::kInternal, "this build has no warpgroup products");
}

#endif
}  // namespace hels::cuda
