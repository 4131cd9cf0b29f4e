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

TEST(DeviceClock, AnEmulatedDeviceStartsWhenItsInputIsThere) {
  constexpr auto kTurn = std::chrono::milliseconds(3);  // another emulated device had the core so long
  DeviceClock clock(0.2);
  clock.beginStep();
  clock.endCompute();
  const auto ready = DeviceClock::Clock::now();
  while (DeviceClock::Clock::now() < ready + kTurn) {
  }
  clock.beginCompute(ready);
  burnProcessorSeconds(kKernelSeconds);
  clock.endStep();
  const std::chrono::duration<double> took = DeviceClock::Clock::now() - ready;
  EXPECT_GE(took.count(), kKernelSeconds / 0.2);
  EXPECT_GE(clock.computeSeconds(), 0.95 * kKernelSeconds / 0.2);
  // Counted from the turn on, the kernel alone would have lasted as long as all of this.
  EXPECT_LT(clock.totalSeconds() - clock.computeSeconds(), std::chrono::duration<double>(kTurn).count());
}

TEST(DeviceClock, FullSpeedStretchesNothing) {
  DeviceClock clock(1.0);
  const double processor = runStep(clock);
  EXPECT_GE(clock.computeSeconds(), kKernels * kKernelSeconds);
  EXPECT_LT(processor, 1.5 * kKernels * kKernelSeconds);
}

}  // namespace
}  // namespace hels
