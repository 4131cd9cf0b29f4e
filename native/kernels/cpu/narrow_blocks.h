// Rows of inputs in bf16 blocks, as the kernels for pairs read them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/chain_tile.h"

namespace hels {

/// ChainTileSet::narrowBlocks by narrowBlock(source(32), terms, target(terms, 32)).
template <typename NarrowBlock>
void narrowInBlocks(const float* source, int64_t count, int terms, uint16_t* target, const NarrowBlock& narrowBlock) {
  for (; count >= kBlockInputs; count -= kBlockInputs, source += kBlockInputs, target += terms * kBlockInputs) {
    narrowBlock(source, terms, target);
  }
  if (count == 0) return;
  float last[kBlockInputs] = {};
  std::copy_n(source, count, last);
  narrowBlock(last, terms, target);
}

/// The same in the order kNeighbours, by ChainTileSet::narrow.
template <typename Narrow>
void narrowNeighbours(const float* source, int64_t count, int terms, uint16_t* target, const Narrow& narrow) {
  narrowInBlocks(source, count, terms, target, [&](const float* values, int termCount, uint16_t* block) {
    narrow(values, block, kBlockInputs);
    if (termCount == 1) return;
    float rest[kBlockInputs];
    for (int64_t i = 0; i < kBlockInputs; ++i) rest[i] = values[i] - bf16ToF32(block[i]);
    narrow(rest, block + kBlockInputs, kBlockInputs);
  });
}

}  // namespace hels
