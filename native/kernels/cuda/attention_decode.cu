// Attention of single query tokens, bound by reading the KV: each warp takes whole chunks of one head group, whose
// query heads are the rows of its products, and streams them through a ring of its own in shared memory, so that warps
// never wait for each other. Chunks are merged in the block when one block has them all, else by mergeSlots().
#include <algorithm>

#include "kernels/cuda/attention_parts.h"

namespace hels::cuda {
namespace {

constexpr int kWarpsMax = 4;
/// About as many multiprocessors as the largest devices have: with fewer blocks than that, blocks have fewer warps.
constexpr int64_t kMultiprocessors = 132;
/// Thread blocks that keep the largest devices busy to the end; more would only add starts.
constexpr int64_t kBlocksWanted = kMultiprocessors * 24;

template <int kDim>
struct Ring {
  static constexpr int kUnits = kDim <= 128 ? 6 : 4;
  static constexpr int kUnitElements = Unit<kDim>::kValueElements;  // the larger of both
  static constexpr int kElements = kUnits * kUnitElements;
  static constexpr size_t kBytes = kElements * sizeof(uint16_t);
  // A finished chunk lies in the ring too: outputs (16, kDim), then maxima and sums of the rows, in f32.
  static_assert(kBytes >= (kRowsPerWarp * kDim + 2 * kRowsPerWarp) * sizeof(float));

  __device__ __forceinline__ static int next(int slot) { return slot + 1 == kUnits ? 0 : slot + 1; }
};

/// What a block works on.
struct DecodeItem {
  int sequence;
  int group;
  int firstHead;  // of the group
  int position;
  int begin;
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

  /// Starts the next unit's copies, or an empty group of copies at the end, so that groups count units.
  __device__ __forceinline__ void load() {
    if (!walk.done()) {
      uint16_t* target = ring + slot * Ring<kDim>::kUnitElements;
      const int position = walk.tile * kTileTokens + unit % kUnitsPerTile * kUnitTokens;
      if (unit < kUnitsPerTile) {
        copyKeys<kDim>(a, target, keys, blockTable, position, begin, end);
      } else {
        copyValues<kDim>(a, target, values, blockTable, position, begin, end);
      }
      if (++unit == 2 * kUnitsPerTile) {
        unit = 0;
        walk.next();
      }
    }
    commitCopies();
    slot = Ring<kDim>::next(slot);
  }
};

/// Leaves a finished chunk in the warp's ring.
template <DataType type, int kDim>
__device__ __forceinline__ void keepChunk(const ChunkState<type, kDim>& state, float* kept) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = lane / 4 + 8 * i;
    if (t == 0) {
      kept[kRowsPerWarp * kDim + row] = state.maximum[i];
      kept[kRowsPerWarp * kDim + kRowsPerWarp + row] = state.sum[i];
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<float2*>(kept + row * kDim + n * 8 + 2 * t) =
          make_float2(state.outputs[n][2 * i], state.outputs[n][2 * i + 1]);
    }
  }
}

/// Merges the chunks that the block's warps have kept, chunk of warp w being the w-th that is visible.
template <DataType type, int kDim>
__device__ __forceinline__ void mergeKept(const AttentionArguments& a, const DecodeItem& item, const uint16_t* rings,
                                          int chunks) {
  const int rows = min(kRowsPerWarp, a.queryHeadsPerGroup - item.firstHead);
  for (int i = static_cast<int>(threadIdx.x); i < rows * a.headDim; i += static_cast<int>(blockDim.x)) {
    const int row = i / a.headDim;
    const int column = i % a.headDim;
    float maximum = minusInfinity();
    float sum = 0.0F;
    float output = 0.0F;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const float* kept = reinterpret_cast<const float*>(rings + chunk * Ring<kDim>::kElements);
      const float* numbers = kept + kRowsPerWarp * kDim + row;
      const MergeScales scales = mergeScales(maximum, numbers[0]);
      maximum = scales.maximum;
      sum = mergeValue(scales, sum, numbers[kRowsPerWarp]);
      output = mergeValue(scales, output, kept[row * kDim + column]);
    }
    const int head = item.group * a.queryHeadsPerGroup + item.firstHead + row;
    auto* to = reinterpret_cast<uint16_t*>(a.output) + a.firstToken[item.sequence] * a.outputStride;
    to[head * a.headDim + column] = narrow(type, output * (1.0F / sum));
  }
}

