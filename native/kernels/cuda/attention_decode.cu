// Attention of single query tokens, bound by reading the KV: each warp takes whole chunks of one head group, whose
// query heads are the rows of its products, and streams them through a ring of its own in shared memory, so that warps
// never wait for each other. Chunks are merged in the block when one block has them all, else by mergeSlots(). Where
// there is too little KV for that, attention_decode_tiles.cu takes over.
#include <algorithm>

#include "kernels/cuda/attention_decode.h"

namespace hels::cuda {
namespace {

constexpr int kWarpsMax = 4;

/// The chunk of a warp, folded from its tiles.
template <int kDim>
using Chunk = Fold<kDim, kDim <= 128>;

/// Shared memory of a warp: units on their way, and the chunk where registers are short.
template <int kDim>
struct Ring {
  static constexpr int kUnits = kDim <= 128 ? 6 : 4;
  static constexpr int kUnitElements = Unit<kDim>::kValueElements;  // the larger of both
  static constexpr size_t kUnitsBytes = kUnits * kUnitElements * sizeof(uint16_t);
  static constexpr size_t kBytes = kUnitsBytes + Chunk<kDim>::kSharedBytesPerWarp;
  static constexpr int kElements = static_cast<int>(kBytes / sizeof(uint16_t));
  static_assert(kUnitsBytes >= Kept<kDim>::kBytes);  // a finished chunk lies in the ring too
  static_assert(kUnitsBytes % 16 == 0 && kBytes % 16 == 0);

  __device__ __forceinline__ static int next(int slot) { return slot + 1 == kUnits ? 0 : slot + 1; }
};

/// Units of a warp's chunks on their way to the ring: of each tile the keys, then the values.
template <int kDim>
struct Loader {
  const AttentionArguments& a;
  const uint16_t* keys;  // of the group
  const uint16_t* values;
  const int32_t* blockTable;
  int begin;
  int end;
  uint16_t* ring;
  TileWalk walk;
  int unit = 0;  // of the tile: keys, then values
  int slot = 0;
  int64_t offset = 0;  // of the next unit: found out ahead of time, for it is a read

  __device__ __forceinline__ int position() const {
    return walk.tile * kTileTokens + unit % kUnitsPerTile * kUnitTokens;
  }
  __device__ __forceinline__ void find() {
    if (!walk.done()) offset = visibleUnitOffset(a, blockTable, position(), begin, end);
  }

  /// Waits for the kernels in front, and starts as many units as the ring has places but one. They are all of one tile,
  /// which is there already, unless it has the row's own position.
  __device__ __forceinline__ void start(int endTile) {
    find();
    const bool early = a.kvIsOlder && walk.tile + 1 < endTile;
    if (!early) waitForPrevious();
#pragma unroll
    for (int i = 0; i < Ring<kDim>::kUnits - 1; ++i) load();
    if (early) waitForPrevious();
  }

