// Moves KV between addresses: within this rank, or, where one of the addresses is lent, between ranks. Every rank knows
// from the moves alone what goes where.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/collective.h"
#include "kv/kv_store.h"

namespace hels {

/// Room for what one exchange sends and receives on this rank.
struct ExchangeBuffers {
  std::span<std::byte> send;
  std::span<std::byte> receive;
};

/// What one move may send or receive on this rank.
size_t moveBytesMax(const KvHomes& homes, const KvShape& shape);

class KvMover {
 public:
  /// Both buffers hold moveBytesMax().
  KvMover(KvStore& store, const ExchangeBuffers& buffers, Collective& collective)
      : store_(store), buffers_(buffers), collective_(collective), owners_(store.homes().owners()) {}

  /// Outside what the clock measures as compute. Throws what an exchange throws.
  void run(const std::vector<KvMove>& moves);

 private:
  struct Piece;

  void moveOwn(const KvMove& move);
  void moveLent(const KvMove& move);
  std::vector<Piece> piecesOf(const KvMove& move) const;
  void pack(const KvMove& move, const std::vector<Piece>& pieces, std::vector<ExchangePart>& parts);
  void unpack(const KvMove& move, const std::vector<Piece>& pieces, const std::vector<ExchangePart>& parts);

  KvStore& store_;
  const ExchangeBuffers buffers_;
  Collective& collective_;
  const std::vector<int> owners_;
};

}  // namespace hels