template <DataType type, int kDim>
__global__ void __launch_bounds__(kWarpsMax* kWarpThreads) decodeKernel(AttentionArguments a) {
  HELS_DYNAMIC_SHARED(uint16_t, rings);
  letNextStart();
  waitForPrevious();
  constexpr int kPending = Ring<kDim>::kUnits - 2;
  const int rowTiles = (a.queryHeadsPerGroup + kRowsPerWarp - 1) / kRowsPerWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  DecodeItem item;
  item.sequence = a.firstSequence + static_cast<int>(blockIdx.z);
  if (a.tokenCount[item.sequence] != 1) return;
  item.group = static_cast<int>(blockIdx.y) / rowTiles;
  item.firstHead = static_cast<int>(blockIdx.y) % rowTiles * kRowsPerWarp;
  item.position = a.startPosition[item.sequence];
  item.begin = a.firstVisible(item.position);
  const int firstChunk = item.begin / kChunkTokens;
  const int endTile = item.position / kTileTokens + 1;
  const int stripe = static_cast<int>(blockIdx.x) * warps + warp;
  const int stride = static_cast<int>(gridDim.x) * warps;
  const TileWalk start(item.begin / kTileTokens, endTile, firstChunk + stripe, stride,
                       a.chunkHere == nullptr ? nullptr : a.chunkHere + item.sequence * a.chunkStride);
  const bool merges = a.parts.outputs == nullptr;
  if (start.done() && !merges) return;

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
#pragma unroll
  for (int i = 0; i < Ring<kDim>::kUnits - 1; ++i) loader.load();

  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  // All rows have the one token: a row's index is its head.
  const QueryRow rows[2] = {
      queryRow(a, item.sequence, item.group, item.firstHead + lane / 4, a.queryHeadsPerGroup),
      queryRow(a, item.sequence, item.group, item.firstHead + lane / 4 + 8, a.queryHeadsPerGroup)};
  const Queries<kDim, kDim <= 128> queries(a, rows[0], rows[1]);
  ChunkState<type, kDim> state;
  state.reset();
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
#pragma unroll
    for (int unit = 0; unit < kUnitsPerTile; ++unit) state.addKeys(queries, nextUnit(), unit);
    state.weigh(rows, walk.tile * kTileTokens, a.scaleLog2);
#pragma unroll
    for (int unit = 0; unit < kUnitsPerTile; ++unit) state.addValues(nextUnit(), unit);
    if (!walk.lastOfChunk()) continue;
    state.finish();
    if (merges) break;  // the only one of this warp
    state.storePart(a, rows, item.sequence, walk.tile / kTilesPerChunk);
    state.reset();
  }
  if (!merges) return;
  waitForCopies<0>();
  __syncwarp();
  if (!start.done()) keepChunk<type, kDim>(state, reinterpret_cast<float*>(ring));
  __syncthreads();
  mergeKept<type, kDim>(a, item, rings, item.position / kChunkTokens - firstChunk + 1);
}

template <int kDim>
int warpsPerBlock() {
  return static_cast<int>(std::clamp<size_t>(sharedBytesMax() / Ring<kDim>::kBytes, 1, kWarpsMax));
}

template <DataType type, int kDim>
void launchDecode(const AttentionArguments& a, int64_t sequences, int64_t slots, bool merges, cudaStream_t stream) {
  const int64_t items = a.groups * static_cast<int64_t>((a.queryHeadsPerGroup + kRowsPerWarp - 1) / kRowsPerWarp);
  int warps = merges ? static_cast<int>(slots) : warpsPerBlock<kDim>();
  while (!merges && warps > 1 && items * sequences * ((slots + warps - 1) / warps) < kMultiprocessors) warps /= 2;
  const int64_t splits = std::clamp((kBlocksWanted + items * sequences - 1) / (items * sequences), int64_t{1},
                                    (slots + warps - 1) / warps);
  const dim3 grid(static_cast<unsigned>(merges ? 1 : splits), static_cast<unsigned>(items),
                  static_cast<unsigned>(sequences));
  launchEarly(decodeKernel<type, kDim>, grid, dim3(static_cast<unsigned>(warps * kWarpThreads)),
              static_cast<size_t>(warps) * Ring<kDim>::kBytes, stream, a);
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

bool decodeMerges(int64_t headDim, int64_t slots) {
  const int warps = headDim <= 64    ? warpsPerBlock<64>()
                    : headDim <= 96  ? warpsPerBlock<96>()
                    : headDim <= 128 ? warpsPerBlock<128>()
                    : headDim <= 192 ? warpsPerBlock<192>()
                                     : warpsPerBlock<256>();
  return slots <= warps;
}

void attendDecode(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t slots, bool merges,
                  cudaStream_t stream) {
  if (type == DataType::kBf16) {
    launchType<DataType::kBf16>(arguments, sequences, slots, merges, stream);
  } else {
    launchType<DataType::kF16>(arguments, sequences, slots, merges, stream);
  }
}

}  // namespace hels::cuda
