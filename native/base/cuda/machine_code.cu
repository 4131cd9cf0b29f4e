#include "base/cuda/machine_code.h"

namespace hels::cuda {
namespace {

/// Compiled for the architectures of all kernels.
__global__ void anyKernel() {}

}  // namespace

cudaError_t machineCodeError() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(anyKernel));
}

}  // namespace hels::cuda
