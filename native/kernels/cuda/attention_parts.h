// The arithmetic that decode and prefill share, for KV in 16 bits: a warp attends with 16 query rows to a tile of 64
// positions, and results of chunks are merged. Sharing this code is what gives both the same bits.
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

/// The rule by which a chunk's (m, l, o) joins the total of the chunks before it.
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

#if defined(__CUDA_ARCH__) && !defined(HELS_TENSOR_CORES)
/// Without tensor cores a product is long code: one copy of it, and not one for each of the hundreds of places.
template <DataType type>
__device__ __noinline__ float4 multiplyTileOnce(float4 d, uint4 a, uint2 b) {
  float sums[4] = {d.x, d.y, d.z, d.w};
  const uint32_t left[4] = {a.x, a.y, a.z, a.w};
  const uint32_t right[2] = {b.x, b.y};
  multiplyTile<type>(sums, left, right);
  return make_float4(sums[0], sums[1], sums[2], sums[3]);
}
#endif

template <DataType type>
__device__ __forceinline__ void addProduct(float (&d)[4], const uint4& a, const uint2& b) {
#if defined(__CUDA_ARCH__) && !defined(HELS_TENSOR_CORES)
  const float4 sums = multiplyTileOnce<type>(make_float4(d[0], d[1], d[2], d[3]), a, b);
  d[0] = sums.x;
  d[1] = sums.y;
  d[2] = sums.z;
  d[3] = sums.w;
#else
  const uint32_t left[4] = {a.x, a.y, a.z, a.w};
  const uint32_t right[2] = {b.x, b.y};
  multiplyTile<type>(d, left, right);
#endif
}

/// The same over 32 dimensions, of which a lane has sixteen bytes of two rows and of a column: their order inside of
/// the products is that of the registers, for both operands alike.
template <DataType type>
__device__ __forceinline__ void addBlock(float (&d)[4], const uint4& row, const uint4& row8, const uint4& column) {
  addProduct<type>(d, make_uint4(row.x, row8.x, row.y, row8.y), make_uint2(column.x, column.y));
  addProduct<type>(d, make_uint4(row.z, row8.z, row.w, row8.w), make_uint2(column.z, column.w));
}

/// Two weights of attention in the cache's type, `low` first.
template <DataType type>
__device__ __forceinline__ uint32_t weightPair(float low, float high) {
#ifdef HELS_CUDA_EMULATION
  return narrowPair(type, low, high);
#else
  if constexpr (type == DataType::kBf16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
#endif
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

/// A lane's share of the queries of rows g and g + 8: of each 32 dimensions the eight from 8t on. Held in registers, or
/// read again from the first-level cache.
template <int kDim, bool kHeld>
class Queries {
 public:
  static constexpr int kBlocks = kDim / 32;

  __device__ __forceinline__ Queries(const AttentionArguments& a, const QueryRow& low, const QueryRow& high)
      : headDim_(a.headDim), low_(rowOf(a, low)), high_(rowOf(a, high)) {
    if constexpr (kHeld) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        held_[0][block] = load(low_, block);
        held_[1][block] = load(high_, block);
      }
    }
  }
  __device__ __forceinline__ uint4 low(int block) const {
    if constexpr (kHeld) return held_[0][block];
    return load(low_, block);
  }
  __device__ __forceinline__ uint4 high(int block) const {
    if constexpr (kHeld) return held_[1][block];
    return load(high_, block);
  }

 private:
  __device__ __forceinline__ static const uint16_t* rowOf(const AttentionArguments& a, const QueryRow& row) {
    return reinterpret_cast<const uint16_t*>(a.queries) + row.token * a.queryStride + row.head * a.headDim;
  }
  __device__ __forceinline__ uint4 load(const uint16_t* row, int block) const {
    const int from = block * 32 + static_cast<int>(threadIdx.x) % 4 * 8;
    return from < headDim_ ? *reinterpret_cast<const uint4*>(row + from) : make_uint4(0, 0, 0, 0);
  }

  int headDim_;
  const uint16_t* low_;
  const uint16_t* high_;
  uint4 held_[2][kHeld ? kBlocks : 1];
};

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
  const unsigned block = static_cast<unsigned>(position) / tokens;
  const unsigned inside = static_cast<unsigned>(position) - block * tokens;
  return (static_cast<int64_t>(blockTable[block]) * a.blockTokens + inside) * a.headDim;
}

