// KV in device memory as it is migrated: runs of blocks by strided copies in a stream of their own.
#pragma once

#include "base/cuda/stream.h"
#include "engine/cuda/cuda_kv.h"
#include "kv/kv_pieces.h"

namespace hels::cuda {

class CudaKvPieces final : public KvPieces {
 public:
  /// Of the current device. The memory outlives it.
  explicit CudaKvPieces(const CudaKv& kv) : kv_(kv) {}

  const KvShape& shape() const override { return kv_.shape; }
  void read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) override;
  void write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) override;
  /// In the order of this one's copies.
  void copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceGroup) override;
  void finish() override;
  /// Nothing: a device's memory goes back as a whole.
  void discardLayer(int64_t /*layer*/) override {}
  /// Page-locked.
  std::shared_ptr<std::byte> buffer(size_t sizeBytes) const override;

 private:
  struct Places {
    std::byte* keys = nullptr;
    std::byte* values = nullptr;
  };
  Places at(int64_t layer, int64_t group, int64_t block) const;

  const CudaKv kv_;
  const Stream stream_;
};

}  // namespace hels::cuda
