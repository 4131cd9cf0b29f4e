// One block for each row. The number of threads depends on the row's length only, and with it the order of the sums,
// which run in f64 as on the CPU.
#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/norm.h"

namespace hels::cuda {
namespace {

/// Elements that a thread keeps in registers; of longer rows the rest is read again.
constexpr int kKept = 8;
constexpr int kThreadsMax = 1024;

/// The sum over the block, in all threads: lanes as a tree, then warps in order.
__device__ __forceinline__ double blockSum(double value, double* warps) {
#pragma unroll
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  const int count = static_cast<int>(blockDim.x) / kWarpThreads;
  if (count == 1) return value;
  if (threadIdx.x % kWarpThreads == 0) warps[threadIdx.x / kWarpThreads] = value;
  __syncthreads();
  double sum = 0.0;
  for (int i = 0; i < count; ++i) sum += warps[i];
  return sum;
}

/// One row, as its threads hold it.
class Row {
 public:
  __device__ __forceinline__ Row(const ResidualStep& step, int64_t token)
      : residual_(step.residual + token * step.stride),
        columns_(static_cast<int>(step.columns)),
        threads_(static_cast<int>(blockDim.x)) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) kept_[j] = index(j) < columns_ ? residual_[index(j)] : 0.0F;
    if (step.sums != nullptr) advance(step, step.sums + token * step.columns);
  }

  /// use(j, i, value) of the thread's elements, i ascending: j counts those that are kept, then stays kKept.
  template <typename Use>
  __device__ __forceinline__ void each(const Use& use) const {
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      const int i = index(j);
      if (i < columns_) use(j, i, kept_[j]);
    }
    for (int i = index(kKept); i < columns_; i += threads_) use(kKept, i, residual_[i]);
  }
  template <typename Term>
  __device__ __forceinline__ double sum(const Term& term, double* warps) const {
    double value = 0.0;
    each([&](int, int, float x) { value += term(static_cast<double>(x)); });
    return blockSum(value, warps);
  }
  __device__ __forceinline__ void replace(int i, float value) { residual_[i] = value; }

 private:
  __device__ __forceinline__ int index(int j) const { return static_cast<int>(threadIdx.x) + j * threads_; }
  /// Everything is read before anything is written: the reads are under way at once.
  __device__ __forceinline__ void advance(const ResidualStep& step, const int64_t* sums) {
    int64_t added[kKept];
#pragma unroll
    for (int j = 0; j < kKept; ++j) added[j] = index(j) < columns_ ? sums[index(j)] : 0;
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      if (index(j) < columns_) kept_[j] += addend(step, added[j], index(j));
    }
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      if (index(j) < columns_) residual_[index(j)] = kept_[j];
    }
    for (int i = index(kKept); i < columns_; i += threads_) residual_[i] += addend(step, sums[i], i);
  }
  __device__ __forceinline__ static float addend(const ResidualStep& step, int64_t fixed, int i) {
    const auto sum = static_cast<float>(static_cast<double>(fixed) * 0x1p-32);
    return step.bias == nullptr ? sum : sum + step.bias[i];
  }

  float* residual_;
  const int columns_;
  const int threads_;
  float kept_[kKept];
};

/// A norm's weights or biases, null for none, of the elements that a thread keeps. No kernel writes them: they are read
/// while the kernel waits.
class KeptWeights {
 public:
  __device__ __forceinline__ KeptWeights(const float* weights, int64_t columns) : weights_(weights) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      const int64_t i = threadIdx.x + j * static_cast<int64_t>(blockDim.x);
      kept_[j] = weights != nullptr && i < columns ? weights[i] : 0.0F;
    }
  }
  /// Of element i, the thread's j-th.
  __device__ __forceinline__ float at(int j, int i) const { return j < kKept ? kept_[j] : weights_[i]; }

 private:
  const float* weights_;
  float kept_[kKept];
};

template <DataType type>
__device__ __forceinline__ void store(void* output, int64_t i, float value) {
  if constexpr (type == DataType::kF32) {
    static_cast<float*>(output)[i] = value;
  } else {
    static_cast<uint16_t*>(output)[i] = narrow(type, value);
  }
}

template <DataType type>
__global__ void __launch_bounds__(kThreadsMax) residualKernel(ResidualStep step) {
  __shared__ double warps[2][kThreadsMax / kWarpThreads];
  letNextStart();
  const KeptWeights weights(step.weight, step.columns);
  const KeptWeights biases(step.normBias, step.columns);
  waitForPrevious();
  const int64_t rowIndex = blockIdx.x;
  Row row(step, step.tokens == nullptr ? rowIndex : step.tokens[rowIndex]);
  const auto columns = static_cast<double>(step.columns);
  double mean = 0.0;
  float scale = 1.0F;
  if (step.norm == RowNorm::kLayer) mean = row.sum([](double x) { return x; }, warps[0]) / columns;
  if (step.norm != RowNorm::kCopy) {
    const double squares = row.sum([mean](double x) { return (x - mean) * (x - mean); }, warps[1]);
    scale = static_cast<float>(1.0 / sqrt(squares / columns + step.epsilon));
  }
  const auto center = static_cast<float>(mean);
  row.each([&](int j, int i, float x) {
    float value = x;
    if (step.norm == RowNorm::kRms) value = x * scale * weights.at(j, i);
    if (step.norm == RowNorm::kLayer) value = (x - center) * scale * weights.at(j, i) + biases.at(j, i);
    if (step.normStays) row.replace(i, value);
    if (step.output != nullptr) store<type>(step.output, rowIndex * step.outputStride + i, value);
  });
}

/// Up to 8192 columns one thread holds at most kKept of them.
unsigned threadsOf(int64_t columns) {
  const int64_t warps = (columns + kKept * kWarpThreads - 1) / (kKept * kWarpThreads);
  return static_cast<unsigned>(std::clamp<int64_t>(warps, 1, kThreadsMax / kWarpThreads) * kWarpThreads);
}

}  // namespace

void advanceResidual(const ResidualStep& step, cudaStream_t stream) {
  if (step.rows == 0) return;
  const dim3 grid(static_cast<unsigned>(step.rows));
  const dim3 block(threadsOf(step.columns));
  switch (step.outputType) {
    case DataType::kF32:
      return launchEarly(residualKernel<DataType::kF32>, grid, block, 0, stream, step);
    case DataType::kBf16:
      return launchEarly(residualKernel<DataType::kBf16>, grid, block, 0, stream, step);
    case DataType::kF16:
      return launchEarly(residualKernel<DataType::kF16>, grid, block, 0, stream, step);
  }
}

}  // namespace hels::cuda
