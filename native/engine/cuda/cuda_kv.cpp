#include "engine/cuda/cuda_kv.h"

#include <algorithm>

#include "base/cuda/check.h"

namespace hels::cuda {
namespace {

size_t largestPitch() {
  int device = 0;
  int pitch = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&pitch, cudaDevAttrMaxPitch, device), "largest pitch of a copy");
  return static_cast<size_t>(pitch);
}

}  // namespace

DeviceKv CudaKv::layer(int64_t layer) const {
  const int64_t layerBytes = shape.headGroups * shape.blocks * shape.blockBytes();
  return {shape.type,
          data + layer * layerBytes,
          data + (shape.layers + layer) * layerBytes,
          shape.headGroups,
          shape.blocks,
          shape.blockTokens,
          shape.headDim};
}

CudaKvPlaces::CudaKvPlaces(const KvHomes& homes, const CudaKv& device, std::byte* host)
    : deviceBlocks_(homes.deviceBlocks),
      firstHostAddress_(homes.firstHostAddress()),
      pieces_(static_cast<size_t>(2 * device.shape.layers * device.shape.headGroups)),
      pieceBytes_(static_cast<size_t>(device.shape.blockBytes())),
      device_(device.data),
      host_(host),
      pitchMax_(largestPitch()) {}

CudaKvPlaces::Pieces CudaKvPlaces::at(int64_t address) const {
  const auto block = static_cast<size_t>(onDevice(address) ? address : address - firstHostAddress_);
  if (onDevice(address)) return {device_ + block * pieceBytes_, static_cast<size_t>(deviceBlocks_) * pieceBytes_};
  return {host_ + block * pieces_ * pieceBytes_, pieceBytes_};
}

int64_t CudaKvPlaces::runAt(int64_t address, int64_t end) const {
  return (onDevice(address) ? std::min(end, deviceBlocks_) : end) - address;
}

void CudaKvPlaces::copy(const KvMove& move, cudaStream_t stream) const {
  const Pieces from = at(move.from);
  const Pieces to = at(move.to);
  const cudaMemcpyKind kind = !onDevice(move.from) ? cudaMemcpyHostToDevice
                              : onDevice(move.to)  ? cudaMemcpyDeviceToDevice
                                                   : cudaMemcpyDeviceToHost;
  if (std::max(from.pitch, to.pitch) <= pitchMax_) {
    check(cudaMemcpy2DAsync(to.first, to.pitch, from.first, from.pitch, pieceBytes_, pieces_, kind, stream),
          "move of a KV block");
    return;
  }
  for (size_t piece = 0; piece < pieces_; ++piece) {
    check(cudaMemcpyAsync(to.first + piece * to.pitch, from.first + piece * from.pitch, pieceBytes_, kind, stream),
          "move of a piece of a KV block");
  }
}

void CudaKvPlaces::copyWithinHost(const KvMove& move) const {
  std::copy_n(at(move.from).first, pieces_ * pieceBytes_, at(move.to).first);
}

}  // namespace hels::cuda
