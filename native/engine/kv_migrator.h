// Brings KV from where it lies in one plan, with the owner of its heads or the holder of a loan, to where it lies in
// the next, layer by layer, so that never more than one layer lies there twice. Every rank knows from the migration and
// the next plan's loans what goes where.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "engine/collective.h"
#include "engine/engine.h"
#include "kv/kv_pieces.h"

namespace hels {

/// KV of the engine before this one, of the head groups that it had and of those that it held for others.
struct KvSource {
  KvPieces* pieces = nullptr;
  KvHomes homes;
};

/// Buffers of an exchange, on each rank: this much to send and as much to receive, or a piece for each peer.
inline constexpr size_t kMigrationStagingBytes = size_t{2} << 20;

/// Checks a migration to `homes` on a rank that kept `kept` (null: nothing). Throws kShapeInvalid naming the field, its
/// value and what is allowed.
void validateKvMigration(const KvMigration& migration, const KvHomes& homes, int64_t modelHeadGroups,
                         const KvSource* kept);

/// Of an engine that does not move what is lent, beside that. Throws the same.
void requireNothingLent(const KvMigration& migration, const KvHomes& homes, const KvSource* kept);

class KvMigrator {
 public:
  /// `migration` is checked; `kept` may be null. `homes`: now.
  KvMigrator(const KvMigration& migration, const KvSource* kept, KvPieces& target, const KvHomes& homes,
             Collective& collective);

  /// Once. What `kept` discards of its memory goes as the layers move. Throws what an exchange throws.
  KvMigrationResult run();

 private:
  /// Pieces of consecutive blocks of one head group in one layer, from addresses of the plan before to such of the
  /// next.
  struct Run {
    int64_t group = 0;
    int64_t from = 0;
    int64_t to = 0;
    int64_t count = 0;
    int64_t piecesBefore = 0;  // of the transfer
  };
  /// What goes from a rank to a rank.
  struct Transfer {
    int from = 0;
    int to = 0;
    std::vector<Run> runs;
    int64_t pieces = 0;
  };

  void listTransfers(const KvHomes& homes);
  /// Adds the blocks of head groups that `owner` had before and `heir` has now.
  void addBlocks(const Range& groups, int owner, int heir, const KvHomes& homes);
  Transfer& transferOf(int from, int to) {
    return transfers_[static_cast<size_t>(from) * migration_.headGroups.size() + static_cast<size_t>(to)];
  }
  void planRounds();
  /// Calls body(run) for the runs, cut where they must be, that together are `pieces` of the transfer.
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
  KvHomes before_;                                   // of the plan before: its loans
  std::vector<std::pair<int64_t, int64_t>> blocks_;  // from, to
  std::vector<Transfer> transfers_;                  // of all ranks: (sender, receiver)
  std::vector<Transfer*> between_;                   // of those the ones that send something to another rank
  int64_t piecesAtOnce_ = 1;                         // of each of these in a round
  int64_t rounds_ = 0;                               // of a layer
  std::shared_ptr<std::byte> send_;
  std::shared_ptr<std::byte> receive_;
  uint64_t bytesReceived_ = 0;
};

}  // namespace hels
