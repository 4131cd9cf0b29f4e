// Attention of single query tokens where there is little KV to read, so that time goes into waiting and not into
// bandwidth: every warp takes one tile of 64 positions and asks for all of it at once. Tiles are folded into chunks
// inside of the block. Chunks are merged there too when it has them all, else by mergeSlots().
#include <algorithm>

#include "kernels/cuda/attention_decode.h"

namespace hels::cuda {
namespace {

/// A multiprocessor reads only so fast: more warps than that are better spread over others.
constexpr int kWarpsMax = 8;
constexpr int kUnits = 2 * kUnitsPerTile;  // of a tile: keys, then values
/// Units that lie in shared memory at once: the whole tile, or half of it, values taking the keys' places.
constexpr int kDepthMax = kUnits;
constexpr int kDepthMin = kUnitsPerTile;
/// Blocks of a chunk each that a multiprocessor is given at most: with more, warps that take whole chunks are as fast.
constexpr size_t kBlocksPerMultiprocessor = 3;

/// Shared memory of a block.
size_t bytesOf(int64_t headDim, int64_t warps, int depth) {
  int64_t dim = kAttentionHeadDimMax;
  for (const int64_t padded : {192, 128, 96, 64}) {
    if (headDim <= padded) dim = padded;
  }
  return static_cast<size_t>(warps * depth * kUnitTokens * (dim + 8)) * sizeof(uint16_t);
}

/// Copies of a warp's tile.
template <int kDim>
struct TileCopies {
  static constexpr int kUnitElements = Unit<kDim>::kValueElements;  // the larger of both
  static_assert(kDepthMin * kUnitElements * sizeof(uint16_t) >= Kept<kDim>::kBytes);

  const AttentionArguments& a;
  const DecodeItem& item;
  uint16_t* shared;  // of the warp
  int position;      // of the tile
  int depth;
  int64_t offset;  // lane u % 4: of unit u, in keys and values alike

  __device__ __forceinline__ TileCopies(const AttentionArguments& a, const DecodeItem& item, uint16_t* shared, int tile,
                                        int depth)
      : a(a), item(item), shared(shared), position(tile * kTileTokens), depth(depth) {
    const int unit = laneNow() % kUnitsPerTile;
    offset =
        item.group * a.groupElements + visibleUnitOffset(a, a.blockTables + item.sequence * a.blockTableStride,
                                                         position + unit * kUnitTokens, item.begin, item.position + 1);
  }
  __device__ __forceinline__ uint16_t* place(int unit) const { return shared + unit % depth * kUnitElements; }

