#include "comm/cuda/stream_wait.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace hels::cuda {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// A device that is busy until `end`.
std::function<cudaError_t()> busyUntil(Clock::time_point end) {
  return [end] { return Clock::now() < end ? cudaErrorNotReady : cudaSuccess; };
}

TEST(StreamWait, EndsWithTheWork) {
  const auto start = Clock::now();
  EXPECT_TRUE(waitUntilDone(busyUntil(start + 30ms), start + 10s, {}));
  EXPECT_GE(Clock::now() - start, 30ms);
  EXPECT_LT(Clock::now() - start, 5s);
  EXPECT_TRUE(waitForStream(nullptr, start));  // done: even the last moment is in time
}

TEST(StreamWait, EndsWithTheDeadline) {
  const auto start = Clock::now();
  EXPECT_FALSE(waitUntilDone(busyUntil(start + 1h), start + 30ms, {}));
  EXPECT_GE(Clock::now() - start, 30ms);
}

TEST(StreamWait, LooksInBetween) {
  const auto start = Clock::now();
  int looks = 0;
  const auto look = [&] {
    if (++looks == 3) throw Error(ErrorCode::kAborted, "enough");
  };
  EXPECT_THROW(waitUntilDone(busyUntil(start + 1h), start + 10s, look), Error);
  EXPECT_EQ(looks, 3);
  EXPECT_LT(Clock::now() - start, 5s);
}

TEST(StreamWait, AFailedDeviceIsLost) {
  try {
    waitUntilDone([] { return cudaErrorLaunchFailure; }, Clock::now() + 10s, {});
    FAIL() << "returned";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDeviceLost);
  }
}

}  // namespace
}  // namespace hels::cuda