/// A warp starts the copies of a unit's keys; positions outside of [begin, end) become zeros and are not read.
template <int kDim>
__device__ __forceinline__ void copyKeys(const AttentionArguments& a, uint16_t* target, const uint16_t* keys,
                                         const int32_t* blockTable, int position, int begin, int end) {
  const int lane = laneNow();
  const bool any = position < end && position + kUnitTokens > begin;
  const uint16_t* source = any ? keys + unitOffset(a, blockTable, position) : keys;
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
__device__ __forceinline__ void copyValues(const AttentionArguments& a, uint16_t* target, const uint16_t* values,
                                           const int32_t* blockTable, int position, int begin, int end) {
  constexpr int kPieces = kDim / 8;
  const int lane = laneNow();
  const bool any = position < end && position + kUnitTokens > begin;
  const uint16_t* source = any ? values + unitOffset(a, blockTable, position) : values;
#pragma unroll
  for (int i = 0; i < kUnitTokens * kPieces / kWarpThreads; ++i) {
    const int item = i * kWarpThreads + lane;
    const int row = item / kPieces;
    const int from = item % kPieces * 8;
    const bool valid = position + row >= begin && position + row < end && from < a.headDim;
    copyAsync16(target + row * Unit<kDim>::kValueStride + from, source + (valid ? row * a.headDim + from : 0), valid);
  }
}

/// A warp's 16 rows on their way through a chunk. Index 0 of a pair is row g, 1 is row g + 8; outputs[i] are dimensions
/// 8i + {2t, 2t + 1} of both.
template <DataType type, int kDim>
struct ChunkState {
  float outputs[kDim / 8][4];
  float maximum[2];
  float sum[2];  // the lane's share, until finish()
  float scores[kTileTokens / 8][4];

  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) outputs[i][j] = 0.0F;
    }
    maximum[0] = maximum[1] = minusInfinity();
    sum[0] = sum[1] = 0.0F;
  }

  /// Products of the queries with the keys of a unit: a chain over the dimensions, ascending in blocks of 32.
  template <bool kHeld>
  __device__ __forceinline__ void addKeys(const Queries<kDim, kHeld>& queries, const uint16_t* keys, int unit) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    float(&first)[4] = scores[2 * unit];
    float(&second)[4] = scores[2 * unit + 1];
#pragma unroll
    for (int j = 0; j < 4; ++j) first[j] = second[j] = 0.0F;
    const uint4* pieces = reinterpret_cast<const uint4*>(keys) + lane;
#pragma unroll
    for (int block = 0; block < Unit<kDim>::kBlocks; ++block) {
      const uint4 low = queries.low(block);
      const uint4 high = queries.high(block);
      addBlock<type>(first, low, high, pieces[block * kWarpThreads]);
      addBlock<type>(second, low, high, pieces[(Unit<kDim>::kBlocks + block) * kWarpThreads]);
    }
  }

  /// The same for all units of a tile, which lie one after the other: each query is fetched once for all.
  template <bool kHeld>
  __device__ __forceinline__ void addTileKeys(const Queries<kDim, kHeld>& queries, const uint16_t* keys) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
    for (int n = 0; n < kTileTokens / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[n][j] = 0.0F;
    }
    const uint4* pieces = reinterpret_cast<const uint4*>(keys) + lane;
#pragma unroll(kDim > 128 ? 1 : 4)
    for (int block = 0; block < Unit<kDim>::kBlocks; ++block) {
      const uint4 low = queries.low(block);
      const uint4 high = queries.high(block);
#pragma unroll
      for (int n = 0; n < kTileTokens / 8; ++n) {
        addBlock<type>(scores[n], low, high, pieces[(n * Unit<kDim>::kBlocks + block) * kWarpThreads]);
      }
    }
  }

  /// Turns scores of the tile at `position` into weights, and brings what was there to the new maximum. What a row does
  /// not see gets weight 0.
  __device__ __forceinline__ void weigh(const QueryRow (&rows)[2], int position, float scaleLog2) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (rows[i].begin > position || rows[i].position < position + kTileTokens - 1) {
#pragma unroll
        for (int n = 0; n < kTileTokens / 8; ++n) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int at = position + n * 8 + lane % 4 * 2 + j;
            if (at < rows[i].begin || at > rows[i].position) scores[n][2 * i + j] = minusInfinity();
          }
        }
      }
      float high = minusInfinity();
