#pragma once

#include <chrono>
#include <ctime>

namespace hels {

/// Processor time of the calling thread: it stands still while the thread sleeps or waits for a core.
inline std::chrono::nanoseconds processorTime() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace hels
