#include "base/cuda/check.h"

namespace hels::cuda {

ErrorCode codeOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return ErrorCode::kMemoryExceeded;
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidPtx:
    case cudaErrorUnsupportedPtxVersion:
      return ErrorCode::kDeviceMissing;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDevice:
    case cudaErrorNotReady:
    case cudaErrorLaunchOutOfResources:
      return ErrorCode::kInternal;
    default:
      if (cudaErrorStreamCaptureUnsupported <= error && error <= cudaErrorStreamCaptureWrongThread)
        return ErrorCode::kInternal;
      // Errors of a kernel stay with the context until the process ends: no later result can be trusted.
      return ErrorCode::kDeviceLost;
  }
}

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // one that does not stay must not be found by the next check
  throw Error(codeOf(error), what + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

}  // namespace hels::cuda
