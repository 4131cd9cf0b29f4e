#include "base/cuda/shared_memory.h"

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <utility>

#include "base/cuda/check.h"

namespace hels::cuda {

void allowSharedMemory(const void* kernel, size_t sharedBytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> allowed;
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  const std::lock_guard lock(mutex);
  size_t& bytes = allowed[{device, kernel}];
  if (sharedBytes <= bytes) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sharedBytes)),
        "shared memory of a kernel");
  bytes = sharedBytes;
}

}  // namespace hels::cuda
