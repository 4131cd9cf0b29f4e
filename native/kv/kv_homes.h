// Where KV lies. Block ids are addresses of the whole group: every rank uses the same ones, and one block table serves
// all of them. For each rank an address has one fixed home for the KV of that rank's heads:
//   device  addresses below the rank's deviceBlocks
//   loan    the other runnable ones, [0, blocks): with the holder that a KvLoan names, which attends for the owner
//   host    the other parked ones, [blocks, blocks + parkedBlocks): in the rank's host memory; no sequence runs there
#pragma once

#include <cstdint>
#include <vector>

#include "shard/shard_spec.h"

namespace hels {

/// KV of the owner's heads at these addresses lies on the holder.
struct KvLoan {
  int owner = 0;
  int holder = 0;
  Range blocks;
  Range headGroups;  // the owner's
};

/// The KV of all heads at address `from` is copied to address `to`.
struct KvMove {
  int32_t from = 0;
  int32_t to = 0;
};

struct KvHomes {
  int rank = 0;
  int ranks = 1;
  Range headGroups;  // this rank's
  int64_t blocks = 0;
  int64_t parkedBlocks = 0;
  int64_t deviceBlocks = 0;
  std::vector<KvLoan> loans;  // of all ranks, by owner, then ascending addresses

  int64_t addresses() const { return blocks + parkedBlocks; }
  /// Runnable addresses below this lie on this rank's device.
  int64_t localBlocks() const { return deviceBlocks < blocks ? deviceBlocks : blocks; }
  /// Addresses from here on that are not lent lie in host memory.
  int64_t firstHostAddress() const { return deviceBlocks > blocks ? deviceBlocks : blocks; }
  int64_t hostBlocks() const { return addresses() - firstHostAddress(); }
  /// So many parked addresses lie on the device.
  int64_t spareBlocks() const { return firstHostAddress() - blocks; }
  /// The loan with the KV of the owner's heads at `address`; null when the owner has it itself.
  const KvLoan* loanOf(int owner, int64_t address) const;
  /// Where the KV of the owner's heads at `address` lies: the owner or a holder.
  int placeOf(int owner, int64_t address) const;
  /// Loans whose KV lies with this rank.
  std::vector<KvLoan> held() const;
  /// Ranks whose KV lies with others in part, ascending.
  std::vector<int> owners() const;
};

/// Whether the device of a rank with these homes, now and before, holds the same heads at the same addresses.
bool sameOnDevice(const KvHomes& before, const KvHomes& now);
/// The same of its host memory.
bool sameInHost(const KvHomes& before, const KvHomes& now);
/// Whether the rank holds the same heads of others at the same addresses, now and before.
bool sameHeld(const KvHomes& before, const KvHomes& now);

/// By owner, then ascending addresses.
void sortLoans(std::vector<KvLoan>& loans);

/// Sorts the loans and checks everything: ranges, one home for each address of each rank, one owner of each head
/// group, blocks of whole chunks where
/// there are loans. Throws kShapeInvalid naming the field, its value and the allowed range.
KvHomes checkedKvHomes(KvHomes homes, int64_t modelHeadGroups, int64_t blockTokens);

}  // namespace hels
