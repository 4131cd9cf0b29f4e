// KV that lies with a rank as it is migrated: piece by piece, of whichever head group, wherever it is.
#pragma once

#include <cstddef>
#include <memory>

#include "kv/kv_store.h"
#include "shard/shard_spec.h"

namespace hels {

/// A piece is one block of one head group in one layer: keys, then values, each shape().blockBytes(). Blocks are named
/// by their addresses, head groups by their number in the model. Calls may return before their work is done; it is done
/// in the order of the calls.
class KvPieces {
 public:
  virtual ~KvPieces() = default;
  virtual const KvShape& shape() const = 0;
  /// Pieces of consecutive blocks, one behind the other, to and from a buffer() or other memory of the host.
  virtual void read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) = 0;
  virtual void write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) = 0;
  /// Pieces from `source`, which is of the same kind and block size, of blocks from `sourceBlock` on. Nothing where
  /// these lie in the very same place.
  virtual void copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceBlock) = 0;
  /// Waits: what was read is there, what was written from and copied from is free.
  virtual void finish() = 0;
  /// Gives back what it can of a layer's memory, which is not read any more.
  virtual void discardLayer(int64_t layer) = 0;
  /// Memory of the host that is fast to read to and to write from.
  virtual std::shared_ptr<std::byte> buffer(size_t sizeBytes) const = 0;
};

/// Of a processor. The stores outlive it.
class KvStorePieces final : public KvPieces {
 public:
  /// `heir` may have memory of this one, which is then not given back.
  explicit KvStorePieces(KvStore& store, KvStore* heir = nullptr) : store_(store), heir_(heir) {}

  const KvShape& shape() const override { return store_.device().shape(); }
  void read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) override;
  void write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) override;
  void copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceBlock) override;
  void finish() override {}
  void discardLayer(int64_t layer) override { store_.discardLayer(layer, heir_); }
  std::shared_ptr<std::byte> buffer(size_t sizeBytes) const override;

 private:
  KvStore& store_;
  KvStore* const heir_;
};

}  // namespace hels
