#include "engine/device_clock.h"

#include <sys/prctl.h>

#include <algorithm>
#include <thread>

#include "base/processor_time.h"

namespace hels {

using std::chrono::nanoseconds;

void DeviceClock::beginStep() {
  computeSeconds_ = 0;
  totalSeconds_ = 0;
  late_ = nanoseconds::zero();
  // By default the kernel lets a sleep end up to 50 us late: as long as a whole kernel of a small model.
  if (speed_ < 1.0) prctl(PR_SET_TIMERSLACK, 1UL);
  beginCompute();
  stepStart_ = segmentStart_;
}

void DeviceClock::beginCompute(std::optional<Clock::time_point> ready) {
  segmentStart_ = Clock::now();
  if (speed_ == 1.0) return;
  if (ready) segmentStart_ = std::min(segmentStart_, *ready);
  segmentProcessorStart_ = processorTime();
}

/// A late end, by a long sleep or by a busy core, is taken off the next stretch.
void DeviceClock::sleepOff() {
  const nanoseconds measured = processorTime() - segmentProcessorStart_;
  const auto due = segmentStart_ + std::chrono::duration_cast<nanoseconds>(measured / speed_) - late_;
  std::this_thread::sleep_until(due);
  late_ = std::max(nanoseconds::zero(), std::chrono::duration_cast<nanoseconds>(Clock::now() - due));
}

void DeviceClock::endCompute() {
  if (speed_ < 1.0) sleepOff();
  computeSeconds_ += std::chrono::duration<double>(Clock::now() - segmentStart_).count();
}

void DeviceClock::endStep() {
  endCompute();
  totalSeconds_ = std::chrono::duration<double>(Clock::now() - stepStart_).count();
}

}  // namespace hels
