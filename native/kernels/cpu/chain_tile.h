// The innermost part of the chain GEMM, one set of kernels per instruction set. Every output element is one chain
//   c = fma(x[row][k], w[column][k], c),  k ascending,  c starting from +0 (or from what is there),
// so its bits depend on nothing but its own row and column.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"
#include "kernels/cpu/isa.h"

namespace hels {

struct TileArguments {
  const float* x = nullptr;  // (rows, depth)
  int64_t xStride = 0;
  const std::byte* panel = nullptr;  // first panel, (depth, 16) in the weight's type
  int64_t panelStrideBytes = 0;
  int64_t depth = 0;
  float* c = nullptr;  // (rows, panels * 16)
  int64_t cStride = 0;
  bool accumulate = false;  // continue the chains in c instead of starting from +0
};

using TileKernel = void (*)(const TileArguments&);

inline constexpr int kTileRowsMax = 14;

struct ChainTileSet {
  Isa isa = Isa::kPortable;
  /// Largest number of rows of one call.
  int rowsMax = 1;
  /// Panels of one call, by rows - 1: few rows take several panels, to have enough chains in flight.
  int panels[kTileRowsMax] = {};
  /// By DataType and rows - 1: `wide` for panels[rows - 1] panels, `single` for one.
  TileKernel wide[3][kTileRowsMax] = {};
  TileKernel single[3][kTileRowsMax] = {};
  /// target[i] = source[i] widened to f32; count is a multiple of 16.
  void (*widen)(DataType type, const std::byte* source, float* target, int64_t count) = nullptr;
  /// sums[i] += toFixedPoint(values[i]), i < 16; false when a value is out of range (sums are then undefined).
  bool (*addFixedPoint)(const float* values, int64_t* sums) = nullptr;
};

/// `isa` must be supported by this processor.
const ChainTileSet& chainTileSet(Isa isa);

const ChainTileSet& portableTileSet();
#ifdef HELS_X86
const ChainTileSet& avx2TileSet();
const ChainTileSet& avx512TileSet();
#endif

}  // namespace hels
