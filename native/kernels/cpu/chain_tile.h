// The innermost part of the chain GEMM, one set of kernels per instruction set. Every output element is one chain
//   c = fma(x[row][k], w[column][k], c),  c starting from +0 (or from what is there),
// so its bits depend on nothing but its own row and column. Inputs in f32 are taken with k ascending.
// Inputs in bf16 are taken in blocks of 32 from where the chain begins. A block has two chains of its own, from +0, one
// over its inputs 0, 2, 4 ... and one over 1, 3, 5 ...: c = c + (even + odd), subnormal operands and results taken as
// zero. A shorter last block is one filled up with zeros. Inputs in two terms give two such blocks, first of the upper
// terms, then of the lower. This is how processors with tiles multiply bf16 (AMX). A bf16 dot product that takes the
// pairs (2, 0), (6, 4) ... and (3, 1), (7, 5) ... gives the same bits, and so do multiply-adds everywhere else.
// Quantised weights are integers, exact in bf16, whose groups are such blocks, with a scale for each column:
// c = fma(scale, +0 + (even + odd), c).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed_matrix.h"

namespace hels {

/// Inputs of a block of the chains over bf16.
inline constexpr int64_t kBlockInputs = 32;
/// Rows of a tile of inputs.
inline constexpr int64_t kInputTileRows = 16;

struct TileArguments {
  const std::byte* x =
      nullptr;               // (rows, depth) in f32, or (rows, blocks, terms, 32) in bf16, zeros behind a short block
  int64_t xStrideBytes = 0;  // from row to row
  int64_t xBlockBytes = 0;   // from one term of a block to the next term or block
  int64_t xTileBytes = 0;    // from 16 rows to the next 16, where ChainTileSet::inputTiles
  int64_t rows = 0;
  int terms = 1;  // of an input in bf16
  // First panel, (depth, 16), or (depth / 2, 16, 2) for bf16 inputs, or the groups of one granule from one's start on.
  const std::byte* panel = nullptr;
  int64_t panelStrideBytes = 0;
  int64_t panelBytesLeft = 0;     // from `panel` to the end of its matrix's panel; the next call begins behind the last
  const float* scales = nullptr;  // (blocks, 16) of each panel, or null: all 1
  int64_t scaleStride = 0;        // from panel to panel
  int64_t depth = 0;              // of bf16 weights: a multiple of 4, or what is there up to the next one is zeros
  float* c = nullptr;             // (rows, panels * 16)
  int64_t cStride = 0;
  bool accumulate = false;  // continue the chains in c instead of starting from +0
};

/// Where to ask memory for what is read `aheadBytes` after `weights`: behind the end of a panel the next call's panels
/// follow.
inline const std::byte* readAhead(const TileArguments& a, int panels, const std::byte* weights, int64_t aheadBytes) {
  const bool inPanel = weights + aheadBytes < a.panel + a.panelBytesLeft;
  return weights + aheadBytes + (inPanel ? 0 : (panels - 1) * a.panelStrideBytes);
}

using TileKernel = void (*)(const TileArguments&);

inline constexpr int kTileRowsMax = 32;
inline constexpr int64_t kCachedRowsMin = 64;

/// Which kernels multiply with a matrix: by its type, those for bf16 inputs, those for integers that were widened to
/// bf16, with scales, or those that widen them as they load them.
enum TileKind : uint8_t { kTileF32, kTileBf16, kTileF16, kTilePairs, kTileScaled, kTileInt8, kTileInt4, kTileKinds };

inline TileKind tileKind(DataType type, Inputs inputs) {
  return inputs == Inputs::kF32 ? static_cast<TileKind>(type) : kTilePairs;
}

struct ChainTileSet {
  Isa isa = Isa::kPortable;
  /// How bf16 inputs and their weights lie.
  PairOrder pairOrder = PairOrder::kNeighbours;
  /// Largest number of rows of one tile.
  int rowsMax[kTileKinds] = {1, 1, 1, 1, 1, 1, 1};
  /// More rows are cut into tiles of at most so many, if not 0, else of rowsMax: the highest tile need not be the
  /// fastest. From kCachedRowsMin rows on (of a block, as products into fixed point are cut) hardly a tile waits for
  /// memory, and those count that are fastest from a cache.
  int tileRows[kTileKinds] = {};
  int cachedTileRows[kTileKinds] = {};
  int64_t tileCount(TileKind kind, int64_t rows) const {
    if (rows <= rowsMax[kind]) return 1;
    const int most = rows < kCachedRowsMin ? tileRows[kind] : cachedTileRows[kind];
    return divCeil(rows, most > 0 ? most : rowsMax[kind]);
  }
  /// Whether bf16 inputs lie in tiles of 16 rows, each term of a block (16, 32), and kernels for rowsMax rows of them
  /// take any number above it.
  bool inputTiles = false;
  /// Takes products of up to fewRowsMax rows with quantised weights instead of this set, if not null.
  const ChainTileSet* forFewRows = nullptr;
  int fewRowsMax = 0;
  /// Inputs of a block of the panels that stays in a cache for all rows: a multiple of kBlockInputs.
  int64_t depthBlock = 256;
  /// Panels of one call, by kind and rows - 1: few rows take several panels, to have enough chains in flight.
  int panels[kTileKinds][kTileRowsMax] = {};
  /// By kind and rows - 1: `wide` for that many panels, `single` for one. Null where there is none: quantised weights
  /// are then widened in advance.
  TileKernel wide[kTileKinds][kTileRowsMax] = {};
  TileKernel single[kTileKinds][kTileRowsMax] = {};
  /// Around a thread's calls of kernels, if not null: setting up tiles takes as long as a small product.
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
  /// target[i] = source[i] of a 16-bit type widened to f32; count is a multiple of 16.
  void (*widen)(DataType type, const std::byte* source, float* target, int64_t count) = nullptr;
  /// target[i] = source[i] rounded to bf16, as f32ToBf16.
  void (*narrow)(const float* source, uint16_t* target, int64_t count) = nullptr;
  /// A row of the operand of kTilePairs: (blocks, terms) of 32 in this set's order, `stride` elements from one to the
  /// next, filled up with zeros to whole blocks.
  void (*narrowBlocks)(const float* source, int64_t count, int terms, uint16_t* target, int64_t stride) = nullptr;
  /// Integers of a panel's groups as bf16 in pairs and their scales(groups, 16), by quantization - 1: `inputs` of one
  /// granule from `groups` on, where one of its groups begins. Writes whole units, with inputTiles whole blocks, filled
  /// up with zeros.
  void (*dequantize[2])(const std::byte* groups, int64_t inputs, uint16_t* target, float* scales) = {};
  /// sums[i] += toFixedPoint(values[i]), i < count, a multiple of 16; false when a value is out of range (sums are then
  /// undefined).
  bool (*addFixedPoint)(const float* values, int64_t* sums, int64_t count) = nullptr;
};

/// `isa` must be supported by this processor.
const ChainTileSet& chainTileSet(Isa isa);

const ChainTileSet& portableTileSet();
#ifdef HELS_X86
const ChainTileSet& avx2TileSet();
const ChainTileSet& avx512TileSet();
const ChainTileSet& avx512Bf16TileSet();
const ChainTileSet& amxTileSet();
#endif

}  // namespace hels