  /// Starts the next unit's copies, or an empty group of copies at the end, so that groups count units.
  __device__ __forceinline__ void load() {
    if (!walk.done()) {
      uint16_t* target = ring + slot * Ring<kDim>::kUnitElements;
      if (unit < kUnitsPerTile) {
        copyKeys<kDim>(a, target, keys + offset, position(), begin, end);
      } else {
        copyValues<kDim>(a, target, values + offset, position(), begin, end);
      }
      if (++unit == 2 * kUnitsPerTile) {
        unit = 0;
        walk.next();
      }
      find();
    }
    commitCopies();
    slot = Ring<kDim>::next(slot);
  }
};

template <DataType type, int kDim>
__global__ void __launch_bounds__(kWarpsMax* kWarpThreads) decodeKernel(AttentionArguments a) {
  HELS_DYNAMIC_SHARED(uint16_t, rings);
  letNextStart();
  constexpr int kPending = Ring<kDim>::kUnits - 2;
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const DecodeItem item(a);
  if (a.tokenCount[item.sequence] != 1) return waitForPrevious();
  const int firstChunk = item.begin / kChunkTokens;
  const int endTile = item.position / kTileTokens + 1;
  const int stripe = static_cast<int>(blockIdx.x) * warps + warp;
  const int stride = static_cast<int>(gridDim.x) * warps;
  const TileWalk start(item.begin / kTileTokens, endTile, firstChunk + stripe, stride,
                       a.chunkHere == nullptr ? nullptr : a.chunkHere + item.sequence * a.chunkStride);
  const bool merges = a.parts.outputs == nullptr;
  if (start.done() && !merges) return waitForPrevious();

  uint16_t* ring = rings + warp * Ring<kDim>::kElements;
  const int64_t groupOffset = item.group * a.groupElements;
  Loader<kDim> loader{a,
                      reinterpret_cast<const uint16_t*>(a.keys) + groupOffset,
                      reinterpret_cast<const uint16_t*>(a.values) + groupOffset,
                      a.blockTables + item.sequence * a.blockTableStride,
                      item.begin,
                      item.position + 1,
                      ring,
                      start};
  loader.start(endTile);

  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const QueryRow rows[2] = {item.row(a, lane / 4), item.row(a, lane / 4 + 8)};
  const Queries<kDim, kDim <= 128> queries(a, rows[0], rows[1]);
  Chunk<kDim> chunk(reinterpret_cast<float*>(ring + Ring<kDim>::kUnitsBytes / sizeof(uint16_t)));
  int slot = 0;
  const auto nextUnit = [&] {
    waitForCopies<kPending>();
    __syncwarp();   // all lanes' copies are there, and all lanes have left the unit before
    loader.load();  // into that one's place
    const uint16_t* unit = ring + slot * Ring<kDim>::kUnitElements;
    slot = Ring<kDim>::next(slot);
    return unit;
  };
  for (TileWalk walk = start; !walk.done(); walk.next()) {
    TileWeights<type> weights;
#pragma unroll
    for (int unit = 0; unit < kUnitsPerTile; ++unit) weights.addKeys(queries, nextUnit(), unit);
    weights.weigh(rows, walk.tile * kTileTokens, a.scaleLog2, item.heads > 8);
    TileOutputs<type, kDim> tile;
    tile.reset();
#pragma unroll
    for (int unit = 0; unit < kUnitsPerTile; ++unit) tile.addUnit(weights.weights(unit), nextUnit());
    chunk.foldAll(weights.maximum, weights.sum, [&](int n) { return tile.at(n); });
    if (!walk.lastOfChunk()) continue;
    if (merges) break;  // the only one of this warp
    storePart(a, chunk, rows, item.sequence, walk.tile / kTilesPerChunk);
    chunk.reset();
  }
  if (!merges) return;
  waitForCopies<0>();
  __syncwarp();
  if (!start.done()) {
    Kept<kDim>::store(reinterpret_cast<float*>(ring), item.heads, chunk.maximum, chunk.sum,
                      [&](int n) { return chunk.outputs(n); });
  }
  __syncthreads();
  const KeptEntries entries = {
      reinterpret_cast<const float*>(rings),        Ring<kDim>::kElements / 2, 1, firstChunk, 0,
      item.position / kChunkTokens - firstChunk + 1};
  foldKept<type, kDim>(a, item, entries, true);
}

int warpsPerBlock(int64_t headDim) {
  return static_cast<int>(std::clamp<size_t>(sharedBytesMax() / decodeBytesMin(headDim), 1, kWarpsMax));
}

template <DataType type, int kDim>
void launchDecode(const AttentionArguments& a, int64_t sequences, int64_t slots, bool merges, cudaStream_t stream) {
  const int64_t items = decodeItems(a);
  int warps = merges ? static_cast<int>(slots) : warpsPerBlock(a.headDim);
  // With fewer blocks than multiprocessors, blocks have fewer warps.
  while (!merges && warps > 1 && items * sequences * ((slots + warps - 1) / warps) < kMultiprocessors) warps /= 2;
  const int64_t splits = merges ? 1 : (slots + warps - 1) / warps;  // a chunk for each warp: all end together
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(items), static_cast<unsigned>(sequences));
  const size_t bytes = static_cast<size_t>(warps) * Ring<kDim>::kBytes;
  launchEarly(decodeKernel<type, kDim>, grid, dim3(static_cast<unsigned>(warps * kWarpThreads)), bytes, stream, a);
}

template <DataType type>
void launchType(const AttentionArguments& a, int64_t sequences, int64_t slots, bool merges, cudaStream_t stream) {
  if (a.headDim <= 64) return launchDecode<type, 64>(a, sequences, slots, merges, stream);
  if (a.headDim <= 96) return launchDecode<type, 96>(a, sequences, slots, merges, stream);
  if (a.headDim <= 128) return launchDecode<type, 128>(a, sequences, slots, merges, stream);
  if (a.headDim <= 192) return launchDecode<type, 192>(a, sequences, slots, merges, stream);
  launchDecode<type, 256>(a, sequences, slots, merges, stream);
}

}  // namespace

size_t decodeBytesMin(int64_t headDim) {
  if (headDim <= 64) return Ring<64>::kBytes;
  if (headDim <= 96) return Ring<96>::kBytes;
  if (headDim <= 128) return Ring<128>::kBytes;
  if (headDim <= 192) return Ring<192>::kBytes;
  return Ring<256>::kBytes;
}

DecodePlan planDecode(const AttentionArguments& arguments, int64_t sequences, int64_t slots, bool mayMerge) {
  const bool tiles = decodeTilesFit(arguments, sequences, slots);
  return {tiles,
          mayMerge && (tiles ? decodeTilesMerge(arguments.headDim, slots) : slots <= warpsPerBlock(arguments.headDim))};
}

void attendDecode(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t slots,
                  const DecodePlan& plan, cudaStream_t stream) {
  if (plan.tiles) {
    attendDecodeTiles(type, arguments, sequences, slots, plan.merges, stream);
  } else if (type == DataType::kBf16) {
    launchType<DataType::kBf16>(arguments, sequences, slots, plan.merges, stream);
  } else {
    launchType<DataType::kF16>(arguments, sequences, slots, plan.merges, stream);
  }
}

}  // namespace hels::cuda
