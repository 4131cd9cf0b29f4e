// One thread for each element.
#include "kernels/cuda/device.h"
#include "kernels/cuda/embed.h"

namespace hels::cuda {
namespace {

constexpr int kThreads = 256;

dim3 gridOf(int64_t columns, int64_t rows) {
  return {static_cast<unsigned>(rows), static_cast<unsigned>((columns + kThreads - 1) / kThreads)};
}

template <DataType type>
__device__ __forceinline__ float widened(const void* values, int64_t i) {
  if constexpr (type == DataType::kF32) return static_cast<const float*>(values)[i];
  return widen(type, static_cast<const uint16_t*>(values)[i]);
}

__device__ __forceinline__ int64_t tokenOf(const Embedding& embedding, int64_t row) {
  const int32_t id = embedding.tokenIds[row];
  return id >= 0 ? id : embedding.sampled[-(id + 1)];
}

template <typename Element>
__global__ void gatherKernel(Embedding embedding, Element* output, int64_t stride) {
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.x;
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= embedding.columns) return;
  const auto* table = reinterpret_cast<const Element*>(embedding.table);
  output[row * stride + i] = table[tokenOf(embedding, row) * embedding.columns + i];
}

template <DataType type>
__global__ void embedKernel(Embedding embedding, float* residual, int64_t stride) {
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.x;
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= embedding.columns) return;
  residual[row * stride + i] = widened<type>(embedding.table, tokenOf(embedding, row) * embedding.columns + i);
}

template <DataType type>
__global__ void positionsKernel(const std::byte* table, int64_t columns, const int32_t* positions, int64_t offset,
                                float* residual, int64_t stride) {
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.x;
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= columns) return;
  residual[row * stride + i] += widened<type>(table, (positions[row] + offset) * columns + i);
}

}  // namespace

void gatherEmbedding(const Embedding& embedding, void* output, int64_t stride, cudaStream_t stream) {
  if (embedding.tokens == 0) return;
  const dim3 grid = gridOf(embedding.columns, embedding.tokens);
  if (embedding.type == DataType::kF32) {
    launchEarly(gatherKernel<float>, grid, dim3(kThreads), 0, stream, embedding, static_cast<float*>(output), stride);
  } else {
    launchEarly(gatherKernel<uint16_t>, grid, dim3(kThreads), 0, stream, embedding, static_cast<uint16_t*>(output),
                stride);
  }
}

void embedTokens(const Embedding& embedding, float* residual, int64_t stride, cudaStream_t stream) {
  if (embedding.tokens == 0) return;
  const dim3 grid = gridOf(embedding.columns, embedding.tokens);
  switch (embedding.type) {
    case DataType::kF32:
      return launchEarly(embedKernel<DataType::kF32>, grid, dim3(kThreads), 0, stream, embedding, residual, stride);
    case DataType::kBf16:
      return launchEarly(embedKernel<DataType::kBf16>, grid, dim3(kThreads), 0, stream, embedding, residual, stride);
    case DataType::kF16:
      return launchEarly(embedKernel<DataType::kF16>, grid, dim3(kThreads), 0, stream, embedding, residual, stride);
  }
}

void addPositions(DataType type, const std::byte* table, int64_t columns, const int32_t* positions, int64_t offset,
                  int64_t tokens, float* residual, int64_t stride, cudaStream_t stream) {
  if (tokens == 0) return;
  const auto run = [&](auto* kernel) {
    launchEarly(kernel, gridOf(columns, tokens), dim3(kThreads), 0, stream, table, columns, positions, offset, residual,
                stride);
  };
  if (type == DataType::kF32) return run(positionsKernel<DataType::kF32>);
  if (type == DataType::kBf16) return run(positionsKernel<DataType::kBf16>);
  run(positionsKernel<DataType::kF16>);
}

}  // namespace hels::cuda
