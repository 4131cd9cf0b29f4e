#include "engine/device_clock.h"

#include <thread>

namespace hels {
namespace {

/// A sleep may overshoot by about this much; the rest is spun.
constexpr std::chrono::microseconds kSleepOvershoot{120};

void waitUntil(std::chrono::steady_clock::time_point time) {
  if (time - std::chrono::steady_clock::now() > kSleepOvershoot) std::this_thread::sleep_until(time - kSleepOvershoot);
  while (std::chrono::steady_clock::now() < time) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

}  // namespace

void DeviceClock::beginStep() {
  computeSeconds_ = 0;
  totalSeconds_ = 0;
  stepStart_ = segmentStart_ = Clock::now();
}

void DeviceClock::endCompute() {
  if (speed_ < 1.0) {
    const std::chrono::duration<double> measured = Clock::now() - segmentStart_;
    waitUntil(segmentStart_ + std::chrono::duration_cast<Clock::duration>(measured / speed_));
  }
  computeSeconds_ += std::chrono::duration<double>(Clock::now() - segmentStart_).count();
}

void DeviceClock::endStep() {
  endCompute();
  totalSeconds_ = std::chrono::duration<double>(Clock::now() - stepStart_).count();
}

}  // namespace hels
