#include "base/cuda/buffer.h"

#include "base/cuda/check.h"

namespace hels::cuda {

DeviceBuffer::DeviceBuffer(size_t sizeBytes, const std::string& purpose) : sizeBytes_(sizeBytes) {
  if (sizeBytes == 0) return;
  const cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&data_), sizeBytes);
  if (error == cudaErrorMemoryAllocation) {
    size_t freeBytes = 0;
    size_t totalBytes = 0;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&freeBytes, &totalBytes);
    throw Error(ErrorCode::kMemoryExceeded, "the device has no " + std::to_string(sizeBytes) + " bytes for " + purpose +
                                                ": " + std::to_string(freeBytes) + " of its " +
                                                std::to_string(totalBytes) + " are free");
  }
  check(error, "memory for " + purpose);
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) (void)cudaFree(data_);
}

PinnedBuffer::PinnedBuffer(size_t sizeBytes, const std::string& purpose) : sizeBytes_(sizeBytes) {
  if (sizeBytes == 0) return;
  check(cudaMallocHost(reinterpret_cast<void**>(&data_), sizeBytes),
        "page-locked memory of " + std::to_string(sizeBytes) + " bytes for " + purpose);
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}

}  // namespace hels::cuda
