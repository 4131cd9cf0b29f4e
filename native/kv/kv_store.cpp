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

constexpr int64_t kKvBytesMax = int64_t{1} << 60;

/// Bytes of `shape`, whose blocks `field` tells the number of, with `room` left of kKvBytesMax. One block of all layers
/// and heads takes less than 2^52.
int64_t boundedBytes(const char* field, const KvShape& shape, int64_t room) {
  const int64_t blockBytes = shape.layers * shape.layerBlockBytes();
  if (blockBytes == 0) return 0;
  require(shape.blocks <= room / blockBytes, ErrorCode::kMemoryExceeded,
          std::string(field) + " is " + std::to_string(shape.blocks) + "; allowed are up to " +
              std::to_string(room / blockBytes) + " with " + std::to_string(blockBytes) + " bytes of KV in each");
  return blockBytes * shape.blocks;
}

}  // namespace

KvBytes kvBytesOf(const KvHomes& homes, const KvShape& shape) {
  const int64_t groups = homes.headGroups.size();
  int64_t loans = 0;
  for (const KvLoan& loan : homes.loans) {
    if (loan.holder != homes.rank) continue;
    const KvShape held = shapeOf(shape, loan.headGroups.size(), loan.blocks.size());
    loans += boundedBytes("kvLoans.blocks", held, kKvBytesMax - loans);
  }
  const KvShape device = shapeOf(shape, groups, homes.deviceBlocks);
  const KvShape host = shapeOf(shape, groups, homes.hostBlocks());
  return {static_cast<size_t>(boundedBytes("kvDeviceBlocks", device, kKvBytesMax)),
          static_cast<size_t>(boundedBytes("kvParkedBlocks in host memory", host, kKvBytesMax)),
          static_cast<size_t>(loans)};
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

KvStore::GroupPlace KvStore::groupAt(int64_t group, int64_t address) {
  const auto has = [](const Range& range, int64_t value) { return range.begin <= value && value < range.end; };
  if (has(homes_.headGroups, group)) {
    const Place place = at(homes_.rank, address);
    return {place.cache, group - homes_.headGroups.begin, place.block};
  }
  for (Held& held : held_) {
    if (!has(held.loan.headGroups, group) || !has(held.loan.blocks, address)) continue;
    return {&held.cache, group - held.loan.headGroups.begin, address - held.loan.blocks.begin};
  }
  throw Error(ErrorCode::kInternal, "KV of head group " + std::to_string(group) + " at address " +
                                        std::to_string(address) + " does not lie with rank " +
                                        std::to_string(homes_.rank));
}

void KvStore::dropHeld() {
  held_.clear();
  std::erase_if(homes_.loans, [&](const KvLoan& loan) { return loan.holder == homes_.rank; });
}

void KvStore::discard(const Range& addresses) {
  device_.discardBlocks({addresses.begin, std::min(addresses.end, homes_.deviceBlocks)});
  const int64_t first = homes_.firstHostAddress();
  host_.discardBlocks({std::max<int64_t>(0, addresses.begin - first), addresses.end - first});
  for (Held& held : held_) {
    const Range& lent = held.loan.blocks;
    held.cache.discardBlocks(
        {std::max<int64_t>(0, addresses.begin - lent.begin), std::min(addresses.end, lent.end) - lent.begin});
  }
}

void KvStore::discardLayer(int64_t layer, const KvStore* heir) {
  if (heir == nullptr || heir->device_.data() != device_.data()) device_.discardLayer(layer);
  if (heir == nullptr || heir->host_.data() != host_.data()) host_.discardLayer(layer);
  for (size_t loan = 0; loan < held_.size(); ++loan) {
    const bool stays =
        heir != nullptr && loan < heir->held_.size() && heir->held_[loan].cache.data() == held_[loan].cache.data();
    if (!stays) held_[loan].cache.discardLayer(layer);
  }
}

int64_t KvStore::layerBlockBytes(int owner) const {
  if (owner == homes_.rank) return shapeOf(shape_, homes_.headGroups.size(), 1).layerBlockBytes();
  const KvLoan* loan = nullptr;
  for (const KvLoan& other : homes_.loans) {
    if (other.owner == owner) loan = &other;
  }
  return loan == nullptr ? 0 : shapeOf(shape_, loan->headGroups.size(), 1).layerBlockBytes();
}

}  // namespace hels
