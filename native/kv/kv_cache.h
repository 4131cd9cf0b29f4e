// KV of some head groups in one region of memory, in blocks of kvBlockTokens positions. A block id names the same
// positions in every layer and head group. Layout: keys and values each [layer][head group][block]; a block's keys are
// (blockTokens / 16, headDim, 16) and its values (blockTokens, headDim), as attention reads them. Elements have the
// weights' type.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"
#include "kernels/cpu/attention.h"
#include "shard/shard_spec.h"

namespace hels {

struct KvShape {
  DataType type = DataType::kF32;
  int64_t layers = 0;
  int64_t headGroups = 0;
  int64_t headDim = 0;
  int64_t blockTokens = 16;
  int64_t blocks = 0;

  int64_t blockBytes() const { return blockTokens * headDim * static_cast<int64_t>(bytesOf(type)); }
  /// Keys and values of one layer's head groups at one block.
  int64_t layerBlockBytes() const { return 2 * headGroups * blockBytes(); }
  /// Keys and values of all layers and head groups.
  size_t sizeBytes() const { return static_cast<size_t>(2 * layers * headGroups * blocks * blockBytes()); }
};

/// Far above every useful size, and low enough that no size of one block overflows.
inline constexpr int64_t kKvBlockTokensMax = 4096;
/// Throws kShapeInvalid unless blockTokens is a multiple of 16 that divides 64 or is a multiple of it, and not above
/// kKvBlockTokensMax.
void validateKvBlockTokens(int64_t blockTokens);

class KvCache {
 public:
  KvCache() = default;
  /// `data` has shape.sizeBytes() bytes, zeroed, and outlives the cache.
  KvCache(const KvShape& shape, std::byte* data) : shape_(shape), data_(data) {}

  const KvShape& shape() const { return shape_; }
  /// The region's first byte.
  const std::byte* data() const { return data_; }
  /// Stores key(headDim) and value(headDim) of one position, rounded to the cache's type.
  void store(int64_t layer, int64_t group, int32_t block, int64_t offset, const float* key, const float* value);
  /// For attend(); blockTable is kept by reference.
  KvBlocks blocks(int64_t layer, int64_t group, const int32_t* blockTable) const;

  /// One layer of a block as it is sent: (head groups, keys then values), layerBlockBytes() in all.
  void readLayer(int64_t layer, int64_t block, std::byte* target) const;
  void writeLayer(int64_t layer, int64_t block, const std::byte* source);
  /// One head group of that: keys then values, 2 * shape().blockBytes().
  void readGroup(int64_t layer, int64_t group, int64_t block, std::byte* target) const;
  void writeGroup(int64_t layer, int64_t group, int64_t block, const std::byte* source);
  /// Copies a block of all layers from a cache of the same layers, head groups and block size.
  void copyBlock(const KvCache& source, int64_t from, int64_t to);

  /// Gives the memory of a layer back to the system, but for pages that it shares with its neighbours. What lay there
  /// is lost.
  void discardLayer(int64_t layer);
  /// The same of blocks of all layers; of none where `blocks` ends before it begins.
  void discardBlocks(const Range& blocks);

 private:
  std::byte* keys(int64_t layer, int64_t group) const;
  std::byte* values(int64_t layer, int64_t group) const;

  KvShape shape_;
  std::byte* data_ = nullptr;
};

}  // namespace hels
