#include "kv/kv_pieces.h"

#include <vector>

namespace hels {

void KvStorePieces::read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) {
  for (int64_t block = blocks.begin; block < blocks.end; ++block, target += 2 * shape().blockBytes()) {
    const KvStore::Place place = at(block);
    place.cache->readGroup(layer, group, place.block, target);
  }
}

void KvStorePieces::write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) {
  for (int64_t block = blocks.begin; block < blocks.end; ++block, source += 2 * shape().blockBytes()) {
    const KvStore::Place place = at(block);
    place.cache->writeGroup(layer, group, place.block, source);
  }
}

void KvStorePieces::copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceGroup,
                         int64_t sourceBlock) {
  std::vector<std::byte> piece(2 * static_cast<size_t>(shape().blockBytes()));
  for (int64_t block = blocks.begin; block < blocks.end; ++block, ++sourceBlock) {
    const KvStore::Place to = at(block);
    const KvStore::Place from = static_cast<KvStorePieces&>(source).at(sourceBlock);
    if (from.cache->data() == to.cache->data() && from.block == to.block) continue;
    source.read(layer, sourceGroup, {sourceBlock, sourceBlock + 1}, piece.data());
    to.cache->writeGroup(layer, group, to.block, piece.data());
  }
}

void KvStorePieces::discardLayer(int64_t layer) {
  if (heir_ == nullptr || heir_->device().data() != store_.device().data()) store_.device().discardLayer(layer);
  if (heir_ == nullptr || heir_->host().data() != store_.host().data()) store_.host().discardLayer(layer);
}

std::shared_ptr<std::byte> KvStorePieces::buffer(size_t sizeBytes) const {
  return {new std::byte[sizeBytes], std::default_delete<std::byte[]>()};
}

}  // namespace hels
