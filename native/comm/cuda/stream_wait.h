// Waiting for a stream with a deadline, which CUDA's own waits do not have.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <functional>

namespace hels::cuda {

/// Looks at `stream` until it has done all it holds (true) or `deadlineAt` has come (false). `look`, called now and
/// then in between, may throw to end the wait. Throws kDeviceLost when the device failed.
bool waitForStream(cudaStream_t stream, std::chrono::steady_clock::time_point deadlineAt,
                   const std::function<void()>& look = {});

/// The same for what `state` tells: cudaSuccess, cudaErrorNotReady or an error.
bool waitUntilDone(const std::function<cudaError_t()>& state, std::chrono::steady_clock::time_point deadlineAt,
                   const std::function<void()>& look);

}  // namespace hels::cuda
