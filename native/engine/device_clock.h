// Measures a step's compute and collective time, and emulates a slower device: compute between two collectives is
// stretched by 1/speed, paid where it arose: before the next collective, or at the end of the step. An emulation, not a
// model of latency.
//
// What is stretched is the processor time of the calling thread, not the time on the wall: emulated devices may share a
// core, and a kernel that had to wait for its turn is not a slower kernel. It starts when all it needs is there, not
// when the thread gets the core back from another emulated device. For the same reason the rest is slept, never spun.
#pragma once

#include <chrono>
#include <optional>

namespace hels {

class DeviceClock {
 public:
  using Clock = std::chrono::steady_clock;

  /// speed in (0, 1]; 1 stretches nothing.
  explicit DeviceClock(double speed) : speed_(speed) {}

  /// All calls of a step come from one thread.
  void beginStep();
  /// Ends a stretch of compute: sleeps what the emulated device would still need.
  void endCompute();
  /// An emulated device has been at it since `ready`; none: from now on.
  void beginCompute(std::optional<Clock::time_point> ready = std::nullopt);
  void endStep();

  double computeSeconds() const { return computeSeconds_; }
  double collectiveSeconds() const { return totalSeconds_ - computeSeconds_; }
  double totalSeconds() const { return totalSeconds_; }

 private:
  void sleepOff();

  const double speed_;
  Clock::time_point stepStart_;
  Clock::time_point segmentStart_;
  std::chrono::nanoseconds segmentProcessorStart_{0};
  std::chrono::nanoseconds late_{
      0};  // by which earlier stretches of the step ended after the emulated device would have
  double computeSeconds_ = 0;
  double totalSeconds_ = 0;
};

}  // namespace hels
