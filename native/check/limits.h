// What the device itself can do, measured in the run that compares with it.
#pragma once

#include <cuda_runtime.h>

#include "check/options.h"
#include "check/report.h"

namespace hels::check {

struct DeviceLimits {
  double copyBytesPerSecond = 0;   // read and written, of a copy from device memory to device memory
  double readBytesPerSecond = 0;   // of a kernel that only reads
  double matrixFlopPerSecond = 0;  // 8192^3 in bf16 by cuBLASLt; 0 where it could not be measured

  /// What reading weights and KV is compared with: the faster of both.
  double bytesPerSecond() const {
    return copyBytesPerSecond > readBytesPerSecond ? copyBytesPerSecond : readBytesPerSecond;
  }
  /// Seconds that no implementation can beat; the matrix part is left out where its rate is not known.
  double leastSeconds(double bytes, double flop) const {
    const double moving = bytesPerSecond() > 0 ? bytes / bytesPerSecond() : 0;
    const double computing = matrixFlopPerSecond > 0 ? flop / matrixFlopPerSecond : 0;
    return moving > computing ? moving : computing;
  }
};

/// Bytes a second that kernels in `stream` read, the best of some grids.
double measureReadOn(cudaStream_t stream, bool quick, Item& item);

/// A section of its own.
DeviceLimits measureLimits(const Options& options, Report& report);

}  // namespace hels::check
