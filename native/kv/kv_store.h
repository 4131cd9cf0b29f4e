// All KV that lies with one rank: of its own heads on the device and in host memory, and of the heads of ranks that
// borrow its room.
#pragma once

#include <cstddef>
#include <vector>

#include "kv/kv_cache.h"
#include "kv/kv_homes.h"

namespace hels {

/// Bytes of each kind, in none of which there are more than 2^60: their sum cannot overflow.
struct KvBytes {
  size_t device = 0;
  size_t host = 0;
  size_t loans = 0;  // held for others
};

/// `type`, `layers`, `headDim` and `blockTokens` of `shape`, each within what is allowed, hold for all of a rank's KV.
/// Throws kMemoryExceeded naming the field that takes more than any machine has.
KvBytes kvBytesOf(const KvHomes& homes, const KvShape& shape);

class KvStore {
 public:
  /// A block of one of the caches.
  struct Place {
    KvCache* cache = nullptr;
    int64_t block = 0;
  };

  /// The regions have the sizes that kvBytesOf() tells, zeroed, and outlive the store.
  KvStore(KvHomes homes, const KvShape& shape, std::byte* device, std::byte* host, std::byte* loans);

  const KvHomes& homes() const { return homes_; }
  /// Of this rank's heads; its block ids are addresses.
  KvCache& device() { return device_; }
  /// Of this rank's heads, in host memory.
  KvCache& host() { return host_; }
  /// KV of the owner's heads at an address that lies here (homes().placeOf() says so).
  Place at(int owner, int64_t address);
  /// The same by a head group of the model, and that group's number within the cache.
  struct GroupPlace {
    KvCache* cache = nullptr;
    int64_t group = 0;
    int64_t block = 0;
  };
  GroupPlace groupAt(int64_t group, int64_t address);
  /// Forgets KV of other ranks' heads, whose memory may then go.
  void dropHeld();
  /// Gives the memory of these addresses that lies here, of whichever heads, back to the system.
  void discard(const Range& addresses);
  /// The same of a layer, but for memory that is `heir`'s, too; it may be null.
  void discardLayer(int64_t layer, const KvStore* heir);
  int64_t layers() const { return shape_.layers; }
  /// Bytes of one layer of a block of the owner's heads.
  int64_t layerBlockBytes(int owner) const;

 private:
  struct Held {
    KvLoan loan;
    KvCache cache;
  };

  KvHomes homes_;
  KvShape shape_;
  KvCache device_;
  KvCache host_;
  std::vector<Held> held_;
};

}  // namespace hels
