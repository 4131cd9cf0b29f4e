// The arithmetic that decode and prefill share, for KV in 16 bits: a warp attends with 16 query rows to a tile of 64
// positions by itself, from zero, and folds tiles into chunks and chunks into totals by one rule. Sharing this code is
// what gives all kernels the same bits, whichever warp takes which tile.
#pragma once

#include "kernels/cuda/attention_parts.h"

namespace hels::cuda {

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

/// A lane's share of the queries of rows g and g + 8: of each 32 dimensions the eight from 8t on. Held in registers, or
/// read again from the first-level cache.
template <int kDim, bool kHeld>
class Queries {
 public:
  static constexpr int kBlocks = kDim / 32;

  __device__ __forceinline__ Queries(const AttentionArguments& a, const QueryRow& low, const QueryRow& high)
      : headDim_(a.headDim),
        base_(reinterpret_cast<const uint4*>(a.queries)),
        low_(rowOf(a, low)),
        high_(rowOf(a, high)) {
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
  __device__ __forceinline__ static uint32_t rowOf(const AttentionArguments& a, const QueryRow& row) {
    return static_cast<uint32_t>((row.token * a.queryStride + row.head * a.headDim) / 8);
  }
  __device__ __forceinline__ uint4 load(uint32_t row, int block) const {
    const int piece = block * 4 + static_cast<int>(threadIdx.x) % 4;
    return piece * 8 < headDim_ ? base_[row + static_cast<uint32_t>(piece)] : make_uint4(0, 0, 0, 0);
  }

  int headDim_;
  const uint4* base_;
  uint32_t low_;  // in 16 bytes
  uint32_t high_;
  uint4 held_[2][kHeld ? kBlocks : 1];
};

/// A tile's scores, then weights, of a warp's 16 rows. Index 0 of a pair is row g, 1 is row g + 8.
template <DataType type>
struct TileWeights {
  float scores[kTileTokens / 8][4];
  float maximum[2];
  float sum[2];

  /// Products of the queries with the keys of a unit: a chain over the dimensions, ascending in blocks of 32.
  template <int kDim, bool kHeld>
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
  template <int kDim, bool kHeld>
  __device__ __forceinline__ void addTileKeys(const Queries<kDim, kHeld>& queries, const uint16_t* keys) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
    for (int n = 0; n < kTileTokens / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[n][j] = 0.0F;
    }
    const uint4* pieces = reinterpret_cast<const uint4*>(keys) + lane;
#pragma unroll(kDim > 128 ? 1 : 2)
    for (int block = 0; block < Unit<kDim>::kBlocks; ++block) {
      const uint4 low = queries.low(block);
      const uint4 high = queries.high(block);
#pragma unroll
      for (int n = 0; n < kTileTokens / 8; ++n) {
        addBlock<type>(scores[n], low, high, pieces[(n * Unit<kDim>::kBlocks + block) * kWarpThreads]);
      }
    }
  }

  /// Turns the scores of the tile at `position` into weights relative to the tile's own maximum. What a row does not
  /// see gets weight 0. Without `upper` rows g + 8 do not exist: what becomes of them does not matter.
  __device__ __forceinline__ void weigh(const QueryRow (&rows)[2], int position, float scaleLog2, bool upper) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      maximum[i] = minusInfinity();
      sum[i] = 0.0F;
      if (i == 1 && !upper) continue;
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
      high *= scaleLog2;
      maximum[i] = high;
      const float base = high == minusInfinity() ? 0.0F : high;
      float total = 0.0F;
#pragma unroll
      for (int n = 0; n < kTileTokens / 8; ++n) {
#pragma unroll
        for (int j = 2 * i; j < 2 * i + 2; ++j) {
          scores[n][j] = exponential2(fmaf(scores[n][j], scaleLog2, -base));
          total += scores[n][j];
        }
      }
      total += __shfl_xor_sync(kAllLanes, total, 1);
      sum[i] = total + __shfl_xor_sync(kAllLanes, total, 2);
    }
  }

  /// Weights of a unit, as the left operand of its product with V.
  __device__ __forceinline__ uint4 weights(int unit) const {
    const float(&first)[4] = scores[2 * unit];
    const float(&second)[4] = scores[2 * unit + 1];
    return make_uint4(weightPair<type>(first[0], first[1]), weightPair<type>(first[2], first[3]),
                      weightPair<type>(second[0], second[1]), weightPair<type>(second[2], second[3]));
  }
};

/// Sixteen columns of a unit's weighted values are added to `low` (the first eight) and `high`: for each column a chain
/// over the positions of the tile, ascending, wherever the warp meets them.
template <DataType type, int kDim>
__device__ __forceinline__ void addValueColumns(float (&low)[4], float (&high)[4], const uint4& weights,
                                                const uint16_t* values, int columns) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const uint16_t* row = values + (lane / 8 % 2 * 8 + lane % 8) * Unit<kDim>::kValueStride + lane / 16 * 8;
  uint32_t pieces[4];
  loadTransposed(pieces, row + columns * 16);
  addProduct<type>(low, weights, make_uint2(pieces[0], pieces[1]));
  addProduct<type>(high, weights, make_uint2(pieces[2], pieces[3]));
}

