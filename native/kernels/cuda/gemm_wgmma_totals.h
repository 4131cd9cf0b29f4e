// What becomes of the sums of a segment in gemm_wgmma.cu: totals of slices in f32, of granules in fixed point. A thread
// holds `count` results; index i of it is row i / 4 * 8 + i % 2 and column i / 2 % 2 * 8 from its first.
#pragma once

#include "kernels/cuda/gemm_parts.h"

namespace hels::cuda {

/// Adds up the slices of a block, in one or two parts: the halves of all eight, one half, or one or two slices alone.
template <int count>
struct SliceTotals {
  using Value = float;
  struct Spare {};
  float first[count];
  float second[count];
  int slice = 0;
  int firstPart;  // slices of the first part, if there are two

  __device__ __forceinline__ explicit SliceTotals(int splits)
      : firstPart(splits == 1   ? kHalfSlices
                  : splits == 4 ? 1
                                : 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) first[i] = second[i] = 0.0F;
  }
  /// Parts that a block hands to the others.
  static __device__ __forceinline__ int partsOf(int splits) { return splits == 4 ? 2 : 1; }

  __device__ __forceinline__ void addNothing() { next(); }
  __device__ __forceinline__ void add(const float (&sums)[count], Spare&, int, const ProductArguments&) {
#pragma unroll
    for (int i = 0; i < count; ++i) second[i] += sums[i];
    next();
  }
  __device__ __forceinline__ float total(int i, const Spare&) const { return first[i] + second[i]; }
  __device__ __forceinline__ float part(int which, int i, const Spare&) const {
    return which == 0 && firstPart > 0 ? first[i] : second[i];
  }
  static __device__ __forceinline__ float* target(const ProductArguments& a, int row, int column) {
    return a.y + row * a.yStride + column;
  }

 private:
  __device__ __forceinline__ void next() {
    if (++slice != firstPart) return;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      first[i] = second[i];
      second[i] = 0.0F;
    }
  }
};

/// Fixed-point totals of granules in parts of 32 bits. Partials that do not fit into parts, which are rare, go to local
/// memory in 64 bits.
template <int count>
struct GranuleTotals {
  using Value = int64_t;
  uint32_t high[count];
  uint32_t low[count];
  int granules = 0;
  bool hasWide = false;
  /// An object of its own: it is indexed at run time, and what shares an object with it would leave the registers.
  struct Spare {
    int64_t wide[count];
  };

  __device__ __forceinline__ explicit GranuleTotals(int) {
#pragma unroll
    for (int i = 0; i < count; ++i) high[i] = low[i] = 0;
  }
  static __device__ __forceinline__ int partsOf(int) { return 1; }

  __device__ __forceinline__ void addNothing() {}
  /// `row` is the thread's first.
  __device__ __forceinline__ void add(const float (&sums)[count], Spare& spare, int row, const ProductArguments& a) {
    uint32_t outside = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const FixedPointParts parts = fixedPointParts(sums[i]);
      high[i] += parts.high;
      low[i] += parts.low;
      outside |= outsideBits(parts);
    }
    ++granules;
    if (isOutside(outside)) addWide(sums, spare, row, a);
  }
  __device__ __forceinline__ int64_t total(int i, const Spare& spare) const {
    const int64_t narrow = joinParts(high[i], low[i], static_cast<uint32_t>(granules));
    return hasWide ? narrow + spare.wide[i] : narrow;
  }
  __device__ __forceinline__ int64_t part(int, int i, const Spare& spare) const { return total(i, spare); }
  static __device__ __forceinline__ int64_t* target(const ProductArguments& a, int row, int column) {
    return a.sums + row * a.sumStride + column;
  }

 private:
  /// Takes back what add() did to partials outside, and adds them in 64 bits. In loops that are not unrolled: it is
  /// rare, and must not cost the rest registers.
  __device__ __forceinline__ void addWide(const float (&sums)[count], Spare& spare, int row,
                                          const ProductArguments& a) {
    float partials[count];
    uint2 undone[count];
#pragma unroll
    for (int i = 0; i < count; ++i) partials[i] = sums[i];
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const FixedPointParts parts = fixedPointParts(partials[i]);
      const bool isWide = isOutside(outsideBits(parts));
      const int64_t before = hasWide ? spare.wide[i] : 0;
      spare.wide[i] = isWide ? before + wideFixedPoint(partials[i], row + i / 4 * 8 + i % 2, a) : before;
      undone[i] = isWide ? make_uint2(parts.high - kRounderBits, parts.low - kRounderBits) : make_uint2(0, 0);
    }
#pragma unroll
    for (int i = 0; i < count; ++i) {
      high[i] -= undone[i].x;
      low[i] -= undone[i].y;
    }
    hasWide = true;
  }
};

}  // namespace hels::cuda