#pragma unroll
      for (int n = 0; n < kTileTokens / 8; ++n) high = fmaxf(high, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
      high = fmaxf(high, __shfl_xor_sync(kAllLanes, high, 1));
      high = fmaxf(high, __shfl_xor_sync(kAllLanes, high, 2));
      high = fmaxf(maximum[i], high * scaleLog2);
      const float base = high == minusInfinity() ? 0.0F : high;
      factor[i] = exponential2(maximum[i] - base);
      maximum[i] = high;
      float tileSum = 0.0F;
#pragma unroll
      for (int n = 0; n < kTileTokens / 8; ++n) {
#pragma unroll
        for (int j = 2 * i; j < 2 * i + 2; ++j) {
          scores[n][j] = exponential2(fmaf(scores[n][j], scaleLog2, -base));
          tileSum += scores[n][j];
        }
      }
      sum[i] = fmaf(sum[i], factor[i], tileSum);
    }
    // Most tiles do not raise a maximum, and a factor of 1 changes nothing.
    if (__any_sync(kAllLanes, factor[0] != 1.0F || factor[1] != 1.0F)) {
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) outputs[n][j] *= factor[j / 2];
      }
    }
  }

  /// Adds the weighted values of a unit.
  __device__ __forceinline__ void addValues(const uint16_t* values, int unit) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    const float(&first)[4] = scores[2 * unit];
    const float(&second)[4] = scores[2 * unit + 1];
    const uint4 weights = make_uint4(weightPair<type>(first[0], first[1]), weightPair<type>(first[2], first[3]),
                                     weightPair<type>(second[0], second[1]), weightPair<type>(second[2], second[3]));
    const uint16_t* row = values + (lane / 8 % 2 * 8 + lane % 8) * Unit<kDim>::kValueStride + lane / 16 * 8;
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      uint32_t columns[4];
      loadTransposed(columns, row + i * 16);
      addProduct<type>(outputs[2 * i], weights, make_uint2(columns[0], columns[1]));
      addProduct<type>(outputs[2 * i + 1], weights, make_uint2(columns[2], columns[3]));
    }
  }

  /// At the chunk's end: sums of the rows.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 1);
      sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 2);
    }
  }

  /// Leaves the chunk to be merged later. Rows that see nothing of it have no slot for it.
  __device__ __forceinline__ void storePart(const AttentionArguments& a, const QueryRow (&rows)[2], int sequence,
                                            int chunk) const {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int first = rows[i].begin / kChunkTokens;
      if (!rows[i].exists() || chunk < first || chunk * kChunkTokens > rows[i].position) continue;
      const int64_t token = a.partsBySequence ? sequence - a.firstSequence : rows[i].token;
      const int64_t part = (token * a.queryHeads() + rows[i].head) * a.parts.slots + chunk - first;
      if (t == 0) {
        a.parts.maxima[part] = maximum[i];
        a.parts.sums[part] = sum[i];
      }
      float* to = a.parts.outputs + part * a.headDim + 2 * t;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        if (n * 8 < a.headDim)
          *reinterpret_cast<float2*>(to + n * 8) = make_float2(outputs[n][2 * i], outputs[n][2 * i + 1]);
      }
    }
  }
};

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

/// Decode: sequences with one token, `splits` thread blocks for each group. With `merges` the output is written (all
/// slots fit one thread block), else parts.
void attendDecode(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t slots, bool merges,
                  cudaStream_t stream);
/// Whether attendDecode() can merge by itself.
bool decodeMerges(int64_t headDim, int64_t slots);
/// Sequences with at least prefillTokensMin tokens.
void attendPrefill(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t tokensMax,
                   cudaStream_t stream);
/// KV in f32, any number of tokens.
void attendF32(const AttentionArguments& arguments, int64_t sequences, int64_t tokensMax, cudaStream_t stream);
/// Merges slots of rows that are sequences of the launch (partsBySequence) or tokens of the batch.
void mergeSlots(DataType type, const AttentionArguments& arguments, int64_t sequences, int64_t tokensMax,
                cudaStream_t stream);
/// Shared memory that a block of the current device can have.
size_t sharedBytesMax();

}  // namespace hels::cuda
