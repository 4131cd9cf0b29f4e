// Measures a step's compute and collective time, and emulates a slower device: compute between two collectives is
// stretched by 1/speed, paid where it arose: before the next collective, or at the end of the step. An emulation, not a
// model of latency.
#pragma once

#include <chrono>

namespace hels {

class DeviceClock {
 public:
  /// speed in (0, 1]; 1 stretches nothing.
  explicit DeviceClock(double speed) : speed_(speed) {}

  void beginStep();
  /// Ends a stretch of compute: waits out what the emulated device would still need.
  void endCompute();
  void beginCompute() { segmentStart_ = Clock::now(); }
  void endStep();

  double computeSeconds() const { return computeSeconds_; }
  double collectiveSeconds() const { return totalSeconds_ - computeSeconds_; }
  double totalSeconds() const { return totalSeconds_; }

 private:
  using Clock = std::chrono::steady_clock;

  const double speed_;
  Clock::time_point stepStart_;
  Clock::time_point segmentStart_;
  double computeSeconds_ = 0;
  double totalSeconds_ = 0;
};

}  // namespace hels
