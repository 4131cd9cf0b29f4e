#include "engine/device_clock.h"

#include <gtest/gtest.h>
#include <time.h>

#include <chrono>

namespace hels {
namespace {

double processorSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void burnProcessorSeconds(double seconds) {
  const double end = processorSeconds() + seconds;
  while (processorSeconds() < end) {
  }
}

constexpr double kKernelSeconds = 0.001;
constexpr int kKernels = 20;

/// A step of several kernels with a collective after each but the last; the processor seconds it took.
double runStep(DeviceClock& clock) {
  const double before = processorSeconds();
  clock.beginStep();
  for (int kernel = 0; kernel < kKernels; ++kernel) {
    if (kernel > 0) clock.beginCompute();
    burnProcessorSeconds(kKernelSeconds);
    if (kernel + 1 < kKernels) clock.endCompute();
  }
  clock.endStep();
  return processorSeconds() - before;
}

TEST(DeviceClock, StretchesComputeByTheSpeed) {
  DeviceClock clock(0.2);
  runStep(clock);
  EXPECT_GE(clock.computeSeconds(), 0.95 * kKernels * kKernelSeconds / 0.2);
  EXPECT_GE(clock.totalSeconds(), clock.computeSeconds());
}

TEST(DeviceClock, SleepsThroughLongWaitsSoThatOthersCanUseTheCore) {
  DeviceClock clock(0.2);
  const double processor = runStep(clock);
  EXPECT_LT(processor, 1.5 * kKernels * kKernelSeconds);
}

TEST(DeviceClock, FullSpeedStretchesNothing) {
  DeviceClock clock(1.0);
  const double processor = runStep(clock);
  EXPECT_GE(clock.computeSeconds(), kKernels * kKernelSeconds);
  EXPECT_LT(processor, 1.5 * kKernels * kKernelSeconds);
}

}  // namespace
}  // namespace hels
