// On which multiprocessors the kernels of a stream run: whether a partition holds what it promises.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hels::cuda {

/// Multiprocessors that a kernel of so many blocks that all of them could be busy ran on. Throws kDeviceLost. Waits for
/// the stream. Emulated: 1.
int countMultiprocessors(cudaStream_t stream);

/// The same, as a part of `stream` or of a graph captured in it: marks seen[i] of `count` for every multiprocessor i.
void markMultiprocessors(uint32_t* seen, int count, cudaStream_t stream);

}  // namespace hels::cuda
