// Brings the KV of one plan's heads to the ranks that own them in the next plan, layer by layer, so that never more
// than one layer lies there twice. Every rank knows from the migration alone what goes where.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "engine/collective.h"
#include "engine/engine.h"
#include "kv/kv_pieces.h"

namespace hels {

/// KV of the engine before this one, of the head groups that it had.
struct KvSource {
  KvPieces* pieces = nullptr;
  KvHomes homes;
  bool inPlace = false;  // it has the memory of what it is migrated to, and the same shape
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

  /// Once. Memory of `kept` that `target` does not use is discarded as the layers move. Throws what an exchange throws.
  KvMigrationResult run();

 private:
  /// Head groups whose KV goes from a rank to a rank.
  struct Transfer {
    int from = 0;
    int to = 0;
    Range groups;
  };
  /// Pieces of a transfer in one layer: (groups, addresses), a head group of a block each.
  struct Piece {
    int64_t group = 0;
    int32_t address = 0;
  };

  void listTransfers();
  void planRounds();
  int64_t piecesOf(const Transfer& transfer) const;
  Piece pieceAt(const Transfer& transfer, int64_t index) const;
  /// Calls body(group, blocks) for runs of pieces of consecutive blocks that together are `pieces` of the transfer.
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
  std::vector<int32_t> addresses_;
  std::vector<Transfer> within_;   // on this rank
  std::vector<Transfer> between_;  // of all ranks, by sender, then receiver
  int64_t piecesAtOnce_ = 1;       // of each transfer in a round
  int64_t rounds_ = 0;             // of a layer
  std::shared_ptr<std::byte> send_;
  std::shared_ptr<std::byte> receive_;
  uint64_t bytesReceived_ = 0;
};

}  // namespace hels
