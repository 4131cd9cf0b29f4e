#include "kv/kv_store.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace hels {
namespace {

KvShape shapeOf(KvShape shape, int64_t headGroups, int64_t blocks) {
  shape.headGroups = headGroups;
  shape.blocks = blocks;
  return shape;
}

}  // namespace

KvBytes kvBytesOf(const KvHomes& homes, const KvShape& shape) {
  const int64_t groups = homes.headGroups.size();
  KvBytes bytes;
  bytes.device = shapeOf(shape, groups, homes.deviceBlocks).sizeBytes();
  bytes.host = shapeOf(shape, groups, homes.hostBlocks()).sizeBytes();
  for (const KvLoan& loan : homes.loans) {
    if (loan.holder == homes.rank)
      bytes.loans += shapeOf(shape, loan.headGroups.size(), loan.blocks.size()).sizeBytes();
  }
  return bytes;
}

KvStore::KvStore(KvHomes homes, const KvShape& shape, std::byte* device, std::byte* host, std::byte* loans)
    : homes_(std::move(homes)),
      shape_(shape),
      device_(shapeOf(shape, homes_.headGroups.size(), homes_.deviceBlocks), device),
      host_(shapeOf(shape, homes_.headGroups.size(), homes_.hostBlocks()), host) {
  for (const KvLoan& loan : homes_.loans) {
    if (loan.holder != homes_.rank) continue;
    const KvShape lent = shapeOf(shape, loan.headGroups.size(), loan.blocks.size());
    held_.push_back({loan, KvCache(lent, loans)});
    loans += lent.sizeBytes();
  }
}

KvStore::Place KvStore::at(int owner, int64_t address) {
  if (owner == homes_.rank) {
    if (address < homes_.deviceBlocks) return {&device_, address};
    if (address >= homes_.blocks) return {&host_, address - homes_.firstHostAddress()};
  }
  for (Held& held : held_) {
    const bool here = held.loan.owner == owner && held.loan.blocks.begin <= address && address < held.loan.blocks.end;
    if (here) return {&held.cache, address - held.loan.blocks.begin};
  }
  throw Error(ErrorCode::kInternal, "KV of rank " + std::to_string(owner) + " at address " + std::to_string(address) +
                                        " does not lie with rank " + std::to_string(homes_.rank));
}

void KvStore::discard(const Range& addresses) {
  device_.discardBlocks({addresses.begin, std::min(addresses.end, homes_.deviceBlocks)});
  const int64_t first = homes_.firstHostAddress();
  host_.discardBlocks({std::max<int64_t>(0, addresses.begin - first), addresses.end - first});
}

size_t KvStore::blockBytes(int owner) const {
  if (owner == homes_.rank) return shapeOf(shape_, homes_.headGroups.size(), 1).sizeBytes();
  const KvLoan* loan = nullptr;
  for (const KvLoan& other : homes_.loans) {
    if (other.owner == owner) loan = &other;
  }
  return loan == nullptr ? 0 : shapeOf(shape_, loan->headGroups.size(), 1).sizeBytes();
}

}  // namespace hels
