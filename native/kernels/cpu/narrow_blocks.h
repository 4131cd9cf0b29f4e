// Rows of inputs in bf16 blocks, as the kernels for pairs read them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/chain_tile.h"

namespace hels {

/// ChainTileSet::narrowBlocks by narrowBlock(source(32), upper terms(32), lower terms(32) or null).
template <typename NarrowBlock>
void narrowInBlocks(const float* source, int64_t count, int terms, uint16_t* target, int64_t stride,
                    const NarrowBlock& narrowBlock) {
  for (; count > 0; count -= kBlockInputs, source += kBlockInputs, target += terms * stride) {
    uint16_t* lower = terms == 1 ? nullptr : target + stride;
    if (count >= kBlockInputs) {
      narrowBlock(source, target, lower);
      continue;
    }
    float last[kBlockInputs] = {};
    std::copy_n(source, count, last);
    narrowBlock(last, target, lower);
  }
}

/// The same in the order kNeighbours, by ChainTileSet::narrow.
template <typename Narrow>
void narrowNeighbours(const float* source, int64_t count, int terms, uint16_t* target, int64_t stride,
                      const Narrow& narrow) {
  narrowInBlocks(source, count, terms, target, stride, [&](const float* values, uint16_t* upper, uint16_t* lower) {
    narrow(values, upper, kBlockInputs);
    if (lower == nullptr) return;
    float rest[kBlockInputs];
    for (int64_t i = 0; i < kBlockInputs; ++i) rest[i] = values[i] - bf16ToF32(upper[i]);
    narrow(rest, lower, kBlockInputs);
  });
}

}  // namespace hels
