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

class KvMover {
 public:
  /// A block that goes to another rank goes by `layersAtOnce`, on all ranks alike: so much of all heads fits each
  /// buffer.
  KvMover(KvStore& store, const ExchangeBuffers& buffers, int64_t layersAtOnce, Collective& collective)
      : store_(store),
        buffers_(buffers),
        layersAtOnce_(layersAtOnce),
        collective_(collective),
        owners_(store.homes().owners()) {}

  /// Outside what the clock measures as compute. Throws what an exchange throws.
  void run(const std::vector<KvMove>& moves);

 private:
  struct Piece;

  void moveOwn(const KvMove& move);
  void moveLent(const KvMove& move);
  std::vector<Piece> piecesOf(const KvMove& move) const;
  void pack(const KvMove& move, Range layers, const std::vector<Piece>& pieces, std::vector<ExchangePart>& parts);
  void unpack(const KvMove& move, Range layers, const std::vector<Piece>& pieces,
              const std::vector<ExchangePart>& parts);

  KvStore& store_;
  const ExchangeBuffers buffers_;
  const int64_t layersAtOnce_;
  Collective& collective_;
  const std::vector<int> owners_;
};

}  // namespace hels
