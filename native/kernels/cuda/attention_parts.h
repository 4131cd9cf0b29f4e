// What the attention kernels share around the products: arguments, the rule by which results are merged, rows, and the
// way of KV into shared memory. The arithmetic inside of a tile of 64 positions is in attention_tile.h.
#pragma once

#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.h"

namespace hels::cuda {

inline constexpr int kChunkTokens = static_cast<int>(kAttentionChunkTokens);
inline constexpr int kTileTokens = 64;
inline constexpr int kTilesPerChunk = kChunkTokens / kTileTokens;
/// Positions of a unit: the depth of one product with V, and what never crosses a block of the cache.
inline constexpr int kUnitTokens = 16;
inline constexpr int kUnitsPerTile = kTileTokens / kUnitTokens;
inline constexpr int kRowsPerWarp = 16;

/// What every attention kernel is launched with.
struct AttentionArguments {
  const std::byte* keys = nullptr;
  const std::byte* values = nullptr;
  int64_t groupElements = 0;  // from one group's cache to the next
  int groups = 0;
  int blockTokens = 0;
  int headDim = 0;
  int queryHeadsPerGroup = 1;
  int window = 0;
  float scaleLog2 = 1.0F;  // scale * log2(e)
  const int32_t* firstToken = nullptr;
  const int32_t* tokenCount = nullptr;
  const int32_t* startPosition = nullptr;
  const int32_t* blockTables = nullptr;
  int64_t blockTableStride = 0;
  const int32_t* sequenceOf = nullptr;
  const int32_t* positions = nullptr;
  int firstSequence = 0;     // of this launch
  int prefillTokensMin = 2;  // of a sequence that attendPrefill() is to do
  const std::byte* queries = nullptr;
  int64_t queryStride = 0;
  std::byte* output = nullptr;
  int64_t outputStride = 0;
  AttentionParts parts;          // no outputs: merge at once
  bool partsBySequence = false;  // the token of a part is the sequence of this launch
  const uint8_t* chunkHere = nullptr;
  int64_t chunkStride = 0;
  bool kvIsOlder = false;  // but for a row's own position no kernel of this step writes what it sees

