// Where tiles of KV lie, and the order in which attention reads them, so that they can be asked for before it does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"

namespace hels {

inline constexpr int64_t kAttentionChunkTokens = 64;
/// Positions of one tile: the granularity of the cache's layout; blocks are multiples of it.
inline constexpr int64_t kAttentionTileTokens = 16;
inline constexpr int64_t kAttentionTiles = kAttentionChunkTokens / kAttentionTileTokens;

/// KV of one sequence, layer and head group. Keys of a block: (blockTokens / 16, headDim, 16); values: (blockTokens,
/// headDim).
struct KvBlocks {
  DataType type = DataType::kF32;
  const std::byte* keys = nullptr;    // of block 0
  const std::byte* values = nullptr;  // of block 0
  int64_t blockStrideBytes = 0;
  int64_t blockTokens = 0;
  const int32_t* blockTable = nullptr;
  int64_t firstBlock = 0;  // which block of the sequence blockTable[0] is
};

/// Tiles [begin, end) of a sequence, tile t being positions [16 t, 16 t + 16).
struct TileRange {
  int64_t begin = 0;
  int64_t end = 0;
};

/// From kv.keys or kv.values to a tile.
inline int64_t tileOffsetBytes(const KvBlocks& kv, int64_t headDim, int64_t tile) {
  const int64_t position = tile * kAttentionTileTokens;
  const int64_t block = kv.blockTable[position / kv.blockTokens - kv.firstBlock];
  return block * kv.blockStrideBytes + position % kv.blockTokens * headDim * static_cast<int64_t>(bytesOf(kv.type));
}

/// The tiles of a range in the order in which attention reads them: of each chunk the keys, then the values.
class KvWalk {
 public:
  /// Nothing.
  KvWalk() = default;
  KvWalk(const KvBlocks& kv, int64_t headDim, TileRange tiles)
      : kv_(kv), headDim_(headDim), tiles_(tiles), chunkBegin_(tiles.begin) {}

  bool done() const { return tiles_.begin >= tiles_.end; }

  const std::byte* next() {
    const std::byte* tile = (atValues_ ? kv_.values : kv_.keys) + tileOffsetBytes(kv_, headDim_, tiles_.begin);
    const bool chunkEnds = ++tiles_.begin == tiles_.end || tiles_.begin % kAttentionTiles == 0;
    if (chunkEnds) {
      if (atValues_) chunkBegin_ = tiles_.begin;
      tiles_.begin = chunkBegin_;
      atValues_ = !atValues_;
    }
    return tile;
  }

 private:
  KvBlocks kv_;
  int64_t headDim_ = 0;
  TileRange tiles_;  // left to read
  int64_t chunkBegin_ = 0;
  bool atValues_ = false;
};

}  // namespace hels
