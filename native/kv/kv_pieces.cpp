#include "kv/kv_pieces.h"

#include <vector>

namespace hels {

void KvCachePieces::read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) {
  for (int64_t block = blocks.begin; block < blocks.end; ++block, target += 2 * shape().blockBytes()) {
    cache_.readGroup(layer, group, block, target);
  }
}

void KvCachePieces::write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) {
  for (int64_t block = blocks.begin; block < blocks.end; ++block, source += 2 * shape().blockBytes()) {
    cache_.writeGroup(layer, group, block, source);
  }
}

void KvCachePieces::copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceGroup) {
  std::vector<std::byte> piece(2 * static_cast<size_t>(shape().blockBytes()));
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    source.read(layer, sourceGroup, {block, block + 1}, piece.data());
    cache_.writeGroup(layer, group, block, piece.data());
  }
}

std::shared_ptr<std::byte> KvCachePieces::buffer(size_t sizeBytes) const {
  return {new std::byte[sizeBytes], std::default_delete<std::byte[]>()};
}

}  // namespace hels
