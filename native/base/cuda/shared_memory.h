// How much dynamic shared memory a kernel may be launched with, where that is more than 48 KiB.
#pragma once

#include <cstddef>

namespace hels::cuda {

/// Lets `kernel` have `sharedBytes` on the current device from now on. What was allowed once stays: ranks that are
/// threads of one process launch the same kernels with different sizes, and the limit is one for all of them. Throws
/// what check() throws, when a block of the device has not got as much.
void allowSharedMemory(const void* kernel, size_t sharedBytes);

}  // namespace hels::cuda
