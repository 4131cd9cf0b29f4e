// The innermost part of the chain GEMM, one set of kernels per instruction set. Every output element is one chain
//   c = fma(x[row][k], w[column][k], c),  c starting from +0 (or from what is there),
// so its bits depend on nothing but its own row and column. Inputs in f32 are taken with k ascending; inputs in bf16 in
// pairs with the odd one first (1, 0, 3, 2, ...), and subnormals then count as zero: what the processors' bf16 dot
// product does, and what two multiply-adds per pair give everywhere else.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"

namespace hels {

struct TileArguments {
  const std::byte* x = nullptr;  // (rows, depth), in f32 or bf16
  int64_t xStrideBytes = 0;
  // First panel, (depth, 16), or (depth / 2, 16, 2) for bf16 inputs, or the groups of one granule from one's start on.
  const std::byte* panel = nullptr;
  int64_t panelStrideBytes = 0;
  int64_t depth = 0;   // even for bf16 inputs that are not quantised
  float* c = nullptr;  // (rows, panels * 16)
  int64_t cStride = 0;
  bool accumulate = false;  // continue the chains in c instead of starting from +0
};

using TileKernel = void (*)(const TileArguments&);

inline constexpr int kTileRowsMax = 14;
/// 8 inputs but one, rounded to pairs, of 16 columns.
inline constexpr int64_t kDequantizedExcess = int64_t{6} * 16;

/// Which kernels multiply with a matrix: by its type, those for pairs, or those that widen quantised weights as they
/// load them, for f32 inputs or in pairs.
enum TileKind : uint8_t {
  kTileF32,
  kTileBf16,
  kTileF16,
  kTilePairs,
  kTileInt8,
  kTileInt4,
  kTileInt8Pairs,
  kTileInt4Pairs,
  kTileKinds
};

inline TileKind tileKind(DataType type, Inputs inputs) {
  return inputs == Inputs::kBf16 ? kTilePairs : static_cast<TileKind>(type);
}

struct ChainTileSet {
  Isa isa = Isa::kPortable;
  /// Largest number of rows of one call.
  int rowsMax = 1;
  /// Panels of one call, by kind and rows - 1: few rows take several panels, to have enough chains in flight.
  int panels[kTileKinds][kTileRowsMax] = {};
  /// By kind and rows - 1: `wide` for that many panels, `single` for one. Null where there is none: quantised weights
  /// are then widened in advance.
  TileKernel wide[kTileKinds][kTileRowsMax] = {};
  TileKernel single[kTileKinds][kTileRowsMax] = {};
  /// target[i] = source[i] of a 16-bit type widened to f32; count is a multiple of 16.
  void (*widen)(DataType type, const std::byte* source, float* target, int64_t count) = nullptr;
  /// target[i] = source[i] rounded to bf16, as f32ToBf16.
  void (*narrow)(const float* source, uint16_t* target, int64_t count) = nullptr;
  /// Values of a panel's groups as bf16 in pairs, by quantization - 1: `inputs` of one granule from `groups` on, where
  /// one of its groups begins. Writes whole units: up to kDequantizedExcess more.
  void (*dequantize[2])(const std::byte* groups, int64_t inputs, uint16_t* target) = {};
  /// The same pairs as f32, (2 * pairs, 16).
  void (*splitPairs)(const uint16_t* source, float* target, int64_t pairs) = nullptr;
  /// sums[i] += toFixedPoint(values[i]), i < 16; false when a value is out of range (sums are then undefined).
  bool (*addFixedPoint)(const float* values, int64_t* sums) = nullptr;
};

/// `isa` must be supported by this processor.
const ChainTileSet& chainTileSet(Isa isa);

const ChainTileSet& portableTileSet();
#ifdef HELS_X86
const ChainTileSet& avx2TileSet();
const ChainTileSet& avx512TileSet();
const ChainTileSet& avx512Bf16TileSet();
#endif

}  // namespace hels
