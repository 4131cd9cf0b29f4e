// CUDA's return codes as hels::Error.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "base/error.h"

namespace hels::cuda {

/// kMemoryExceeded when memory ran out, kDeviceMissing when this build has no code that the device runs, kInternal for
/// what leaves the device usable, else kDeviceLost: the process can use the device no more. Pure.
ErrorCode codeOf(cudaError_t error);

/// Throws unless `error` is cudaSuccess, with its code; the message names `what` and CUDA's own words.
void check(cudaError_t error, const std::string& what);

}  // namespace hels::cuda
