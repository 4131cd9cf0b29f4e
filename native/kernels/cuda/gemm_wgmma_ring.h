// How tiles of both operands reach shared memory in gemm_wgmma.cu: the places of blocks and clusters, the ring of
// stages, and the thread that asks the copy engine to fill it.
#pragma once

#include "kernels/cuda/gemm_parts.h"
#include "kernels/cuda/wgmma.h"

namespace hels::cuda {

inline constexpr int kWarpgroup = 128;
inline constexpr int kConsumerThreads = 2 * kWarpgroup;  // those that multiply and hold results
inline constexpr int kThreads = kWarpgroup + kConsumerThreads;
inline constexpr int kTileColumns = 128;  // 64 for each warpgroup
inline constexpr int kStageRowBytes = kStageDepth * 2;
inline constexpr int kStepBytes = kStepDepth * 2;
inline constexpr int kWeightsBytes = kTileColumns * kStageRowBytes;
inline constexpr int kSwizzleBytes = 1024;  // to which tiles are aligned

/// How the blocks of a cluster belong together: rows x columns of tiles, or `splits` shares of one tile's depth.
struct Layout {
  int clusterRows = 1;
  int clusterColumns = 1;
  int splits = 1;
  int rowClusters = 1;  // clusters across the rows of the product
  int clusters = 1;     // in all
  __host__ __device__ int clusterBlocks() const { return clusterRows * clusterColumns * splits; }
};

template <int rows>
struct Tile {
  static constexpr int kStageBytes = kWeightsBytes + rows * kStageRowBytes;
  /// Few rows leave room for a second block on a multiprocessor, whose start and end hide in the other's work.
  static constexpr int kBlocks = rows <= 32 ? 2 : 1;
  /// Tiles of many rows leave by way of shared memory: 64 columns of f32 or int64 for each warpgroup, so many bytes a
  /// row.
  static constexpr bool kStaged = rows == 128;
  static constexpr int kStagingBytes = kStaged ? 2 * 128 * (64 * 4 + 16) : 0;
  static constexpr int kStages = ((kStaged ? 128 : 192) * 1024) / kBlocks / kStageBytes;
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = kBlocks == 2 ? 96 : 232;
  static constexpr int kResults = kTileColumns * rows / kConsumerThreads;  // of a thread
  static constexpr size_t kSharedBytes = static_cast<size_t>(kStages) * kStageBytes + kStagingBytes + kSwizzleBytes;
};

/// The stages in shared memory, and for each a barrier that its bytes pass and one that its readers pass.
template <int rows>
struct Ring {
  unsigned char* stages;
  uint64_t* full;
  uint64_t* empty;
  int stage = 0;
  int parity = 0;

