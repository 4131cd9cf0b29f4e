// Whether this build has code that a device runs.
#pragma once

#include <cuda_runtime.h>

namespace hels::cuda {

/// What CUDA says of a kernel on the current device, before one is launched.
cudaError_t machineCodeError();

}  // namespace hels::cuda
