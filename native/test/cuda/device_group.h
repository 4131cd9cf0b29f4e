// Ranks as threads, each with a stream: what tests of communicators between devices share.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "base/error.h"
#include "comm/device_communicator.h"

namespace hels::test {

inline constexpr std::chrono::seconds kAmple{20};

class Stream {
 public:
  Stream() { cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// int64 values in device memory.
class DeviceValues {
 public:
  explicit DeviceValues(size_t count) : count_(count), memory_(count * sizeof(int64_t), "a test") {}
  int64_t* data() const { return memory_.as<int64_t>(); }
  size_t count() const { return count_; }
  void write(const std::vector<int64_t>& values) const {
    cuda::check(cudaMemcpy(data(), values.data(), count_ * sizeof(int64_t), cudaMemcpyHostToDevice), "write");
  }
  std::vector<int64_t> read() const {
    std::vector<int64_t> values(count_);
    cuda::check(cudaMemcpy(values.data(), data(), count_ * sizeof(int64_t), cudaMemcpyDeviceToHost), "read");
    return values;
  }

 private:
  size_t count_;
  cuda::DeviceBuffer memory_;
};

/// What `rank` brings to sum number `call`, different for every value.
inline std::vector<int64_t> addends(int rank, int call, size_t count) {
  std::vector<int64_t> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = (int64_t{1} << (12 * rank)) * (call + 1) + static_cast<int64_t>(i * i) - (rank == 1 ? 1000 : 0);
  return values;
}

inline std::vector<int64_t> sumOf(int ranks, int call, size_t count) {
  std::vector<int64_t> sums(count);
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<int64_t> values = addends(rank, call, count);
    for (size_t i = 0; i < count; ++i) sums[i] += values[i];
  }
  return sums;
}

/// Runs body(rank) of every rank on a thread of its own.
inline void onEveryRank(int ranks, const std::function<void(int rank)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back([&body, rank] { body(rank); });
  for (std::thread& thread : threads) thread.join();
}

/// The code and text that a sum of `count` values ends with.
inline std::optional<Error> sumOnce(cuda::DeviceCommunicator& communicator, std::chrono::nanoseconds deadline,
                                    size_t count = 100) {
  const Stream stream;
  const DeviceValues values(count);
  values.write(addends(communicator.rank(), 0, count));
  try {
    communicator.allReduceSum(values.data(), count, stream.get(), deadline);
    communicator.synchronize(stream.get(), deadline);
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

inline void expectCode(const std::optional<Error>& failure, ErrorCode code) {
  ASSERT_TRUE(failure.has_value());
  EXPECT_EQ(failure->code(), code) << failure->what();
}

/// Sums of many sizes, twice over, on every rank.
inline void expectSums(int ranks, const std::function<cuda::DeviceCommunicator&(int rank)>& communicator) {
  onEveryRank(ranks, [&](int rank) {
    const Stream stream;
    int call = 0;
    for (const size_t count : {size_t{1}, size_t{2}, size_t{511}, size_t{4096}, size_t{17'000}, size_t{1}}) {
      const DeviceValues values(count);
      for (int repeat = 0; repeat < 2; ++repeat, ++call) {
        values.write(addends(rank, call, count));
        communicator(rank).allReduceSum(values.data(), count, stream.get(), kAmple);
        communicator(rank).synchronize(stream.get(), kAmple);
        ASSERT_EQ(values.read(), sumOf(ranks, call, count)) << "rank " << rank << ", call " << call;
      }
    }
  });
}

}  // namespace hels::test
