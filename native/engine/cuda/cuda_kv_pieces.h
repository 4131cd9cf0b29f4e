// KV of a rank on a GPU as it is migrated: runs of blocks by strided copies in a stream of their own.
#pragma once

#include "base/cuda/stream.h"
#include "engine/cuda/cuda_kv.h"
#include "kv/kv_pieces.h"

namespace hels::cuda {

class CudaKvPieces final : public KvPieces {
 public:
  /// `shape`: of what lies on the device, the current one; `firstGroup`: of this rank's heads. The memory outlives it.
  CudaKvPieces(const KvShape& shape, const CudaKvPlaces& places, int64_t firstGroup)
      : shape_(shape), places_(places), firstGroup_(firstGroup) {}

  const KvShape& shape() const override { return shape_; }
  void read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) override;
  void write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) override;
  /// In the order of this one's copies.
  void copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceBlock) override;
  void finish() override;
  /// Nothing: memory of a device, and what is page-locked, goes back as a whole.
  void discardLayer(int64_t /*layer*/) override {}
  /// Page-locked.
  std::shared_ptr<std::byte> buffer(size_t sizeBytes) const override;

 private:
  /// Keys and values of a block, and the bytes to those of the next one.
  struct Places {
    std::byte* keys = nullptr;
    std::byte* values = nullptr;
    size_t stride = 0;
  };
  Places at(int64_t layer, int64_t group, int64_t block) const;
  size_t pieceBytes() const { return static_cast<size_t>(shape_.blockBytes()); }

  const KvShape shape_;
  const CudaKvPlaces places_;
  const int64_t firstGroup_;
  const Stream stream_;
};

}  // namespace hels::cuda
