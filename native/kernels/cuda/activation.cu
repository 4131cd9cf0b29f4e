// One thread for two neighbouring columns, so that 16-bit outputs are written as one word; exp() is that of
// kernels/cpu/exponential.h, to the bit.
#include "kernels/cuda/activation.h"
#include "kernels/cuda/device.h"

namespace hels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kColumns = 2;

__device__ __forceinline__ float exponential(float value) {
  if (value != value) return value;
  if (value < -87.3F) return 0.0F;
  const float x = value > 88.3F ? 88.3F : value;
  const float n = nearbyintf(x * 1.44269504F);
  float r = fmaf(n, -0.693359375F, x);
  r = fmaf(n, 2.12194440e-4F, r);
  float sum = 1.0F / 5040;
  sum = fmaf(sum, r, 1.0F / 720);
  sum = fmaf(sum, r, 1.0F / 120);
  sum = fmaf(sum, r, 1.0F / 24);
  sum = fmaf(sum, r, 1.0F / 6);
  sum = fmaf(sum, r, 0.5F);
  sum = fmaf(sum, r, 1.0F);
  sum = fmaf(sum, r, 1.0F);
  return sum * __uint_as_float(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23);
}

__device__ __forceinline__ float activated(const ActivationStep& step, const float* row, int64_t i) {
  float value = row[i];
  if (step.bias != nullptr) value += step.bias[i];
  if (step.kind == ActivationKind::kSilu) {
    value = value / (1.0F + exponential(-value));
  } else {
    value = value < 0.0F ? 0.0F : value;
  }
  if (!step.gated) return value;
  float up = row[step.columns + i];
  if (step.bias != nullptr) up += step.bias[step.columns + i];
  return value * up;
}

template <DataType type>
__global__ void __launch_bounds__(kThreads) activationKernel(ActivationStep step) {
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.x;
  const int64_t i = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kColumns;
  if (i >= step.columns) return;
  const float* input = step.input + row * step.inputStride;
  const float first = activated(step, input, i);
  const bool pair = i + 1 < step.columns;
  const float second = pair ? activated(step, input, i + 1) : 0.0F;
  if constexpr (type == DataType::kF32) {
    float* output = static_cast<float*>(step.output) + row * step.outputStride + i;
    output[0] = first;
    if (pair) output[1] = second;
  } else {  // rows are padded with zeros to an even length
    auto* output = static_cast<uint16_t*>(step.output) + row * step.outputStride + i;
    *reinterpret_cast<uint32_t*>(output) = narrowPair(type, first, second);
  }
}

}  // namespace

void activate(const ActivationStep& step, cudaStream_t stream) {
  if (step.rows == 0 || step.columns == 0) return;
  const dim3 grid(static_cast<unsigned>(step.rows),
                  static_cast<unsigned>((step.columns + kThreads * kColumns - 1) / (kThreads * kColumns)));
  switch (step.outputType) {
    case DataType::kF32:
      return launchEarly(activationKernel<DataType::kF32>, grid, dim3(kThreads), 0, stream, step);
    case DataType::kBf16:
      return launchEarly(activationKernel<DataType::kBf16>, grid, dim3(kThreads), 0, stream, step);
    case DataType::kF16:
      return launchEarly(activationKernel<DataType::kF16>, grid, dim3(kThreads), 0, stream, step);
  }
}

}  // namespace hels::cuda
