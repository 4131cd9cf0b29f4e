// KV of some head groups as it is migrated: piece by piece, wherever it lies.
#pragma once

#include <cstddef>
#include <memory>

#include "kv/kv_cache.h"
#include "shard/shard_spec.h"

namespace hels {

/// A piece is one block of one head group in one layer: keys, then values, each shape().blockBytes(). Calls may return
/// before their work is done; it is done in the order of the calls.
class KvPieces {
 public:
  virtual ~KvPieces() = default;
  virtual const KvShape& shape() const = 0;
  /// Pieces of consecutive blocks, one behind the other, to and from a buffer() or other memory of the host.
  virtual void read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) = 0;
  virtual void write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) = 0;
  /// Pieces of the same blocks from `source`, which is of the same kind and block size.
  virtual void copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceGroup) = 0;
  /// Waits: what was read is there, what was written from and copied from is free.
  virtual void finish() = 0;
  /// Gives back what it can of a layer's memory, which is not read any more.
  virtual void discardLayer(int64_t layer) = 0;
  /// Memory of the host that is fast to read to and to write from.
  virtual std::shared_ptr<std::byte> buffer(size_t sizeBytes) const = 0;
};

/// In memory of the host. The cache outlives it.
class KvCachePieces final : public KvPieces {
 public:
  explicit KvCachePieces(KvCache& cache) : cache_(cache) {}

  const KvShape& shape() const override { return cache_.shape(); }
  void read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) override;
  void write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) override;
  void copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceGroup) override;
  void finish() override {}
  void discardLayer(int64_t layer) override { cache_.discardLayer(layer); }
  std::shared_ptr<std::byte> buffer(size_t sizeBytes) const override;

 private:
  KvCache& cache_;
};

}  // namespace hels
