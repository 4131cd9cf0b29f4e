#include <algorithm>
#include <vector>

#include "base/cuda/buffer.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/multiprocessors.h"

namespace hels::cuda {
namespace {

// As many threads as leave room for one block a multiprocessor, or two: a block that has a place stays for a while, so
// that the next goes elsewhere.
constexpr int kThreads = 1024;
constexpr int kBlocksEach = 4;
constexpr unsigned kStayNanoseconds = 20'000;
constexpr int kMultiprocessorsMax = 1024;

__global__ void __launch_bounds__(kThreads) markMultiprocessorsKernel(uint32_t* seen, int count) {
  unsigned own = 0;
#ifndef HELS_CUDA_EMULATION
  asm volatile("mov.u32 %0, %%smid;" : "=r"(own));
  uint64_t start;
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - start < kStayNanoseconds);
#endif
  if (threadIdx.x == 0 && own < static_cast<unsigned>(count)) seen[own] = 1;
}

}  // namespace

void markMultiprocessors(uint32_t* seen, int count, cudaStream_t stream) {
  int device = 0;
  int multiprocessors = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  const dim3 grid(static_cast<unsigned>(multiprocessors * kBlocksEach));
  launch(markMultiprocessorsKernel, grid, dim3(kThreads), 0, stream, seen, count);
}

int countMultiprocessors(cudaStream_t stream) {
  const size_t bytes = kMultiprocessorsMax * sizeof(uint32_t);
  const DeviceBuffer seen(bytes, "multiprocessors seen");
  std::vector<uint32_t> marks(kMultiprocessorsMax);
  check(cudaMemsetAsync(seen.data(), 0, bytes, stream), "multiprocessors seen");
  markMultiprocessors(seen.as<uint32_t>(), kMultiprocessorsMax, stream);
  check(cudaMemcpyAsync(marks.data(), seen.data(), bytes, cudaMemcpyDeviceToHost, stream), "multiprocessors seen");
  check(cudaStreamSynchronize(stream), "multiprocessors seen");
  return static_cast<int>(std::ranges::count(marks, 1U));
}

}  // namespace hels::cuda
