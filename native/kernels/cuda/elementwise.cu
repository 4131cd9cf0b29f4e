// One thread for each element, over a grid that strides where there are many.
#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elementwise.h"

namespace hels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlocksMax = 4096;

unsigned blocksOf(int64_t count) {
  return static_cast<unsigned>(std::min(kBlocksMax, (count + kThreads - 1) / kThreads));
}

__device__ __forceinline__ int64_t firstIndex() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + static_cast<int64_t>(threadIdx.x);
}
__device__ __forceinline__ int64_t indexStride() { return static_cast<int64_t>(gridDim.x) * kThreads; }

__device__ __forceinline__ void store(DataType type, void* values, int64_t i, float value) {
  if (type == DataType::kF32) {
    static_cast<float*>(values)[i] = value;
  } else {
    static_cast<uint16_t*>(values)[i] = narrow(type, value);
  }
}

__global__ void narrowKernel(const float* source, int64_t sourceStride, int64_t rows, int64_t columns, DataType type,
                             void* output, int64_t outputStride) {
  for (int64_t i = firstIndex(); i < rows * columns; i += indexStride()) {
    const int64_t row = i / columns;
    const int64_t column = i % columns;
    store(type, output, row * outputStride + column, source[row * sourceStride + column]);
  }
}

__global__ void randomKernel(DataType type, void* values, int64_t count, float amplitude, uint64_t seed) {
  for (int64_t i = firstIndex(); i < count; i += indexStride()) {
    // The finalizer of SplitMix64 over a counter.
    uint64_t x = seed + 0x9e3779b97f4a7c15ULL * (static_cast<uint64_t>(i) + 1);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    x ^= x >> 31;
    const float unit = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(x >> 32))) * 0x1p-31F;
    store(type, values, i, unit * amplitude);
  }
}

__global__ void valueKernel(float* values, int64_t count, float value) {
  for (int64_t i = firstIndex(); i < count; i += indexStride()) values[i] = value;
}

__global__ void fixedPointKernel(const float* partials, int64_t rows, int64_t columns, int64_t* sums, int32_t* badRow) {
  letNextStart();
  waitForPrevious();
  for (int64_t i = firstIndex(); i < rows * columns; i += indexStride()) {
    const float partial = partials[i];
    if (fabsf(partial) < 16777216.0F) {
      sums[i] = __double2ll_rn(static_cast<double>(partial) * 4294967296.0);
    } else {  // NaN too
      sums[i] = 0;
      atomicMin(badRow, static_cast<int32_t>(i / columns));
    }
  }
}

}  // namespace

void narrowRows(const float* source, int64_t sourceStride, int64_t rows, int64_t columns, DataType type, void* output,
                int64_t outputStride, cudaStream_t stream) {
  if (rows == 0 || columns == 0) return;
  launch(narrowKernel, dim3(blocksOf(rows * columns)), dim3(kThreads), 0, stream, source, sourceStride, rows, columns,
         type, output, outputStride);
}

void fillRandom(DataType type, void* values, int64_t count, float amplitude, uint64_t seed, cudaStream_t stream) {
  if (count == 0) return;
  launch(randomKernel, dim3(blocksOf(count)), dim3(kThreads), 0, stream, type, values, count, amplitude, seed);
}

void fillValue(float* values, int64_t count, float value, cudaStream_t stream) {
  if (count == 0) return;
  launch(valueKernel, dim3(blocksOf(count)), dim3(kThreads), 0, stream, values, count, value);
}

void fixedPointRows(const float* partials, int64_t rows, int64_t columns, int64_t* sums, int32_t* badRow,
                    cudaStream_t stream) {
  if (rows == 0 || columns == 0) return;
  launchEarly(fixedPointKernel, dim3(blocksOf(rows * columns)), dim3(kThreads), 0, stream, partials, rows, columns,
              sums, badRow);
}

}  // namespace hels::cuda
