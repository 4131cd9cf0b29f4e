#include "base/cuda/buffer.h"

#include "base/cuda/check.h"

namespace hels::cuda {

std::byte* MemoryOfDevice::take(size_t sizeBytes, const std::string& purpose) {
  std::byte* data = nullptr;
  const cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&data), sizeBytes);
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
  return data;
}

void MemoryOfDevice::giveBack(std::byte* data) noexcept { (void)cudaFree(data); }

std::byte* MemoryOfHost::take(size_t sizeBytes, const std::string& purpose) {
  std::byte* data = nullptr;
  check(cudaMallocHost(reinterpret_cast<void**>(&data), sizeBytes),
        "page-locked memory of " + std::to_string(sizeBytes) + " bytes for " + purpose);
  return data;
}

void MemoryOfHost::giveBack(std::byte* data) noexcept { (void)cudaFreeHost(data); }

void clear(const DeviceBuffer& buffer, const std::string& purpose) {
  if (buffer.sizeBytes() == 0) return;
  check(cudaMemset(buffer.data(), 0, buffer.sizeBytes()), "clearing of " + purpose);
  check(cudaStreamSynchronize(nullptr), "clearing of " + purpose);  // our streams do not wait for the default one
}

}  // namespace hels::cuda