  __host__ __device__ int queryHeads() const { return groups * queryHeadsPerGroup; }
  __device__ __forceinline__ int firstVisible(int position) const {
    return window == 0 ? 0 : max(0, position - window + 1);
  }
};

__device__ __forceinline__ float minusInfinity() { return -__uint_as_float(0x7F800000U); }

__device__ __forceinline__ float exponential2(float x) {
#ifdef HELS_CUDA_EMULATION
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// The rule by which a tile's (m, l, o) joins the tiles before it in its chunk, and a chunk's the chunks before it.
struct MergeScales {
  float maximum;
  float total;
  float part;
};

__device__ __forceinline__ MergeScales mergeScales(float total, float part) {
  const float maximum = fmaxf(total, part);
  const float base = maximum == minusInfinity() ? 0.0F : maximum;
  return {maximum, exponential2(total - base), exponential2(part - base)};
}

__device__ __forceinline__ float mergeValue(const MergeScales& scales, float total, float part) {
  return fmaf(part, scales.part, total * scales.total);
}

/// One of the two query rows (g and g + 8 of the warp's 16) that a lane knows of. Rows are (token, head of the group),
/// head fastest.
struct QueryRow {
  int64_t token = 0;
  int head = 0;       // of all query heads of the rank
  int position = -1;  // -1: no row
  int begin = 0;      // the positions it sees are [begin, position]

  __device__ __forceinline__ bool exists() const { return position >= 0; }
};

__device__ __forceinline__ QueryRow queryRow(const AttentionArguments& a, int sequence, int group, int row, int rows) {
  const int inside = min(row, rows - 1);
  const int offset = inside / a.queryHeadsPerGroup;
  QueryRow result;
  result.token = a.firstToken[sequence] + offset;
  result.head = group * a.queryHeadsPerGroup + inside % a.queryHeadsPerGroup;
  const int position = a.startPosition[sequence] + offset;
  result.begin = a.firstVisible(position);
  result.position = row < rows ? position : -1;
  return result;
}

/// A unit of KV in shared memory. Keys lie as the lanes read them: of each 8 positions and 32 dimensions, lane (g, t)
/// has sixteen bytes of position g. Values lie in rows that are 16 bytes longer, so that loadTransposed() meets no bank
/// twice.
template <int kDim>
struct Unit {
  static constexpr int kBlocks = kDim / 32;
  static constexpr int kKeyElements = kUnitTokens * kDim;
  static constexpr int kValueStride = kDim + 8;
  static constexpr int kValueElements = kUnitTokens * kValueStride;
};

/// The lane, found out anew: what depends on it is not kept in registers through the loops around.
__device__ __forceinline__ int laneNow() {
#ifdef HELS_CUDA_EMULATION
  return static_cast<int>(threadIdx.x) % kWarpThreads;
#else
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
#endif
}

/// Where the 16 positions from `position` on lie in a group's keys or values.
__device__ __forceinline__ int64_t unitOffset(const AttentionArguments& a, const int32_t* blockTable, int position) {
  const auto tokens = static_cast<unsigned>(a.blockTokens);
  // Without a division where a block is a unit.
  const unsigned block =
      tokens == kUnitTokens ? static_cast<unsigned>(position) / kUnitTokens : static_cast<unsigned>(position) / tokens;
  const unsigned inside = static_cast<unsigned>(position) - block * tokens;
  return (static_cast<int64_t>(blockTable[block]) * a.blockTokens + inside) * a.headDim;
}

/// The same, or 0 when [begin, end) has none of them: the block table is not read then.
__device__ __forceinline__ int64_t visibleUnitOffset(const AttentionArguments& a, const int32_t* blockTable,
                                                     int position, int begin, int end) {
  return position < end && position + kUnitTokens > begin ? unitOffset(a, blockTable, position) : 0;
}

/// Whether all of a unit is there to be copied, in rows without padding: then addresses are a lane's own and constants.
template <int kDim>
__device__ __forceinline__ bool isPlainUnit(const AttentionArguments& a, int position, int begin, int end) {
  return a.headDim == kDim && position >= begin && position + kUnitTokens <= end;
}

/// A warp starts the copies of a unit's keys, which lie at `source`; positions outside of [begin, end) become zeros and
/// are not read.
template <int kDim>
__device__ __forceinline__ void copyKeys(const AttentionArguments& a, uint16_t* target, const uint16_t* source,
                                         int position, int begin, int end) {
  const int lane = laneNow();
  if (isPlainUnit<kDim>(a, position, begin, end)) {
    uint16_t* to = target + lane * 8;
    const uint16_t* from = source + lane / 4 * kDim + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2 * Unit<kDim>::kBlocks; ++i) {
      copyAsync16(to + i * kWarpThreads * 8, from + i / Unit<kDim>::kBlocks * 8 * kDim + i % Unit<kDim>::kBlocks * 32);
    }
    return;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    const bool seen = position + row >= begin && position + row < end;
#pragma unroll
    for (int block = 0; block < Unit<kDim>::kBlocks; ++block) {
      const int from = block * 32 + lane % 4 * 8;
      const bool valid = seen && from < a.headDim;
      copyAsync16(target + ((half * Unit<kDim>::kBlocks + block) * kWarpThreads + lane) * 8,
                  source + (valid ? row * a.headDim + from : 0), valid);
    }
  }
}

/// The same for values.
template <int kDim>
__device__ __forceinline__ void copyValues(const AttentionArguments& a, uint16_t* target, const uint16_t* source,
                                           int position, int begin, int end) {
  constexpr int kPieces = kDim / 8;
  const int lane = laneNow();
  if (kWarpThreads % kPieces == 0 && isPlainUnit<kDim>(a, position, begin, end)) {
    constexpr int kRows = kWarpThreads / kPieces;  // that the lanes copy at once
    uint16_t* to = target + lane / kPieces * Unit<kDim>::kValueStride + lane % kPieces * 8;
    const uint16_t* from = source + lane * 8;
#pragma unroll
    for (int i = 0; i < kUnitTokens / (kRows == 0 ? 1 : kRows); ++i) {
      copyAsync16(to + i * kRows * Unit<kDim>::kValueStride, from + i * kWarpThreads * 8);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kUnitTokens * kPieces / kWarpThreads; ++i) {
    const int item = i * kWarpThreads + lane;
    const int row = item / kPieces;
    const int from = item % kPieces * 8;
    const bool valid = position + row >= begin && position + row < end && from < a.headDim;
    copyAsync16(target + row * Unit<kDim>::kValueStride + from, source + (valid ? row * a.headDim + from : 0), valid);
  }
}

/// Walks over the tiles [tile, endTile) of every chunkStep-th chunk of those that are here.
struct TileWalk {
  int tile;
  int endTile;
  int chunkStep;
  const uint8_t* here;

  __device__ __forceinline__ TileWalk(int firstTile, int endTile, int firstChunk, int chunkStep, const uint8_t* here)
      : tile(max(firstTile, firstChunk * kTilesPerChunk)), endTile(endTile), chunkStep(chunkStep), here(here) {
    skipAbsent();
  }
  __device__ __forceinline__ bool done() const { return tile >= endTile; }
  __device__ __forceinline__ bool lastOfChunk() const {
    return tile % kTilesPerChunk == kTilesPerChunk - 1 || tile + 1 >= endTile;
  }
  __device__ __forceinline__ void next() {
    if (lastOfChunk()) {
      nextChunk();
      skipAbsent();
    } else {
      ++tile;
    }
  }

 private:
  __device__ __forceinline__ void nextChunk() { tile = (tile / kTilesPerChunk + chunkStep) * kTilesPerChunk; }
  __device__ __forceinline__ void skipAbsent() {
    if (here == nullptr) return;
    while (!done() && here[tile / kTilesPerChunk] == 0) nextChunk();
  }
};

/// How single tokens are attended: warps take single tiles (few blocks) or whole chunks; and whether a thread block has
/// all slots of its rows and writes the output, else parts are left.
struct DecodePlan {
  bool tiles = false;
  bool merges = false;
};
/// `mayMerge` false: parts are wanted.
DecodePlan planDecode(const AttentionArguments& arguments, int64_t sequences, int64_t slots, bool mayMerge);
/// Decode: sequences with one token.
void attendDecode(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t slots,
                  const DecodePlan& plan, cudaStream_t stream);
/// Sequences with at least prefillTokensMin tokens.
void attendPrefill(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t tokensMax,
                   cudaStream_t stream);
/// KV in f32, any number of tokens.
void attendF32(const AttentionArguments& arguments, int64_t sequences, int64_t tokensMax, cudaStream_t stream);
/// Merges slots of rows that are sequences of the launch (partsBySequence) or tokens of the batch.
void mergeSlots(DataType type, const AttentionArguments& arguments, int64_t rows, cudaStream_t stream);
/// The least shared memory that a block of attendDecode() and of attendPrefill() takes.
size_t decodeBytesMin(int64_t headDim);
size_t prefillBytesMin(int64_t headDim);

}  // namespace hels::cuda
