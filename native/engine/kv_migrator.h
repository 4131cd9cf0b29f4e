// Brings the KV of one plan's heads to the ranks that own them in the next plan, layer by layer, so that never more
// than one layer lies there twice. Every rank knows from the migration alone what goes where.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "engine/collective.h"
#include "engine/engine.h"
#include "kv/kv_pieces.h"

namespace hels {

/// KV of the engine before this one, of the head groups that it had.
struct KvSource {
  KvPieces* pieces = nullptr;
  KvHomes homes;
};

/// Buffers of an exchange, on each rank, when no single block is larger: this much to send and as much to receive.
inline constexpr size_t kMigrationStagingBytes = size_t{2} << 20;

/// Checks a migration to `homes` on a rank that kept `kept` (null: nothing). Throws kShapeInvalid naming the field, its
/// value and what is allowed.
void validateKvMigration(const KvMigration& migration, const KvHomes& homes, int64_t modelHeadGroups,
                         const KvSource* kept);

class KvMigrator {
 public:
  /// `migration` is checked; `kept` may be null.
  KvMigrator(const KvMigration& migration, const KvSource* kept, KvPieces& target, Collective& collective);

  /// Once. What `kept` discards of its memory goes as the layers move. Throws what an exchange throws.
  KvMigrationResult run();

 private:
  /// Head groups whose KV goes from a rank to a rank.
  struct Transfer {
    int from = 0;
    int to = 0;
    Range groups;
  };
  /// Pieces of a transfer in one layer: (groups, blocks), a head group of a block each, from an address of the plan
  /// before to one of the next.
  struct Piece {
    int64_t group = 0;
    int64_t from = 0;
    int64_t to = 0;
  };

  void listTransfers();
  void planRounds();
  int64_t piecesOf(const Transfer& transfer) const;
  Piece pieceAt(const Transfer& transfer, int64_t index) const;
  /// Calls body(first, count) for runs of pieces of consecutive blocks that together are `pieces` of the transfer.
  template <typename Body>
  void eachRun(const Transfer& transfer, const Range& pieces, const Body& body) const;
  void moveWithin(int64_t layer);
  void moveBetween(int64_t layer, int64_t round);
  /// The pieces [first, end) of a transfer in a round.
  Range piecesOfRound(const Transfer& transfer, int64_t round) const;

  const KvMigration& migration_;
  const KvSource* const kept_;
  KvPieces& target_;
  Collective& collective_;
  const int rank_;
  const size_t pieceBytes_;
  std::vector<std::pair<int64_t, int64_t>> blocks_;  // from, to
  std::vector<Transfer> within_;                     // on this rank
  std::vector<Transfer> between_;                    // of all ranks, by sender, then receiver
  int64_t piecesAtOnce_ = 1;                         // of each transfer in a round
  int64_t rounds_ = 0;                               // of a layer
  std::shared_ptr<std::byte> send_;
  std::shared_ptr<std::byte> receive_;
  uint64_t bytesReceived_ = 0;
};

}  // namespace hels
