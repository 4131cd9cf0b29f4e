#include "base/cuda/check.h"

namespace hels::cuda {
namespace {

ErrorCode codeOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return ErrorCode::kMemoryExceeded;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidDevice:
    case cudaErrorNotReady:
      return ErrorCode::kInternal;
    default:
      // Errors of a kernel stay with the context until the process ends: no later result can be trusted.
      return ErrorCode::kDeviceLost;
  }
}

}  // namespace

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // one that does not stay must not be found by the next check
  throw Error(codeOf(error), what + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

}  // namespace hels::cuda
