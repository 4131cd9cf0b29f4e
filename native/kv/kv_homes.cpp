#include "kv/kv_homes.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "kernels/cpu/attention.h"

namespace hels {
namespace {

constexpr int64_t kAddressesMax = int64_t{1} << 31;
constexpr size_t kLoansMax = 65536;

void requireKv(bool good, const std::string& message) { require(good, ErrorCode::kShapeInvalid, message); }

void requireRange(const std::string& field, int64_t value, int64_t low, int64_t high) {
  requireKv(value >= low && value <= high, field + " is " + std::to_string(value) + "; allowed is " +
                                               std::to_string(low) + " to " + std::to_string(high));
}

void checkLoan(const KvHomes& homes, size_t index, int64_t modelHeadGroups) {
  const KvLoan& loan = homes.loans[index];
  const std::string name = "kvLoans[" + std::to_string(index) + "].";
  requireRange(name + "owner", loan.owner, 0, homes.ranks - 1);
  requireRange(name + "holder", loan.holder, 0, homes.ranks - 1);
  requireKv(loan.owner != loan.holder,
            name + "holder is " + std::to_string(loan.holder) + ", the owner itself; it must be another rank");
  requireKv(0 <= loan.blocks.begin && loan.blocks.begin < loan.blocks.end && loan.blocks.end <= homes.blocks,
            name + "blocks is " + rangeText(loan.blocks.begin, loan.blocks.end) +
                "; it must be a range, not empty, within " + rangeText(0, homes.blocks));
  requireKv(0 <= loan.headGroups.begin && loan.headGroups.begin < loan.headGroups.end &&
                loan.headGroups.end <= modelHeadGroups,
            name + "headGroups is " + rangeText(loan.headGroups.begin, loan.headGroups.end) +
                "; it must be a range, not empty, within " + rangeText(0, modelHeadGroups));
  requireKv(loan.owner != homes.rank || loan.headGroups == homes.headGroups,
            name + "headGroups is " + rangeText(loan.headGroups.begin, loan.headGroups.end) + "; its owner has " +
                rangeText(homes.headGroups.begin, homes.headGroups.end));
}

/// An owner's loans leave no gap up to the last runnable address.
void checkNeighbours(const KvHomes& homes, size_t index) {
  const KvLoan& loan = homes.loans[index];
  const bool last = index + 1 == homes.loans.size() || homes.loans[index + 1].owner != loan.owner;
  const int64_t next = last ? homes.blocks : homes.loans[index + 1].blocks.begin;
  requireKv(loan.blocks.end == next, "kvLoans: rank " + std::to_string(loan.owner) + " lends " +
                                         rangeText(loan.blocks.begin, loan.blocks.end) +
                                         "; the next loan must begin, " +
                                         "or the runnable addresses end, there, not at " + std::to_string(next));
  requireKv(last || loan.headGroups == homes.loans[index + 1].headGroups,
            "kvLoans: rank " + std::to_string(loan.owner) + " has different headGroups in two of its loans");
}

/// No head has two owners: what goes between ranks at once has room for each head once. The loans are sorted.
void checkOwners(const KvHomes& homes) {
  std::vector<std::pair<Range, int>> owned;
  if (!homes.headGroups.empty()) owned.emplace_back(homes.headGroups, homes.rank);
  for (size_t index = 0; index < homes.loans.size(); ++index) {
    const KvLoan& loan = homes.loans[index];
    const bool first = index == 0 || homes.loans[index - 1].owner != loan.owner;
    if (first && loan.owner != homes.rank) owned.emplace_back(loan.headGroups, loan.owner);
  }
  std::ranges::sort(owned, {}, [](const auto& entry) { return entry.first.begin; });
  for (size_t i = 1; i < owned.size(); ++i) {
    const auto& [before, rank] = owned[i - 1];
    const auto& [next, other] = owned[i];
    requireKv(before.end <= next.begin, "kvLoans: headGroups " + rangeText(before.begin, before.end) + " of rank " +
                                            std::to_string(rank) + " and " + rangeText(next.begin, next.end) +
                                            " of rank " + std::to_string(other) +
                                            " overlap; each head group must have one owner");
  }
}

/// Every address of this rank has one home.
void checkOwn(const KvHomes& homes) {
  if (homes.headGroups.empty()) return;
  const auto own = std::ranges::find(homes.loans, homes.rank, &KvLoan::owner);
  const int64_t lentFrom = own == homes.loans.end() ? homes.blocks : own->blocks.begin;
  requireKv(std::min(homes.deviceBlocks, homes.blocks) == lentFrom,
            "kvDeviceBlocks is " + std::to_string(homes.deviceBlocks) + ", and rank " + std::to_string(homes.rank) +
                " lends from address " + std::to_string(lentFrom) + " of " + std::to_string(homes.blocks) +
                " on; its loans must be the runnable addresses from kvDeviceBlocks on");
}

}  // namespace

const KvLoan* KvHomes::loanOf(int owner, int64_t address) const {
  const auto behind = [](const std::pair<int, int64_t>& key, const KvLoan& loan) {
    return key.first != loan.owner ? key.first < loan.owner : key.second < loan.blocks.end;
  };
  const auto found = std::upper_bound(loans.begin(), loans.end(), std::pair(owner, address), behind);
  const bool in = found != loans.end() && found->owner == owner && found->blocks.begin <= address;
  return in ? &*found : nullptr;
}

int KvHomes::placeOf(int owner, int64_t address) const {
  const KvLoan* loan = loanOf(owner, address);
  return loan == nullptr ? owner : loan->holder;
}

std::vector<KvLoan> KvHomes::held() const {
  std::vector<KvLoan> held;
  std::ranges::copy_if(loans, std::back_inserter(held), [&](const KvLoan& loan) { return loan.holder == rank; });
  return held;
}

std::vector<int> KvHomes::owners() const {
  std::vector<int> owners;
  for (const KvLoan& loan : loans) {
    if (owners.empty() || owners.back() != loan.owner) owners.push_back(loan.owner);
  }
  return owners;
}

bool sameOnDevice(const KvHomes& before, const KvHomes& now) {
  // Parked addresses are counted from the runnable ones on.
  const bool parkedMean = before.blocks == now.blocks || (before.spareBlocks() == 0 && now.spareBlocks() == 0);
  return before.headGroups == now.headGroups && before.deviceBlocks == now.deviceBlocks && parkedMean;
}

bool sameInHost(const KvHomes& before, const KvHomes& now) {
  return before.headGroups == now.headGroups && before.hostBlocks() == now.hostBlocks() &&
         before.spareBlocks() == now.spareBlocks();
}

bool sameHeld(const KvHomes& before, const KvHomes& now) {
  return std::ranges::equal(before.held(), now.held(), [](const KvLoan& a, const KvLoan& b) {
    return a.headGroups == b.headGroups && a.blocks == b.blocks;
  });
}

void sortLoans(std::vector<KvLoan>& loans) {
  std::ranges::sort(loans, [](const KvLoan& a, const KvLoan& b) {
    return a.owner != b.owner ? a.owner < b.owner : a.blocks.begin < b.blocks.begin;
  });
}

KvHomes checkedKvHomes(KvHomes homes, int64_t modelHeadGroups, int64_t blockTokens) {
  requireRange("kvParkedBlocks", homes.parkedBlocks, 0, kAddressesMax - homes.blocks);
  requireRange("kvDeviceBlocks", homes.deviceBlocks, 0, homes.addresses());
  requireKv(homes.loans.size() <= kLoansMax, "kvLoans has " + std::to_string(homes.loans.size()) +
                                                 " entries; allowed are up to " + std::to_string(kLoansMax));
  for (size_t index = 0; index < homes.loans.size(); ++index) checkLoan(homes, index, modelHeadGroups);
  sortLoans(homes.loans);
  for (size_t index = 0; index < homes.loans.size(); ++index) checkNeighbours(homes, index);
  checkOwners(homes);
  checkOwn(homes);
  requireKv(homes.loans.empty() || blockTokens % kAttentionChunkTokens == 0,
            "kvBlockTokens is " + std::to_string(blockTokens) +
                "; with kvLoans it must be a multiple of 64, the positions that are attended to at once");
  return homes;
}

}  // namespace hels