  __device__ __forceinline__ unsigned char* weights() const { return stages + stage * Tile<rows>::kStageBytes; }
  __device__ __forceinline__ unsigned char* inputs() const { return weights() + kWeightsBytes; }
  __device__ __forceinline__ void next() {
    if (++stage < Tile<rows>::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

/// Where a block stands: in its cluster, and by that in the product.
struct Place {
  int inRows;
  int inColumns;
  int split;

  __device__ __forceinline__ explicit Place(const Layout& layout) {
    const int rank = rankInCluster();
    split = layout.splits > 1 ? rank : 0;
    inRows = layout.splits > 1 ? 0 : rank % layout.clusterRows;
    inColumns = layout.splits > 1 ? 0 : rank / layout.clusterRows;
  }
  __device__ __forceinline__ int row(const Layout& layout, int cluster, int rows) const {
    return (cluster % layout.rowClusters * layout.clusterRows + inRows) * rows;
  }
  __device__ __forceinline__ int column(const Layout& layout, int cluster) const {
    return (cluster / layout.rowClusters * layout.clusterColumns + inColumns) * kTileColumns;
  }
  __device__ __forceinline__ int firstSegment(const Layout& layout, int count) const {
    return split * count / layout.splits;
  }
  __device__ __forceinline__ int endSegment(const Layout& layout, int count) const {
    return (split + 1) * count / layout.splits;
  }
};

/// The cluster tiles of this cluster: the first, and how far the next is.
__device__ __forceinline__ int firstCluster(const Layout& layout) {
  return static_cast<int>(blockIdx.x) / layout.clusterBlocks();
}
__device__ __forceinline__ int clusterStep(const Layout& layout) {
  return static_cast<int>(gridDim.x) / layout.clusterBlocks();
}

/// Asks for the stages of the block's tiles. Blocks of the same columns share their weights: each asks for its part of
/// the tile, for all of them; blocks of the same rows likewise their inputs.
template <int rows>
struct Producer {
  const TensorMap& weights;
  const TensorMap& inputs;
  const ProductArguments& a;
  const Layout& layout;
  const Place& place;

  /// visit(k, row, column) for each stage, until it says false.
  template <typename Visit>
  __device__ __forceinline__ void forEachStage(const Visit& visit) const {
    const int firstSegment = place.firstSegment(layout, a.segments.count);
    const int endSegment = place.endSegment(layout, a.segments.count);
    for (int cluster = firstCluster(layout); cluster < layout.clusters; cluster += clusterStep(layout)) {
      const int row = place.row(layout, cluster, rows);
      const int column = place.column(layout, cluster);
      for (int segment = firstSegment; segment < endSegment; ++segment) {
        for (int k = a.segments.begin(segment); k < a.segments.end(segment); k += kStageDepth) {
          if (!visit(k, row, column)) return;
        }
      }
    }
  }
  __device__ __forceinline__ void askForWeights(const Ring<rows>& ring, int k, int column) const {
    uint64_t* full = &ring.full[ring.stage];
    arriveExpecting(full, Tile<rows>::kStageBytes);
    if (layout.clusterRows == 1) return copyBox(ring.weights(), &weights, k, column, full);
    const int part = kTileColumns / layout.clusterRows;
    const uint32_t sameColumns = ((1U << layout.clusterRows) - 1) << (place.inColumns * layout.clusterRows);
    copyBox(ring.weights() + place.inRows * part * kStageRowBytes, &weights, k, column + place.inRows * part, full,
            sameColumns);
  }
  __device__ __forceinline__ void askForInputs(const Ring<rows>& ring, int k, int row) const {
    uint64_t* full = &ring.full[ring.stage];
    if (layout.clusterColumns == 1) return copyBox(ring.inputs(), &inputs, k, row, full);
    const int part = rows / layout.clusterColumns;
    const uint32_t all = (1U << (layout.clusterRows * layout.clusterColumns)) - 1;
    const uint32_t sameRows = all / ((1U << layout.clusterRows) - 1) << place.inRows;
    copyBox(ring.inputs() + place.inColumns * part * kStageRowBytes, &inputs, k, row + place.inColumns * part, full,
            sameRows);
  }
  /// No kernel writes weights: those of the first stages need not wait for the kernel in front.
  __device__ __forceinline__ void run(Ring<rows> ring) const {
    int ahead = 0;
    Ring<rows> first = ring;
    forEachStage([&](int k, int, int column) {
      askForWeights(first, k, column);
      first.next();
      return ++ahead < Tile<rows>::kStages;
    });
    waitForPrevious();
    forEachStage([&](int k, int row, int column) {
      if (--ahead < 0) {
        waitForPhase(&ring.empty[ring.stage], ring.parity ^ 1);
        askForWeights(ring, k, column);
      }
      askForInputs(ring, k, row);
      ring.next();
      return true;
    });
  }
};

/// Tells all blocks that write into the stage that this warpgroup has read it.
template <int rows>
__device__ __forceinline__ void release(const Ring<rows>& ring, int stage, const Layout& layout, const Place& place) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  uint64_t* empty = &ring.empty[stage];
  if (layout.clusterRows * layout.clusterColumns == 1) {
    if (thread == 0) arrive(empty);
  } else if (thread < layout.clusterRows) {
    arriveAt(empty, place.inColumns * layout.clusterRows + thread);
  } else if (thread < layout.clusterRows + layout.clusterColumns && thread - layout.clusterRows != place.inColumns) {
    arriveAt(empty, (thread - layout.clusterRows) * layout.clusterRows + place.inRows);
  }
}

}  // namespace hels::cuda
