// CUDA's return codes as hels::Error.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "base/error.h"

namespace hels::cuda {

/// Throws unless `error` is cudaSuccess: kMemoryExceeded when memory ran out, kDeviceLost for every error after which
/// the process can use the device no more, else kInternal; the message names `what` and CUDA's own words.
void check(cudaError_t error, const std::string& what);

}  // namespace hels::cuda
