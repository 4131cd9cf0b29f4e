#include "kv/kv_cache.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/pages.h"

namespace hels {
namespace {

template <typename Element, typename Narrow>
void storeTyped(std::byte* keyBlock, std::byte* valueBlock, int64_t headDim, int64_t offset, const float* key,
                const float* value, const Narrow& narrow) {
  Element* keys = reinterpret_cast<Element*>(keyBlock) +
                  offset / kAttentionTileTokens * headDim * kAttentionTileTokens + offset % kAttentionTileTokens;
  Element* values = reinterpret_cast<Element*>(valueBlock) + offset * headDim;
  for (int64_t d = 0; d < headDim; ++d) {
    keys[d * kAttentionTileTokens] = narrow(key[d]);
    values[d] = narrow(value[d]);
  }
}

}  // namespace

void validateKvBlockTokens(int64_t blockTokens) {
  const bool good = blockTokens > 0 && blockTokens <= kKvBlockTokensMax && blockTokens % kAttentionTileTokens == 0 &&
                    (kAttentionChunkTokens % blockTokens == 0 || blockTokens % kAttentionChunkTokens == 0);
  require(good, ErrorCode::kShapeInvalid,
          "kvBlockTokens is " + std::to_string(blockTokens) + "; allowed are 16, 32 and multiples of 64 up to " +
              std::to_string(kKvBlockTokensMax));
}

std::byte* KvCache::keys(int64_t layer, int64_t group) const {
  return data_ + (layer * shape_.headGroups + group) * shape_.blocks * shape_.blockBytes();
}

std::byte* KvCache::values(int64_t layer, int64_t group) const {
  return keys(shape_.layers, 0) + (layer * shape_.headGroups + group) * shape_.blocks * shape_.blockBytes();
}

void KvCache::store(int64_t layer, int64_t group, int32_t block, int64_t offset, const float* key, const float* value) {
  std::byte* keyBlock = keys(layer, group) + block * shape_.blockBytes();
  std::byte* valueBlock = values(layer, group) + block * shape_.blockBytes();
  switch (shape_.type) {
    case DataType::kF32:
      return storeTyped<float>(keyBlock, valueBlock, shape_.headDim, offset, key, value, [](float x) { return x; });
    case DataType::kBf16:
      return storeTyped<uint16_t>(keyBlock, valueBlock, shape_.headDim, offset, key, value, f32ToBf16);
    case DataType::kF16:
      return storeTyped<uint16_t>(keyBlock, valueBlock, shape_.headDim, offset, key, value, f32ToF16);
  }
}

void KvCache::readLayer(int64_t layer, int64_t block, std::byte* target) const {
  for (int64_t group = 0; group < shape_.headGroups; ++group, target += 2 * shape_.blockBytes()) {
    readGroup(layer, group, block, target);
  }
}

void KvCache::writeLayer(int64_t layer, int64_t block, const std::byte* source) {
  for (int64_t group = 0; group < shape_.headGroups; ++group, source += 2 * shape_.blockBytes()) {
    writeGroup(layer, group, block, source);
  }
}

void KvCache::readGroup(int64_t layer, int64_t group, int64_t block, std::byte* target) const {
  const int64_t bytes = shape_.blockBytes();
  std::copy_n(keys(layer, group) + block * bytes, bytes, target);
  std::copy_n(values(layer, group) + block * bytes, bytes, target + bytes);
}

void KvCache::writeGroup(int64_t layer, int64_t group, int64_t block, const std::byte* source) {
  const int64_t bytes = shape_.blockBytes();
  std::copy_n(source, bytes, keys(layer, group) + block * bytes);
  std::copy_n(source + bytes, bytes, values(layer, group) + block * bytes);
}

void KvCache::copyBlock(const KvCache& source, int64_t from, int64_t to) {
  const int64_t bytes = shape_.blockBytes();
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    for (int64_t group = 0; group < shape_.headGroups; ++group) {
      std::copy_n(source.keys(layer, group) + from * bytes, bytes, keys(layer, group) + to * bytes);
      std::copy_n(source.values(layer, group) + from * bytes, bytes, values(layer, group) + to * bytes);
    }
  }
}

void KvCache::discardLayer(int64_t layer) {
  const auto bytes = static_cast<size_t>(shape_.headGroups * shape_.blocks * shape_.blockBytes());
  returnPages(keys(layer, 0), bytes);
  returnPages(values(layer, 0), bytes);
}

void KvCache::discardBlocks(const Range& blocks) {
  if (blocks.begin >= blocks.end) return;
  const int64_t offset = blocks.begin * shape_.blockBytes();
  const auto bytes = static_cast<size_t>(blocks.size() * shape_.blockBytes());
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    for (int64_t group = 0; group < shape_.headGroups; ++group) {
      returnPages(keys(layer, group) + offset, bytes);
      returnPages(values(layer, group) + offset, bytes);
    }
  }
}

KvBlocks KvCache::blocks(int64_t layer, int64_t group, const int32_t* blockTable) const {
  return {shape_.type, keys(layer, group), values(layer, group), shape_.blockBytes(), shape_.blockTokens, blockTable};
}

}  // namespace hels
