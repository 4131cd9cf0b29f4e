#include "engine/cuda/cuda_kv_pieces.h"

#include <algorithm>

#include "base/cuda/buffer.h"

namespace hels::cuda {

CudaKvPieces::Places CudaKvPieces::at(int64_t layer, int64_t group, int64_t block) const {
  const auto [first, pitch] = places_.at(block);
  const auto keys = static_cast<size_t>(layer * shape_.headGroups + group - firstGroup_);
  const auto values = keys + static_cast<size_t>(shape_.layers * shape_.headGroups);
  return {first + keys * pitch, first + values * pitch, places_.strideAt(block)};
}

void CudaKvPieces::read(int64_t layer, int64_t group, const Range& blocks, std::byte* target) {
  const size_t bytes = pieceBytes();
  for (int64_t block = blocks.begin; block < blocks.end;) {
    const int64_t count = places_.runAt(block, blocks.end);
    const Places from = at(layer, group, block);
    const cudaMemcpyKind kind = places_.onDevice(block) ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
    for (const bool keys : {true, false}) {
      check(cudaMemcpy2DAsync(keys ? target : target + bytes, 2 * bytes, keys ? from.keys : from.values, from.stride,
                              bytes, static_cast<size_t>(count), kind, stream_.get()),
            "copy of KV to the host");
    }
    target += static_cast<size_t>(count) * 2 * bytes;
    block += count;
  }
}

void CudaKvPieces::write(int64_t layer, int64_t group, const Range& blocks, const std::byte* source) {
  const size_t bytes = pieceBytes();
  for (int64_t block = blocks.begin; block < blocks.end;) {
    const int64_t count = places_.runAt(block, blocks.end);
    const Places to = at(layer, group, block);
    const cudaMemcpyKind kind = places_.onDevice(block) ? cudaMemcpyHostToDevice : cudaMemcpyHostToHost;
    for (const bool keys : {true, false}) {
      check(cudaMemcpy2DAsync(keys ? to.keys : to.values, to.stride, keys ? source : source + bytes, 2 * bytes, bytes,
                              static_cast<size_t>(count), kind, stream_.get()),
            "copy of KV from the host");
    }
    source += static_cast<size_t>(count) * 2 * bytes;
    block += count;
  }
}

void CudaKvPieces::copy(int64_t layer, int64_t group, const Range& blocks, KvPieces& source, int64_t sourceBlock) {
  const auto& others = static_cast<CudaKvPieces&>(source);
  for (int64_t block = blocks.begin; block < blocks.end;) {
    const int64_t count =
        std::min(places_.runAt(block, blocks.end), others.places_.runAt(sourceBlock, sourceBlock + blocks.end - block));
    const Places from = others.at(layer, group, sourceBlock);
    const Places to = at(layer, group, block);
    block += count;
    sourceBlock += count;
    if (to.keys == from.keys) continue;
    for (const bool keys : {true, false}) {
      check(cudaMemcpy2DAsync(keys ? to.keys : to.values, to.stride, keys ? from.keys : from.values, from.stride,
                              pieceBytes(), static_cast<size_t>(count), cudaMemcpyDefault, stream_.get()),
            "copy of KV");
    }
  }
}

void CudaKvPieces::finish() { check(cudaStreamSynchronize(stream_.get()), "migration of KV"); }

std::shared_ptr<std::byte> CudaKvPieces::buffer(size_t sizeBytes) const {
  const auto buffer = std::make_shared<PinnedBuffer>(sizeBytes, "migration of KV");
  return {buffer, buffer->data()};
}

}  // namespace hels::cuda
