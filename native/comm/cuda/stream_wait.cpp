#include "comm/cuda/stream_wait.h"

#include <sched.h>

#include <thread>

#include "base/cuda/check.h"

namespace hels::cuda {
namespace {

using Clock = std::chrono::steady_clock;

// A step of decode takes milliseconds, and each microsecond after its end is lost: the core is busy at first, then
// offered to others, and after a time that only prefill or a lost peer takes, mostly asleep.
constexpr std::chrono::microseconds kLooking{200};
constexpr std::chrono::milliseconds kYielding{20};
constexpr std::chrono::microseconds kSleep{100};

}  // namespace

bool waitUntilDone(const std::function<cudaError_t()>& state, Clock::time_point deadlineAt,
                   const std::function<void()>& look) {
  const Clock::time_point start = Clock::now();
  for (;;) {
    const cudaError_t now = state();
    if (now == cudaSuccess) return true;
    if (now != cudaErrorNotReady) check(now, "waiting for the device");
    (void)cudaGetLastError();  // not ready is no error that a later check should find
    const Clock::time_point time = Clock::now();
    if (time >= deadlineAt) return false;
    if (time - start < kLooking) continue;
    if (look) look();
    if (time - start < kYielding) {
      ::sched_yield();
    } else {
      std::this_thread::sleep_for(kSleep);
    }
  }
}

bool waitForStream(cudaStream_t stream, Clock::time_point deadlineAt, const std::function<void()>& look) {
  return waitUntilDone([stream] { return cudaStreamQuery(stream); }, deadlineAt, look);
}

}  // namespace hels::cuda
