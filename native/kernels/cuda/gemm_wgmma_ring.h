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

/// The tiles of a product, and how many blocks (a cluster) share the depth of one.
struct Layout {
  int rowTiles = 1;
  int tiles = 1;
  int splits = 1;
};

template <int rows>
struct Tile {
  static constexpr int kStageBytes = kWeightsBytes + rows * kStageRowBytes;
  /// Few rows leave room for a second block on a multiprocessor, whose start and end hide in the other's work.
  static constexpr int kBlocks = rows <= 32 ? 2 : 1;
  static constexpr int kStages = 192 * 1024 / kBlocks / kStageBytes;
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = kBlocks == 2 ? 96 : 232;
  static constexpr int kResults = kTileColumns * rows / kConsumerThreads;  // of a thread
  static constexpr size_t kSharedBytes = static_cast<size_t>(kStages) * kStageBytes + kSwizzleBytes;
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

/// A block's share: tiles, and of those the segments of its split.
template <int rows>
struct Share {
  int firstSegment;
  int endSegment;
  int firstTile;
  int tileStep;

  __device__ __forceinline__ Share(const Layout& layout, int segments, int split)
      : firstSegment(split * segments / layout.splits),
        endSegment((split + 1) * segments / layout.splits),
        firstTile(static_cast<int>(blockIdx.x) / layout.splits),
        tileStep(static_cast<int>(gridDim.x) / layout.splits) {}
  // Blocks that run at once share few columns: the weights are read from memory once, the rows from the cache.
  static __device__ __forceinline__ int row(const Layout& layout, int tile) { return tile % layout.rowTiles * rows; }
  static __device__ __forceinline__ int column(const Layout& layout, int tile) {
    return tile / layout.rowTiles * kTileColumns;
  }
};

/// Asks for the stages of the block's tiles.
template <int rows>
struct Producer {
  const TensorMap& weights;
  const TensorMap& inputs;
  const ProductArguments& a;
  const Layout& layout;
  const Share<rows>& share;

  /// visit(k, row, column) for each stage, until it says false.
  template <typename Visit>
  __device__ __forceinline__ void forEachStage(const Visit& visit) const {
    for (int tile = share.firstTile; tile < layout.tiles; tile += share.tileStep) {
      const int row = share.row(layout, tile);
      const int column = share.column(layout, tile);
      for (int segment = share.firstSegment; segment < share.endSegment; ++segment) {
        for (int k = a.segments.begin(segment); k < a.segments.end(segment); k += kStageDepth) {
          if (!visit(k, row, column)) return;
        }
      }
    }
  }
  __device__ __forceinline__ void askForWeights(const Ring<rows>& ring, int k, int column) const {
    arriveExpecting(&ring.full[ring.stage], Tile<rows>::kStageBytes);
    copyBox(ring.weights(), &weights, k, column, &ring.full[ring.stage]);
  }
  __device__ __forceinline__ void askForInputs(const Ring<rows>& ring, int k, int row) const {
    copyBox(ring.inputs(), &inputs, k, row, &ring.full[ring.stage]);
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

/// Says that this warpgroup has read the stage.
template <int rows>
__device__ __forceinline__ void release(const Ring<rows>& ring, int stage) {
  if (threadIdx.x % kWarpgroup == 0) arrive(&ring.empty[stage]);
}

}  // namespace hels::cuda
