#include "engine/cuda/cuda_kv_pieces.h"

#include "base/cuda/buffer.h"

namespace hels::cuda {

CudaKvPieces::Places CudaKvPieces::at(int64_t layer, int64_t group, int64_t block) const {
  const DeviceKv kv = kv_.layer(layer);
  const int64_t offset = (group * shape().blocks + block) * shape().blockBytes();
  return {kv.keys + offset, kv.values + offset};
}

void CudaKvPieces::read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) {
  const auto bytes = static_cast<size_t>(shape().blockBytes());
  const auto count = static_cast<size_t>(blocks.size());
  const Places from = at(layer, group, blocks.begin);
  for (const std::byte* source : {from.keys, from.values}) {
    check(cudaMemcpy2DAsync(target, 2 * bytes, source, bytes, bytes, count, cudaMemcpyDeviceToHost, stream_.get()),
          "copy of KV to the host");
    target += bytes;
  }
}

void CudaKvPieces::write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) {
  const auto bytes = static_cast<size_t>(shape().blockBytes());
  const auto count = static_cast<size_t>(blocks.size());
  const Places to = at(layer, group, blocks.begin);
  for (std::byte* target : {to.keys, to.values}) {
    check(cudaMemcpy2DAsync(target, bytes, source, 2 * bytes, bytes, count, cudaMemcpyHostToDevice, stream_.get()),
          "copy of KV from the host");
    source += bytes;
  }
}

void CudaKvPieces::copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceGroup) {
  const auto bytes = static_cast<size_t>(blocks.size() * shape().blockBytes());
  const Places from = static_cast<CudaKvPieces&>(source).at(layer, sourceGroup, blocks.begin);
  const Places to = at(layer, group, blocks.begin);
  check(cudaMemcpyAsync(to.keys, from.keys, bytes, cudaMemcpyDeviceToDevice, stream_.get()), "copy of keys");
  check(cudaMemcpyAsync(to.values, from.values, bytes, cudaMemcpyDeviceToDevice, stream_.get()), "copy of values");
}

void CudaKvPieces::finish() { check(cudaStreamSynchronize(stream_.get()), "migration of KV"); }

std::shared_ptr<std::byte> CudaKvPieces::buffer(size_t sizeBytes) const {
  const auto buffer = std::make_shared<PinnedBuffer>(sizeBytes, "migration of KV");
  return {buffer, buffer->data()};
}

}  // namespace hels::cuda
