// Attention of many query tokens, bound by tensor cores: a block owns 16 query rows for each of its warps, (token, head
// of the group) pairs of one sequence, and all of them share the tiles of KV that pass through shared memory. The
// arithmetic is that of attention_decode.cu.
#include <algorithm>

#include "kernels/cuda/attention_tile.h"

namespace hels::cuda {
namespace {

constexpr int kWarpsMax = 8;

template <int kDim>
struct Stage {
  static constexpr int kKeyElements = kUnitsPerTile * Unit<kDim>::kKeyElements;
  static constexpr int kElements = kKeyElements + kUnitsPerTile * Unit<kDim>::kValueElements;
  static constexpr size_t kBytes = kElements * sizeof(uint16_t);
};

/// The chunks before the current one; outputs in registers up to 128 dimensions, above in shared memory.
template <int kDim>
using Totals = Fold<kDim, kDim <= 128>;

/// Writes the rows' outputs.
template <DataType type, int kDim>
__device__ __forceinline__ void write(const AttentionArguments& a, const Totals<kDim>& totals,
                                      const QueryRow (&rows)[2]) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  const float inverse[2] = {1.0F / totals.sum[0], 1.0F / totals.sum[1]};
  uint16_t* to[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    to[i] = reinterpret_cast<uint16_t*>(a.output) + rows[i].token * a.outputStride + rows[i].head * a.headDim + 2 * t;
  }
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
    if (n * 8 >= a.headDim) continue;
    const float4 total = totals.outputs(n);
    if (rows[0].exists()) {
      *reinterpret_cast<uint32_t*>(to[0] + n * 8) = narrowPair(type, total.x * inverse[0], total.y * inverse[0]);
    }
    if (rows[1].exists()) {
      *reinterpret_cast<uint32_t*>(to[1] + n * 8) = narrowPair(type, total.z * inverse[1], total.w * inverse[1]);
    }
  }
}

/// The query rows of a block.
struct PrefillItem {
  int sequence;
  int group;
  int firstRow;
  int rows;   // of the sequence
  int begin;  // the block's rows see positions in [begin, end)
  int end;
};

/// Starts the copies of a tile: the warps share its units.
template <int kDim>
__device__ __forceinline__ void loadTile(const AttentionArguments& a, const PrefillItem& item, uint16_t* stage,
                                         int tile) {
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  const int32_t* blockTable = a.blockTables + item.sequence * a.blockTableStride;
  const int64_t groupOffset = item.group * a.groupElements;
  for (int i = static_cast<int>(threadIdx.x) / kWarpThreads; i < 2 * kUnitsPerTile; i += warps) {
    const int unit = i % kUnitsPerTile;
    const int position = tile * kTileTokens + unit * kUnitTokens;
    const int64_t offset = groupOffset + visibleUnitOffset(a, blockTable, position, item.begin, item.end);
    if (i < kUnitsPerTile) {
      copyKeys<kDim>(a, stage + unit * Unit<kDim>::kKeyElements, reinterpret_cast<const uint16_t*>(a.keys) + offset,
                     position, item.begin, item.end);
    } else {
      copyValues<kDim>(a, stage + Stage<kDim>::kKeyElements + unit * Unit<kDim>::kValueElements,
                       reinterpret_cast<const uint16_t*>(a.values) + offset, position, item.begin, item.end);
    }
  }
  commitCopies();
}

/// Folds a tile into the chunk, sixteen columns at a time: the whole tile lies there.
template <DataType type, int kDim>
__device__ __forceinline__ void attendTile(const AttentionArguments& a, Fold<kDim, true>& chunk,
                                           const Queries<kDim, false>& queries, const QueryRow (&rows)[2],
                                           const uint16_t* stage, int tile) {
  TileWeights<type> part;
  part.addTileKeys(queries, stage);
  part.weigh(rows, tile * kTileTokens, a.scaleLog2, true);
  const typename Fold<kDim, true>::Scales scales = chunk.fold(part.maximum, part.sum);
  uint4 weights[kUnitsPerTile];
#pragma unroll
  for (int unit = 0; unit < kUnitsPerTile; ++unit) weights[unit] = part.weights(unit);
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    float low[4] = {};
    float high[4] = {};
#pragma unroll
    for (int unit = 0; unit < kUnitsPerTile; ++unit) {
      const uint16_t* values = stage + Stage<kDim>::kKeyElements + unit * Unit<kDim>::kValueElements;
      addValueColumns<type, kDim>(low, high, weights[unit], values, i);
    }
    chunk.foldOutputs(scales, 2 * i, make_float4(low[0], low[1], low[2], low[3]));
    chunk.foldOutputs(scales, 2 * i + 1, make_float4(high[0], high[1], high[2], high[3]));
  }
}

