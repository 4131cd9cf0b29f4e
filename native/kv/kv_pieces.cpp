#include "kv/kv_pieces.h"

#include <vector>

namespace hels {

void KvStorePieces::read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) {
  for (int64_t block = blocks.begin; block < blocks.end; ++block, target += 2 * shape().blockBytes()) {
    const KvStore::GroupPlace place = store_.groupAt(group, block);
    place.cache->readGroup(layer, place.group, place.block, target);
  }
}

void KvStorePieces::write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) {
  for (int64_t block = blocks.begin; block < blocks.end; ++block, source += 2 * shape().blockBytes()) {
    const KvStore::GroupPlace place = store_.groupAt(group, block);
    place.cache->writeGroup(layer, place.group, place.block, source);
  }
}

void KvStorePieces::copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceBlock) {
  std::vector<std::byte> piece(2 * static_cast<size_t>(shape().blockBytes()));
  KvStore& before = static_cast<KvStorePieces&>(source).store_;
  for (int64_t block = blocks.begin; block < blocks.end; ++block, ++sourceBlock) {
    const KvStore::GroupPlace to = store_.groupAt(group, block);
    const KvStore::GroupPlace from = before.groupAt(group, sourceBlock);
    if (from.cache->data() == to.cache->data() && from.block == to.block) continue;
    from.cache->readGroup(layer, from.group, from.block, piece.data());
    to.cache->writeGroup(layer, to.group, to.block, piece.data());
  }
}

std::shared_ptr<std::byte> KvStorePieces::buffer(size_t sizeBytes) const {
  return {new std::byte[sizeBytes], std::default_delete<std::byte[]>()};
}

}  // namespace hels