  /// Starts the copies of a unit when `now`; a group of copies, empty or not, is begun in any case.
  __device__ __forceinline__ void start(int unit, bool now) const {
    const int64_t from = __shfl_sync(kAllLanes, offset, unit % kUnitsPerTile);
    const int at = position + unit % kUnitsPerTile * kUnitTokens;
    if (now && unit < kUnitsPerTile) {
      copyKeys<kDim>(a, place(unit), reinterpret_cast<const uint16_t*>(a.keys) + from, at, item.begin,
                     item.position + 1);
    } else if (now) {
      copyValues<kDim>(a, place(unit), reinterpret_cast<const uint16_t*>(a.values) + from, at, item.begin,
                       item.position + 1);
    }
    commitCopies();
  }
};

/// A warp attends to a tile and leaves the result in its shared memory.
template <DataType type, int kDim>
__device__ __forceinline__ void attendTile(const AttentionArguments& a, const DecodeItem& item, uint16_t* shared,
                                           int tile, int depth) {
  const TileCopies<kDim> copies(a, item, shared, tile, depth);
  // The tile is there already, unless it has the row's own position.
  const bool early = a.kvIsOlder && (tile + 1) * kTileTokens <= item.position;
  if (!early) waitForPrevious();
#pragma unroll
  for (int unit = 0; unit < kUnits; ++unit) copies.start(unit, unit < depth);
  if (early) waitForPrevious();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  QueryRow rows[2] = {item.row(a, lane / 4), item.row(a, lane / 4 + 8)};
  const Queries<kDim, kDim <= 128> queries(a, rows[0], rows[1]);
  // Rows that do not exist repeat the last one, which spares them the masks; nobody reads them.
  rows[0].position = rows[1].position = item.position;
  TileWeights<type> weights;
#pragma unroll
  for (int unit = 0; unit < kUnitsPerTile; ++unit) {
    waitForCopies<kUnits - 1>();  // one more group each time: all up to this unit's have ended
    __syncwarp();
    weights.addKeys(queries, copies.place(unit), unit);
    __syncwarp();  // all lanes have left the place
    copies.start(unit + kUnitsPerTile, depth == kDepthMin);
  }
  weights.weigh(rows, tile * kTileTokens, a.scaleLog2, item.heads > 8);
  TileOutputs<type, kDim> outputs;
  outputs.reset();
#pragma unroll
  for (int unit = 0; unit < kUnitsPerTile; ++unit) {
    // Values are among the first groups, or at half depth in the last four.
    waitForCopies<kUnitsPerTile - 1>();
    __syncwarp();
    outputs.addUnit(weights.weights(unit), copies.place(unit + kUnitsPerTile));
    commitCopies();
  }
  waitForCopies<0>();
  __syncwarp();
  Kept<kDim>::store(reinterpret_cast<float*>(shared), item.heads, weights.maximum, weights.sum,
                    [&](int n) { return outputs.at(n); });
}

/// A block has the tiles of `warps` / 4 chunks: one, or with `merges` all.
template <DataType type, int kDim>
__global__ void __launch_bounds__(kWarpsMax* kWarpThreads, 1) decodeTilesKernel(AttentionArguments a, int depth) {
  HELS_DYNAMIC_SHARED(uint16_t, shared);
  letNextStart();
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const DecodeItem item(a);
  if (a.tokenCount[item.sequence] != 1) return waitForPrevious();
  const int chunk = item.begin / kChunkTokens + static_cast<int>(blockIdx.x) * (warps / kTilesPerChunk);
  const int firstTile = chunk * kTilesPerChunk;
  const int begin = max(item.begin / kTileTokens - firstTile, 0);
  const int end = min(item.position / kTileTokens + 1 - firstTile, warps);
  if (begin >= end) return waitForPrevious();
  if (a.chunkHere != nullptr && a.chunkHere[item.sequence * a.chunkStride + chunk] == 0) return waitForPrevious();
  const int elements = depth * TileCopies<kDim>::kUnitElements;
  if (warp >= begin && warp < end) {
    attendTile<type, kDim>(a, item, shared + warp * elements, firstTile + warp, depth);
  } else {
    waitForPrevious();
  }
  __syncthreads();
  const KeptEntries entries = {reinterpret_cast<const float*>(shared), elements / 2, kTilesPerChunk, chunk, begin, end};
  foldKept<type, kDim>(a, item, entries, a.parts.outputs == nullptr);
}

template <DataType type, int kDim>
void launchTiles(const AttentionArguments& a, int64_t sequences, int64_t slots, bool merges, cudaStream_t stream) {
  const int64_t warps = (merges ? slots : 1) * kTilesPerChunk;
  const int64_t blocks = decodeItems(a) * sequences * (merges ? 1 : slots);
  // The whole tile when all blocks can be at work so too.
  const auto resident = static_cast<int64_t>(sharedBytesMax() / bytesOf(a.headDim, warps, kDepthMax));
  const int depth = blocks <= resident * kMultiprocessors ? kDepthMax : kDepthMin;
  const dim3 grid(static_cast<unsigned>(merges ? 1 : slots), static_cast<unsigned>(decodeItems(a)),
                  static_cast<unsigned>(sequences));
  launchEarly(decodeTilesKernel<type, kDim>, grid, dim3(static_cast<unsigned>(warps * kWarpThreads)),
              bytesOf(a.headDim, warps, depth), stream, a, depth);
}

template <DataType type>
void launchType(const AttentionArguments& a, int64_t sequences, int64_t slots, bool merges, cudaStream_t stream) {
  if (a.headDim <= 64) return launchTiles<type, 64>(a, sequences, slots, merges, stream);
  if (a.headDim <= 96) return launchTiles<type, 96>(a, sequences, slots, merges, stream);
  if (a.headDim <= 128) return launchTiles<type, 128>(a, sequences, slots, merges, stream);
  if (a.headDim <= 192) return launchTiles<type, 192>(a, sequences, slots, merges, stream);
  launchTiles<type, 256>(a, sequences, slots, merges, stream);
}

}  // namespace

bool decodeTilesFit(const AttentionArguments& arguments, int64_t sequences, int64_t slots) {
  const size_t resident = sharedBytesMax() / bytesOf(arguments.headDim, kTilesPerChunk, kDepthMin);
  return decodeItems(arguments) * sequences * slots <=
         static_cast<int64_t>(std::min(resident, kBlocksPerMultiprocessor)) * kMultiprocessors;
}

bool decodeTilesMerge(int64_t headDim, int64_t slots) {
  return slots * kTilesPerChunk <= kWarpsMax && bytesOf(headDim, slots * kTilesPerChunk, kDepthMin) <= sharedBytesMax();
}

void attendDecodeTiles(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t slots,
                       bool merges, cudaStream_t stream) {
  if (type == DataType::kBf16) {
    launchType<DataType::kBf16>(arguments, sequences, slots, merges, stream);
  } else {
    launchType<DataType::kF16>(arguments, sequences, slots, merges, stream);
  }
}

}  // namespace hels::cuda