/// With two stages the next tile is loaded beside the products, with one after them.
template <DataType type, int kDim>
__global__ void __launch_bounds__(kWarpsMax* kWarpThreads, 1) prefillKernel(AttentionArguments a, int stages) {
  HELS_DYNAMIC_SHARED(uint16_t, shared);
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  PrefillItem item;
  item.sequence = a.firstSequence + static_cast<int>(blockIdx.z);
  const int tokens = a.tokenCount[item.sequence];
  if (tokens < a.prefillTokensMin) return;
  item.group = static_cast<int>(blockIdx.y);
  item.rows = tokens * a.queryHeadsPerGroup;
  const int blockRows = static_cast<int>(blockDim.x) / kWarpThreads * kRowsPerWarp;
  item.firstRow = static_cast<int>(gridDim.x - 1 - blockIdx.x) * blockRows;  // those that see most come first
  if (item.firstRow >= item.rows) return;
  const int start = a.startPosition[item.sequence];
  item.begin = a.firstVisible(start + item.firstRow / a.queryHeadsPerGroup);
  item.end = start + (min(item.firstRow + blockRows, item.rows) - 1) / a.queryHeadsPerGroup + 1;
  TileWalk loading(item.begin / kTileTokens, (item.end - 1) / kTileTokens + 1, 0, 1,
                   a.chunkHere == nullptr ? nullptr : a.chunkHere + item.sequence * a.chunkStride);
  TileWalk walk = loading;
  const auto load = [&](int stage) {
    if (loading.done()) return;
    loadTile<kDim>(a, item, shared + stage * Stage<kDim>::kElements, loading.tile);
    loading.next();
  };
  load(0);

  const int firstRow = item.firstRow + warp * kRowsPerWarp;
  const QueryRow rows[2] = {queryRow(a, item.sequence, item.group, firstRow + lane / 4, item.rows),
                            queryRow(a, item.sequence, item.group, firstRow + lane / 4 + 8, item.rows)};
  const auto rowsAgain = [&](QueryRow(&again)[2]) {  // for the stores: registers are short in the loop
    const int row = firstRow + laneNow() / 4;
    again[0] = queryRow(a, item.sequence, item.group, row, item.rows);
    again[1] = queryRow(a, item.sequence, item.group, row + 8, item.rows);
  };
  // What the warp's rows see, as one range; without rows it is empty.
  const int warpBegin = a.firstVisible(start + firstRow / a.queryHeadsPerGroup);
  const int warpEnd =
      firstRow < item.rows ? start + (min(firstRow + kRowsPerWarp, item.rows) - 1) / a.queryHeadsPerGroup + 1 : 0;
  const Queries<kDim, false> queries(a, rows[0], rows[1]);
  auto* outputs = reinterpret_cast<float*>(shared + stages * Stage<kDim>::kElements);
  Totals<kDim> totals(Totals<kDim>::kSharedBytesPerWarp == 0 ? outputs : outputs + warp * kRowsPerWarp * kDim);
  Fold<kDim, true> chunk(outputs);
  int stage = 0;
  for (; !walk.done(); walk.next()) {
    waitForCopies<0>();
    __syncthreads();
    if (stages == 2) load(1 - stage);
    const int position = walk.tile * kTileTokens;
    if (position < warpEnd && position + kTileTokens > warpBegin) {
      attendTile<type, kDim>(a, chunk, queries, rows, shared + stage * Stage<kDim>::kElements, walk.tile);
    }
    if (walk.lastOfChunk()) {
      if (a.parts.outputs == nullptr) {
        totals.foldAll(chunk.maximum, chunk.sum, [&](int n) { return chunk.outputs(n); });
      } else {
        QueryRow again[2];
        rowsAgain(again);
        storePart(a, chunk, again, item.sequence, walk.tile / kTilesPerChunk);
      }
      chunk.reset();
    }
    if (stages == 2) {
      stage = 1 - stage;
    } else {
      __syncthreads();
      load(0);
    }
  }
  if (a.parts.outputs != nullptr) return;
  QueryRow again[2];
  rowsAgain(again);
  write<type, kDim>(a, totals, again);
}

template <int kDim>
constexpr size_t blockBytes(int warps, int stages) {
  return static_cast<size_t>(stages) * Stage<kDim>::kBytes +
         static_cast<size_t>(warps) * Totals<kDim>::kSharedBytesPerWarp;
}

template <DataType type, int kDim>
void launchPrefill(const AttentionArguments& a, int64_t sequences, int64_t tokensMax, cudaStream_t stream) {
  const int64_t rowsMax = tokensMax * a.queryHeadsPerGroup;
  const size_t limit = sharedBytesMax();
  int warps = kWarpsMax;
  while (warps > 1 && (warps / 2 * kRowsPerWarp >= rowsMax || blockBytes<kDim>(warps, 1) > limit)) warps /= 2;
  const int stages = blockBytes<kDim>(warps, 2) <= limit ? 2 : 1;
  const int64_t blockRows = static_cast<int64_t>(warps) * kRowsPerWarp;
  const dim3 grid(static_cast<unsigned>((rowsMax + blockRows - 1) / blockRows), static_cast<unsigned>(a.groups),
                  static_cast<unsigned>(sequences));
  launch(prefillKernel<type, kDim>, grid, dim3(static_cast<unsigned>(warps * kWarpThreads)),
         blockBytes<kDim>(warps, stages), stream, a, stages);
}

template <DataType type>
void launchType(const AttentionArguments& a, int64_t sequences, int64_t tokensMax, cudaStream_t stream) {
  if (a.headDim <= 64) return launchPrefill<type, 64>(a, sequences, tokensMax, stream);
  if (a.headDim <= 96) return launchPrefill<type, 96>(a, sequences, tokensMax, stream);
  if (a.headDim <= 128) return launchPrefill<type, 128>(a, sequences, tokensMax, stream);
  if (a.headDim <= 192) return launchPrefill<type, 192>(a, sequences, tokensMax, stream);
  launchPrefill<type, 256>(a, sequences, tokensMax, stream);
}

}  // namespace

size_t prefillBytesMin(int64_t headDim) {
  if (headDim <= 64) return blockBytes<64>(1, 1);
  if (headDim <= 96) return blockBytes<96>(1, 1);
  if (headDim <= 128) return blockBytes<128>(1, 1);
  if (headDim <= 192) return blockBytes<192>(1, 1);
  return blockBytes<256>(1, 1);
}

void attendPrefill(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t tokensMax,
                   cudaStream_t stream) {
  if (type == DataType::kBf16) {
    launchType<DataType::kBf16>(arguments, sequences, tokensMax, stream);
  } else {
    launchType<DataType::kF16>(arguments, sequences, tokensMax, stream);
  }
}

}  // namespace hels::cuda
