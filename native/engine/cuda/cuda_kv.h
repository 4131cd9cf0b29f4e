// A rank's KV on a GPU and in the host's memory beside it, by address (kv/kv_homes.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kv/kv_cache.h"
#include "kv/kv_homes.h"

namespace hels::cuda {

/// A rank's KV in device memory: keys and values each (layers, head groups, blocks, blockTokens, headDim).
struct CudaKv {
  KvShape shape;
  std::byte* data = nullptr;

  DeviceKv layer(int64_t layer) const;
};

/// KV of one rank's heads at all addresses, of a group without loans. A block on the device lies in pieces of
/// shape.blockBytes(), one for each of keys and values, layer and head group; in host memory it is whole: (blocks,
/// pieces in that order).
class CudaKvPlaces {
 public:
  /// `host` is page-locked and has kvBytesOf(homes, device.shape).host bytes.
  CudaKvPlaces(const KvHomes& homes, const CudaKv& device, std::byte* host);

  bool onDevice(int64_t address) const { return address < deviceBlocks_; }
  /// Whether this rank has KV at all.
  bool empty() const { return pieces_ == 0; }
  /// Copies a block of all layers in the order of `stream`; one of its addresses is on the device.
  void copy(const KvMove& move, cudaStream_t stream) const;
  /// Both are in host memory; done when it returns.
  void copyWithinHost(const KvMove& move) const;
  /// Where a block's pieces lie: `pitch` bytes apart.
  struct Pieces {
    std::byte* first = nullptr;
    size_t pitch = 0;
  };
  Pieces at(int64_t address) const;
  /// From a block's pieces to those of the next address in the same memory.
  size_t strideAt(int64_t address) const { return onDevice(address) ? pieceBytes_ : pieces_ * pieceBytes_; }
  /// Consecutive addresses from here on in the same memory, up to `end`.
  int64_t runAt(int64_t address, int64_t end) const;

 private:
  int64_t deviceBlocks_ = 0;
  int64_t firstHostAddress_ = 0;
  size_t pieces_ = 0;
  size_t pieceBytes_ = 0;
  std::byte* device_ = nullptr;
  std::byte* host_ = nullptr;
  size_t pitchMax_ = 0;  // of a copy of pieces by one call
};

}  // namespace hels::cuda