/// A tile's outputs, where its values pass in units.
template <DataType type, int kDim>
struct TileOutputs {
  float outputs[kDim / 8][4];

  /// Dimensions 8n + {2t, 2t + 1} of row g, then of row g + 8.
  __device__ __forceinline__ float4 at(int n) const {
    return make_float4(outputs[n][0], outputs[n][1], outputs[n][2], outputs[n][3]);
  }
  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) outputs[n][j] = 0.0F;
    }
  }
  __device__ __forceinline__ void addUnit(const uint4& weights, const uint16_t* values) {
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      addValueColumns<type, kDim>(outputs[2 * i], outputs[2 * i + 1], weights, values, i);
    }
  }
};

/// (m, l, o) of a warp's rows that others are folded into: a chunk from tiles, or a total from chunks. Outputs are in
/// registers, or in shared memory, where each lane has its own.
template <int kDim, bool kInRegisters>
class Fold {
 public:
  static constexpr size_t kSharedBytesPerWarp = kInRegisters ? 0 : sizeof(float) * kRowsPerWarp * kDim;

  /// `shared`: of the warp.
  __device__ __forceinline__ explicit Fold(float* shared) : shared_(shared + threadIdx.x % kWarpThreads * 4) {
    reset();
  }
  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) store(n, make_float4(0.0F, 0.0F, 0.0F, 0.0F));
    maximum[0] = maximum[1] = minusInfinity();
    sum[0] = sum[1] = 0.0F;
  }

  struct Scales {
    MergeScales rows[2];
  };
  /// Folds a part's maxima and sums in, and says how its outputs are to be folded.
  __device__ __forceinline__ Scales fold(const float (&partMaximum)[2], const float (&partSum)[2]) {
    const Scales scales = {{mergeScales(maximum[0], partMaximum[0]), mergeScales(maximum[1], partMaximum[1])}};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      maximum[i] = scales.rows[i].maximum;
      sum[i] = mergeValue(scales.rows[i], sum[i], partSum[i]);
    }
    return scales;
  }
  __device__ __forceinline__ void foldOutputs(const Scales& scales, int n, const float4& part) {
    const float4 total = outputs(n);
    store(n, make_float4(mergeValue(scales.rows[0], total.x, part.x), mergeValue(scales.rows[0], total.y, part.y),
                         mergeValue(scales.rows[1], total.z, part.z), mergeValue(scales.rows[1], total.w, part.w)));
  }
  /// The whole part; of its outputs partOutputs(n) are dimensions 8n + {2t, 2t + 1} of both rows.
  template <typename Outputs>
  __device__ __forceinline__ void foldAll(const float (&partMaximum)[2], const float (&partSum)[2],
                                          const Outputs& partOutputs) {
    const Scales scales = fold(partMaximum, partSum);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) foldOutputs(scales, n, partOutputs(n));
  }
  /// Dimensions 8n + {2t, 2t + 1} of row g, then of row g + 8.
  __device__ __forceinline__ float4 outputs(int n) const {
    if constexpr (kInRegisters) return held_[n];
    return *reinterpret_cast<const float4*>(shared_ + n * kWarpThreads * 4);
  }

  float maximum[2];
  float sum[2];

 private:
  __device__ __forceinline__ void store(int n, const float4& value) {
    if constexpr (kInRegisters) {
      held_[n] = value;
    } else {
      *reinterpret_cast<float4*>(shared_ + n * kWarpThreads * 4) = value;
    }
  }

  float* shared_;
  float4 held_[kInRegisters ? kDim / 8 : 1];
};

/// Leaves a chunk to be merged later. Rows that see nothing of it have no slot for it.
template <int kDim, bool kInRegisters>
__device__ __forceinline__ void storePart(const AttentionArguments& a, const Fold<kDim, kInRegisters>& fold,
                                          const QueryRow (&rows)[2], int sequence, int chunk) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int first = rows[i].begin / kChunkTokens;
    if (!rows[i].exists() || chunk < first || chunk * kChunkTokens > rows[i].position) continue;
    const int64_t token = a.partsBySequence ? sequence - a.firstSequence : rows[i].token;
    const int64_t part = (token * a.queryHeads() + rows[i].head) * a.parts.slots + chunk - first;
    if (t == 0) {
      a.parts.maxima[part] = fold.maximum[i];
      a.parts.sums[part] = fold.sum[i];
    }
    float* to = a.parts.outputs + part * a.headDim + 2 * t;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      if (n * 8 >= a.headDim) continue;
      const float4 both = fold.outputs(n);
      *reinterpret_cast<float2*>(to + n * 8) = i == 0 ? make_float2(both.x, both.y) : make_float2(both.z, both.w);
    }
  }
}

}  // namespace hels::cuda
