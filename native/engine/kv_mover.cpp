#include "engine/kv_mover.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace hels {
namespace {

/// The next `bytes` of `buffer` after what is used.
std::span<std::byte> take(std::span<std::byte> buffer, size_t& used, int64_t bytes) {
  const size_t begin = used;
  used += static_cast<size_t>(bytes);
  require(used <= buffer.size(), ErrorCode::kInternal,
          "a move of KV needs more than the " + std::to_string(buffer.size()) + " bytes of its buffer");
  return buffer.subspan(begin, used - begin);
}

}  // namespace

/// The KV of one owner's heads, from a rank to another.
struct KvMover::Piece {
  int owner = 0;
  int from = 0;
  int to = 0;
};

void KvMover::run(const std::vector<KvMove>& moves) {
  for (const KvMove& move : moves) {
    moveOwn(move);
    if (!owners_.empty()) moveLent(move);
  }
}

/// Of ranks that lend nothing all addresses are their own.
void KvMover::moveOwn(const KvMove& move) {
  const int rank = store_.homes().rank;
  const bool lends = std::ranges::find(owners_, rank) != owners_.end();
  if (lends || store_.homes().headGroups.empty()) return;
  const KvStore::Place from = store_.at(rank, move.from);
  const KvStore::Place to = store_.at(rank, move.to);
  to.cache->copyBlock(*from.cache, from.block, to.block);
}

void KvMover::moveLent(const KvMove& move) {
  const int rank = store_.homes().rank;
  const std::vector<Piece> pieces = piecesOf(move);
  for (const Piece& piece : pieces) {
    if (piece.from != rank || piece.to != rank) continue;
    const KvStore::Place from = store_.at(piece.owner, move.from);
    const KvStore::Place to = store_.at(piece.owner, move.to);
    to.cache->copyBlock(*from.cache, from.block, to.block);
  }
  if (std::ranges::all_of(pieces, [](const Piece& piece) { return piece.from == piece.to; })) return;
  std::vector<ExchangePart> parts(static_cast<size_t>(store_.homes().ranks));
  const int64_t end = store_.layers();
  for (Range layers{0, 0}; layers.begin < end; layers.begin = layers.end) {
    layers.end = std::min(end, layers.begin + layersAtOnce_);
    pack(move, layers, pieces, parts);
    collective_.exchangeUntimed(parts);
    unpack(move, layers, pieces, parts);
  }
}

std::vector<KvMover::Piece> KvMover::piecesOf(const KvMove& move) const {
  std::vector<Piece> pieces;
  for (const int owner : owners_) {
    pieces.push_back({owner, store_.homes().placeOf(owner, move.from), store_.homes().placeOf(owner, move.to)});
  }
  return pieces;
}

/// Lays out what goes to and comes from each rank, by owner, and fills in what goes.
void KvMover::pack(const KvMove& move, Range layers, const std::vector<Piece>& pieces,
                   std::vector<ExchangePart>& parts) {
  const int rank = store_.homes().rank;
  size_t sent = 0;
  size_t received = 0;
  for (size_t peer = 0; peer < parts.size(); ++peer) {
    const size_t sendBegin = sent;
    const size_t receiveBegin = received;
    for (const Piece& piece : pieces) {
      if (piece.from == piece.to) continue;
      if (piece.to == rank && piece.from == static_cast<int>(peer)) {
        take(buffers_.receive, received, layers.size() * store_.layerBlockBytes(piece.owner));
      }
      if (piece.from != rank || piece.to != static_cast<int>(peer)) continue;
      const KvStore::Place from = store_.at(piece.owner, move.from);
      const KvShape& shape = from.cache->shape();
      for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
        const std::span<std::byte> target = take(buffers_.send, sent, shape.layerBlockBytes());
        from.cache->readLayer(layer, from.block, target.data());
      }
    }
    parts[peer] = {buffers_.send.subspan(sendBegin, sent - sendBegin),
                   buffers_.receive.subspan(receiveBegin, received - receiveBegin)};
  }
}

void KvMover::unpack(const KvMove& move, Range layers, const std::vector<Piece>& pieces,
                     const std::vector<ExchangePart>& parts) {
  for (size_t peer = 0; peer < parts.size(); ++peer) {
    const std::byte* source = parts[peer].receive.data();
    for (const Piece& piece : pieces) {
      const bool comes = piece.from != piece.to && piece.to == store_.homes().rank;
      if (!comes || piece.from != static_cast<int>(peer)) continue;
      const KvStore::Place to = store_.at(piece.owner, move.to);
      const KvShape& shape = to.cache->shape();
      for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
        to.cache->writeLayer(layer, to.block, source);
        source += shape.layerBlockBytes();
      }
    }
  }
}

}  // namespace hels
