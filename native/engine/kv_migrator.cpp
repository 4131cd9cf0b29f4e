#include "engine/kv_migrator.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/text.h"
#include "kernels/cpu/gemm.h"

namespace hels {
namespace {

void requireMigration(bool good, const std::string& message) { require(good, ErrorCode::kShapeInvalid, message); }

std::string textOf(const Range& range) { return rangeText(range.begin, range.end); }

Range common(const Range& a, const Range& b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

/// One range for each rank, and together all head groups, each once; empty ones may be anywhere.
void checkCover(const char* field, const std::vector<Range>& ranges, int ranks, int64_t headGroups) {
  requireMigration(ranges.size() == static_cast<size_t>(ranks),
                   std::string(field) + " has " + std::to_string(ranges.size()) + " entries; the group has " +
                       std::to_string(ranks) + " ranks");
  std::string all;
  std::vector<Range> sorted;
  for (const Range& range : ranges) {
    all += (all.empty() ? "" : ", ") + textOf(range);
    requireMigration(0 <= range.begin && range.begin <= range.end && range.end <= headGroups,
                     std::string(field) + " has " + textOf(range) + "; it must lie within " + rangeText(0, headGroups));
    if (!range.empty()) sorted.push_back(range);
  }
  std::ranges::sort(sorted, {}, &Range::begin);
  int64_t next = 0;
  bool adjacent = true;
  for (const Range& range : sorted) {
    adjacent = adjacent && range.begin == next;
    next = range.end;
  }
  requireMigration(adjacent && next == headGroups, std::string(field) + " is " + all + "; together they must be " +
                                                       rangeText(0, headGroups) + ", each head group once");
}

void checkBlocks(const std::vector<Range>& blocks, int64_t addresses) {
  int64_t next = 0;
  for (size_t index = 0; index < blocks.size(); ++index) {
    const Range& range = blocks[index];
    requireMigration(next <= range.begin && range.begin < range.end && range.end <= addresses,
                     "blocks[" + std::to_string(index) + "] is " + textOf(range) +
                         "; it must be a range, not empty, within " + rangeText(next, addresses));
    next = range.end;
  }
}

/// What an owner lent, ascending.
std::vector<Range> lentBy(const std::vector<KvLoan>& loans, int owner) {
  std::vector<Range> lent;
  for (const KvLoan& loan : loans) {
    if (loan.owner == owner) lent.push_back(loan.blocks);
  }
  std::ranges::sort(lent, {}, &Range::begin);
  return lent;
}

/// The parts of the plan before that this rank knows: what it lent, and what it held.
void checkPreviousLoans(const KvMigration& migration, const KvHomes& homes, const KvSource* kept) {
  for (size_t index = 0; index < migration.previousLoans.size(); ++index) {
    const auto& [owner, holder, blocks, groups] = migration.previousLoans[index];
    const std::string name = "previousLoans[" + std::to_string(index) + "]";
    const bool ranksExist = 0 <= owner && owner < homes.ranks && 0 <= holder && holder < homes.ranks;
    requireMigration(ranksExist && owner != holder && 0 <= blocks.begin && blocks.begin < blocks.end,
                     name + " is of rank " + std::to_string(owner) + " with rank " + std::to_string(holder) + ", " +
                         textOf(blocks) + "; it must be of two of " + std::to_string(homes.ranks) +
                         " ranks, and a range, not empty");
    requireMigration(groups == migration.previousHeadGroups[static_cast<size_t>(owner)],
                     name + ".headGroups is " + textOf(groups) + "; its owner had " +
                         textOf(migration.previousHeadGroups[static_cast<size_t>(owner)]));
    if (holder != homes.rank) continue;
    const auto holds = [&](const KvLoan& loan) { return loan.headGroups == groups && loan.blocks == blocks; };
    requireMigration(kept != nullptr && std::ranges::any_of(kept->homes.held(), holds),
                     name + " has KV of head groups " + textOf(groups) + " at " + textOf(blocks) +
                         " with this rank, which has not kept it");
  }
  const std::vector<Range> own = lentBy(migration.previousLoans, homes.rank);
  requireMigration(own.empty() || (kept != nullptr && own == lentBy(kept->homes.loans, kept->homes.rank)),
                   "previousLoans of rank " + std::to_string(homes.rank) + " are not what it lent");
}

/// One side of the moves: parked addresses of `homes`, each once.
void checkParked(const char* side, const std::vector<KvMove>& moves, int32_t KvMove::*address, const KvHomes& homes) {
  std::unordered_set<int32_t> named;
  for (size_t index = 0; index < moves.size(); ++index) {
    const int32_t value = moves[index].*address;
    requireMigration(homes.blocks <= value && value < homes.addresses() && named.insert(value).second,
                     "parked[" + std::to_string(index) + "]." + side + " is " + std::to_string(value) +
                         "; it must be a parked address, within " + rangeText(homes.blocks, homes.addresses()) +
                         ", and named once");
  }
}

/// Where memory stays, nothing may be written over before it is read: blocks are copied in any order.
void checkApart(const std::vector<KvMove>& moves, const KvHomes& before, const KvHomes& homes) {
  std::unordered_map<int64_t, size_t> sources;
  for (size_t index = 0; index < moves.size(); ++index) sources[moves[index].from - before.blocks] = index;
  for (size_t index = 0; index < moves.size(); ++index) {
    const auto source = sources.find(moves[index].to - homes.blocks);
    requireMigration(source == sources.end() || source->second == index,
                     "parked[" + std::to_string(index) + "].to is " + std::to_string(moves[index].to) +
                         ", as far behind the runnable addresses as what moves elsewhere; it must be as far as its own "
                         "source or as none");
  }
}

}  // namespace

void validateKvMigration(const KvMigration& migration, const KvHomes& homes, int64_t modelHeadGroups,
                         const KvSource* kept) {
  checkCover("previousHeadGroups", migration.previousHeadGroups, homes.ranks, modelHeadGroups);
  checkCover("headGroups", migration.headGroups, homes.ranks, modelHeadGroups);
  const auto rank = static_cast<size_t>(homes.rank);
  requireMigration(migration.headGroups[rank] == homes.headGroups, "headGroups[" + std::to_string(rank) + "] is " +
                                                                       textOf(migration.headGroups[rank]) +
                                                                       "; this rank has " + textOf(homes.headGroups));
  const Range& before = migration.previousHeadGroups[rank];
  requireMigration(before.empty() || (kept != nullptr && kept->homes.headGroups == before),
                   "previousHeadGroups[" + std::to_string(rank) + "] is " + textOf(before) + "; this rank kept KV of " +
                       (kept == nullptr ? "none" : textOf(kept->homes.headGroups)));
  checkPreviousLoans(migration, homes, kept);
  int64_t addresses = homes.blocks;
  if (!before.empty()) {
    const bool lentToo = !lentBy(migration.previousLoans, homes.rank).empty();
    addresses = std::min(addresses, lentToo ? kept->homes.blocks : kept->homes.localBlocks());
  }
  checkBlocks(migration.blocks, addresses);
  checkParked("to", migration.parked, &KvMove::to, homes);
  if (before.empty()) return;
  checkParked("from", migration.parked, &KvMove::from, kept->homes);
  checkApart(migration.parked, kept->homes, homes);
}

void requireNothingLent(const KvMigration& migration, const KvHomes& homes, const KvSource* kept) {
  requireMigration(migration.previousLoans.empty(), "previousLoans has " +
                                                        std::to_string(migration.previousLoans.size()) +
                                                        " entries; engines on GPUs move nothing that is lent");
  int64_t addresses = homes.headGroups.empty() ? homes.blocks : homes.localBlocks();
  if (kept != nullptr && !kept->homes.headGroups.empty()) addresses = std::min(addresses, kept->homes.localBlocks());
  for (const KvLoan& loan : homes.loans) addresses = std::min(addresses, loan.blocks.begin);
  checkBlocks(migration.blocks, addresses);
}

KvMigrator::KvMigrator(const KvMigration& migration, const KvSource* kept, KvPieces& target, const KvHomes& homes,
                       Collective& collective)
    : migration_(migration),
      kept_(kept),
      target_(target),
      collective_(collective),
      rank_(collective.rank()),
      pieceBytes_(2 * static_cast<size_t>(target.shape().blockBytes())) {
  before_.loans = migration.previousLoans;
  sortLoans(before_.loans);
  for (const Range& range : migration.blocks) {
    for (int64_t block = range.begin; block < range.end; ++block) blocks_.emplace_back(block, block);
  }
  for (const KvMove& move : migration.parked) blocks_.emplace_back(move.from, move.to);
  listTransfers(homes);
  planRounds();
}

void KvMigrator::listTransfers(const KvHomes& homes) {
  const auto ranks = static_cast<int>(migration_.headGroups.size());
  for (int from = 0; from < ranks; ++from) {
    for (int to = 0; to < ranks; ++to) transfers_.push_back({from, to, {}, 0});
  }
  for (int owner = 0; owner < ranks; ++owner) {
    for (int heir = 0; heir < ranks; ++heir) {
      const Range groups = common(migration_.previousHeadGroups[static_cast<size_t>(owner)],
                                  migration_.headGroups[static_cast<size_t>(heir)]);
      addBlocks(groups, owner, heir, homes);
    }
  }
  for (Transfer& transfer : transfers_) {
    if (transfer.from != transfer.to && transfer.pieces > 0) between_.push_back(&transfer);
  }
}

void KvMigrator::addBlocks(const Range& groups, int owner, int heir, const KvHomes& homes) {
  if (groups.empty()) return;
  std::vector<std::pair<Transfer*, Run>> runs;  // of one head group
  for (const auto& [from, to] : blocks_) {
    Transfer* const transfer = &transferOf(before_.placeOf(owner, from), homes.placeOf(heir, to));
    const bool goesOn = !runs.empty() && runs.back().first == transfer &&
                        runs.back().second.from + runs.back().second.count == from &&
                        runs.back().second.to + runs.back().second.count == to;
    if (!goesOn) runs.push_back({transfer, {0, from, to, 0, 0}});
    runs.back().second.count += 1;
  }
  for (int64_t group = groups.begin; group < groups.end; ++group) {
    for (const auto& [transfer, run] : runs) {
      transfer->runs.push_back({group, run.from, run.to, run.count, transfer->pieces});
      transfer->pieces += run.count;
    }
  }
}

/// All ranks cut the transfers alike: as many pieces at once as the busiest rank has room for.
void KvMigrator::planRounds() {
  std::vector<int64_t> sends(migration_.headGroups.size());
  std::vector<int64_t> receives(sends.size());
  int64_t busiest = 1;
  for (const Transfer* transfer : between_) {
    busiest = std::max(busiest, ++sends[static_cast<size_t>(transfer->from)]);
    busiest = std::max(busiest, ++receives[static_cast<size_t>(transfer->to)]);
  }
  piecesAtOnce_ = std::max<int64_t>(1, static_cast<int64_t>(kMigrationStagingBytes / pieceBytes_) / busiest);
  size_t sent = 0;
  size_t received = 0;
  for (const Transfer* transfer : between_) {
    rounds_ = std::max(rounds_, divCeil(transfer->pieces, piecesAtOnce_));
    const auto pieces = static_cast<size_t>(piecesOfRound(*transfer, 0).size());
    if (transfer->from == rank_) sent += pieces * pieceBytes_;
    if (transfer->to == rank_) received += pieces * pieceBytes_;
  }
  send_ = target_.buffer(sent);
  receive_ = target_.buffer(received);
}

Range KvMigrator::piecesOfRound(const Transfer& transfer, int64_t round) const {
  return {std::min(transfer.pieces, round * piecesAtOnce_), std::min(transfer.pieces, (round + 1) * piecesAtOnce_)};
}

template <typename Body>
void KvMigrator::eachRun(const Transfer& transfer, const Range& pieces, const Body& body) const {
  if (pieces.empty()) return;
  auto run = std::ranges::upper_bound(transfer.runs, pieces.begin, {}, &Run::piecesBefore) - 1;
  for (; run != transfer.runs.end() && run->piecesBefore < pieces.end; ++run) {
    const int64_t skipped = std::max<int64_t>(0, pieces.begin - run->piecesBefore);
    const int64_t end = std::min(run->count, pieces.end - run->piecesBefore);
    body(Run{run->group, run->from + skipped, run->to + skipped, end - skipped, run->piecesBefore + skipped});
  }
}

KvMigrationResult KvMigrator::run() {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t layer = 0; layer < target_.shape().layers; ++layer) {
    moveWithin(layer);
    for (int64_t round = 0; round < rounds_; ++round) moveBetween(layer, round);
    if (kept_ != nullptr) kept_->pieces->discardLayer(layer);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return {seconds.count(), bytesReceived_};
}

void KvMigrator::moveWithin(int64_t layer) {
  const Transfer& transfer = transferOf(rank_, rank_);
  eachRun(transfer, {0, transfer.pieces}, [&](const Run& run) {
    target_.copy(layer, run.group, {run.to, run.to + run.count}, *kept_->pieces, run.from);
  });
  target_.finish();
}

void KvMigrator::moveBetween(int64_t layer, int64_t round) {
  std::vector<ExchangePart> parts(migration_.headGroups.size());
  std::byte* sent = send_.get();
  std::byte* received = receive_.get();
  for (const Transfer* transfer : between_) {
    const Range pieces = piecesOfRound(*transfer, round);
    const size_t bytes = static_cast<size_t>(pieces.size()) * pieceBytes_;
    if (transfer->from == rank_) {
      parts[static_cast<size_t>(transfer->to)].send = {sent, bytes};
      eachRun(*transfer, pieces, [&](const Run& run) {
        kept_->pieces->read(layer, run.group, {run.from, run.from + run.count}, sent);
        sent += static_cast<size_t>(run.count) * pieceBytes_;
      });
    }
    if (transfer->to == rank_) {
      parts[static_cast<size_t>(transfer->from)].receive = {received, bytes};
      received += bytes;
    }
  }
  if (kept_ != nullptr) kept_->pieces->finish();
  collective_.exchangeUntimed(parts);
  for (const Transfer* transfer : between_) {
    if (transfer->to != rank_) continue;
    const Range pieces = piecesOfRound(*transfer, round);
    const std::byte* source = parts[static_cast<size_t>(transfer->from)].receive.data();
    eachRun(*transfer, pieces, [&](const Run& run) {
      target_.write(layer, run.group, {run.to, run.to + run.count}, source);
      source += static_cast<size_t>(run.count) * pieceBytes_;
    });
    bytesReceived_ += static_cast<uint64_t>(pieces.size()) * pieceBytes_;
  }
  target_.finish();
}

}  // namespace hels
