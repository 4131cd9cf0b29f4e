// The processor's tiles (AMX) as the chain kernels use them. Include only where HELS_X86 is defined.
#pragma once

#include <cstdint>

#include "kernels/cpu/chain_tile.h"

namespace hels::amx {

inline constexpr int64_t kTileRows = kInputTileRows;
inline constexpr int64_t kLineBytes = 64;                      // of a tile: a block of a row's inputs, or 16 columns
inline constexpr int64_t kTileBytes = kTileRows * kLineBytes;  // a block of a panel

// Tiles 0 to 3 hold chains, 4 and 5 inputs, 6 and 7 weights. The compiler knows no tile registers: what it must know is
// that memory is read and written.
template <int tile>
inline void loadTile(const void* source, int64_t strideBytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(source), "r"(strideBytes), "i"(tile) : "memory");
}
template <int tile>
inline void storeTile(void* target, int64_t strideBytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(target), "r"(strideBytes), "i"(tile) : "memory");
}
template <int tile>
inline void clearTile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}
/// sums += inputs * weights.
template <int sums, int inputs, int weights>
inline void multiplyTiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(inputs), "i"(weights));
}

/// As the processor reads it.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1;
  uint8_t startRow = 0;
  uint8_t reserved[14] = {};
  uint16_t lineBytes[16] = {};
  uint8_t rows[16] = {};
};

/// Rows of this thread's tiles: of chains and inputs in tiles 0, 1 and 4, and in 2, 3 and 5. None outside of
/// ChainTileSet::begin() and end().
struct TileShapes {
  int64_t first = 0;
  int64_t second = 0;
};
inline constinit thread_local TileShapes currentShapes;

inline void setShapes(int64_t first, int64_t second) {
  if (currentShapes.first == first && currentShapes.second == second) return;
  currentShapes = {first, second};
  TileConfiguration configuration;
  const int64_t rows[8] = {first, first, second, second, first, second, kTileRows, kTileRows};
  for (int tile = 0; tile < 8; ++tile) {
    configuration.rows[tile] = static_cast<uint8_t>(rows[tile]);
    configuration.lineBytes[tile] = kLineBytes;
  }
  asm volatile("ldtilecfg %0" ::"m"(configuration) : "memory");
}

/// Adds the kernels for few rows with quantised weights.
void addFewRowsKernels(ChainTileSet& set);

}  // namespace hels::amx
