#include "comm/gloo_communicator.h"

#include <gtest/gtest.h>

#include <numeric>

#include "comm/shared_memory_communicator.h"
#include "comm/shared_segment.h"
#include "process_group.h"

namespace hels::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kAmple = 20s;

int64_t valueOf(int rank, size_t index, int call) {
  return (rank + 1) * (static_cast<int64_t>(index * 7919 % 1'000'003) - 500'000) + (int64_t{1} << 40) * rank + call;
}

bool sumIsRight(Communicator& communicator, size_t count, int call) {
  std::vector<int64_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = valueOf(communicator.rank(), i, call);
  communicator.allReduceSum(values, kAmple);
  for (size_t i = 0; i < count; ++i) {
    int64_t expected = 0;
    for (int rank = 0; rank < communicator.ranks(); ++rank) expected += valueOf(rank, i, call);
    if (values[i] != expected) return false;
  }
  return true;
}

/// The code of what the sum throws, and how long that took.
struct Outcome {
  std::optional<ErrorCode> code;
  std::chrono::nanoseconds duration;
};

Outcome sumOnce(Communicator& communicator, std::chrono::nanoseconds deadline, size_t count = 1000) {
  std::vector<int64_t> values(count, 1);
  const auto start = Clock::now();
  try {
    communicator.allReduceSum(values, deadline);
  } catch (const Error& error) {
    return {error.code(), Clock::now() - start};
  }
  return {std::nullopt, Clock::now() - start};
}

std::string transportName(Transport transport) { return transport == Transport::kTcp ? "Tcp" : "SharedMemory"; }

class Sum : public testing::TestWithParam<std::tuple<Transport, int>> {};

TEST_P(Sum, IsRightForEveryLength) {
  const auto [transport, ranks] = GetParam();
  ProcessGroup group(
      ranks, [transport = transport](int, GlooConnector& connector, const std::vector<std::string>& addresses) {
        const auto communicator = connector.connect(addresses, kAmple, transport);
        int call = 0;
        for (const size_t count :
             {0, 1, 2, 3, 7, 255, 256, 4095, 4096, 4097, 8191, 8192, 8193, 16384, 24576, 24577, 100'003, 500'000, 1}) {
          for (int repetition = 0; repetition < 3; ++repetition) {
            if (!sumIsRight(*communicator, count, ++call)) return 1;
          }
        }
        return kSuccess;
      });
  for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(group.wait(rank), kSuccess) << "rank " << rank;
}
INSTANTIATE_TEST_SUITE_P(
    Between, Sum, testing::Combine(testing::Values(Transport::kTcp, Transport::kBest), testing::Values(1, 2, 3, 4, 5)),
    [](const auto& info) { return transportName(std::get<0>(info.param)) + std::to_string(std::get<1>(info.param)); });

class Processes : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(Over, Processes, testing::Values(Transport::kTcp, Transport::kBest),
                         [](const auto& info) { return transportName(info.param); });

TEST_P(Processes, KilledPeerIsLostAtOnce) {
  const Transport transport = GetParam();
  ProcessGroup group(3, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    if (!sumIsRight(*communicator, 1000, 1)) return 1;
    if (rank == 1) ::raise(SIGKILL);
    const Outcome outcome = sumOnce(*communicator, kAmple);
    return outcome.code == ErrorCode::kPeerLost && outcome.duration < 2s ? kSuccess : 2;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
  EXPECT_EQ(group.wait(1), kKilled);
  EXPECT_EQ(group.wait(2), kSuccess);
}

TEST_P(Processes, StoppedPeerExceedsTheDeadline) {
  const Transport transport = GetParam();
  ProcessGroup group(2, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    if (!sumIsRight(*communicator, 1000, 1)) return 1;
    if (rank == 1) ::raise(SIGSTOP);
    const Outcome outcome = sumOnce(*communicator, 300ms);
    if (outcome.code != ErrorCode::kDeadlineExceeded || outcome.duration < 300ms || outcome.duration > 1s) return 2;
    // And it is dead from then on.
    return sumOnce(*communicator, 10s).code == ErrorCode::kPeerLost ? kSuccess : 3;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
}

TEST_P(Processes, StoppedPeerEndsALongSumInTime) {
  const Transport transport = GetParam();
  ProcessGroup group(2, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    if (rank == 1) ::raise(SIGSTOP);
    const Outcome outcome = sumOnce(*communicator, 300ms, 1'000'000);
    return outcome.code == ErrorCode::kDeadlineExceeded && outcome.duration < 1s ? kSuccess : 2;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
}

TEST_P(Processes, ShortStallWithinTheDeadlineIsHarmless) {
  const Transport transport = GetParam();
  ProcessGroup group(2, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    for (int call = 0; call < 3; ++call) {
      if (rank == 1) std::this_thread::sleep_for(500ms);
      if (sumOnce(*communicator, 2s).code.has_value()) return 1;
    }
    return kSuccess;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
  EXPECT_EQ(group.wait(1), kSuccess);
}

TEST_P(Processes, AbortEndsARunningSum) {
  const Transport transport = GetParam();
  ProcessGroup group(2, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    if (rank == 1) {
      std::this_thread::sleep_for(600ms);
      sumOnce(*communicator, kAmple);  // may still succeed: what rank 0 sent before it aborted has arrived
      return sumOnce(*communicator, kAmple).code == ErrorCode::kPeerLost ? kSuccess : 1;
    }
    std::thread aborter([&] {
      std::this_thread::sleep_for(100ms);
      communicator->abort();
      communicator->abort();
    });
    const Outcome outcome = sumOnce(*communicator, kAmple);
    aborter.join();
    if (outcome.code != ErrorCode::kAborted || outcome.duration > 500ms) return 2;
    return sumOnce(*communicator, kAmple).code == ErrorCode::kAborted ? kSuccess : 3;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
  EXPECT_EQ(group.wait(1), kSuccess);
}

TEST_P(Processes, DifferentLengthsAreRefused) {
  const Transport transport = GetParam();
  ProcessGroup group(2, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    const Outcome outcome = sumOnce(*communicator, kAmple, rank == 0 ? 100 : 101);
    return outcome.code == ErrorCode::kShapeInvalid ? kSuccess : 1;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
  EXPECT_EQ(group.wait(1), kSuccess);
}

TEST(SharedMemory, IsChosenOnOneHost) {
  ProcessGroup group(3, [](int, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple);
    return std::string(communicator->transport()) == "shared memory" ? kSuccess : 1;
  });
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(group.wait(rank), kSuccess);
}

TEST(SharedMemory, IsLeftAsideWhenOneRankCannotReachIt) {
  ProcessGroup group(3, [](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    auto communicator = connector.connect(addresses, kAmple, Transport::kTcp);
    if (rank == 1) {  // the two sums of shareMemory(), as of a rank that reads the offer and cannot attach
      std::array<int64_t, 3> offer = {};
      communicator->allReduceSum(offer, kAmple);
      std::array<int64_t, 1> attached = {};
      communicator->allReduceSum(attached, kAmple);
      if (offer[2] == 0 || attached[0] != 2) return 1;
    } else {
      communicator = shareMemory(std::static_pointer_cast<GlooCommunicator>(communicator), kAmple);
    }
    if (std::string(communicator->transport()) != "tcp") return 2;
    return sumIsRight(*communicator, 1000, 1) ? kSuccess : 3;
  });
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(group.wait(rank), kSuccess);
}

TEST(SharedSegment, IsAttachedOnlyAsItWasOffered) {
  constexpr size_t kBytes = 8192;
  std::optional<SharedSegment> segment = SharedSegment::create(kBytes);
  ASSERT_TRUE(segment.has_value());
  const SegmentOffer offer = segment->offer();
  const std::optional<SharedSegment> same = SharedSegment::attach(offer, kBytes);
  ASSERT_TRUE(same.has_value());
  segment->data()[4000] = std::byte{7};
  EXPECT_EQ(same->data()[4000], std::byte{7});

  EXPECT_FALSE(SharedSegment::attach({}, kBytes).has_value());
  EXPECT_FALSE(SharedSegment::attach(offer, kBytes / 2).has_value());
  EXPECT_FALSE(SharedSegment::attach({offer.process, offer.descriptor, offer.key + 1}, kBytes).has_value());
  EXPECT_FALSE(SharedSegment::attach({offer.process, 9999, offer.key}, kBytes).has_value());
  segment->closeOffer();
  EXPECT_FALSE(SharedSegment::attach(offer, kBytes).has_value());
}

TEST(SharedMemory, PeersThatSleptAreWoken) {
  ProcessGroup group(4, [](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple);
    for (int call = 0; call < 40; ++call) {
      if (call % 4 == rank) std::this_thread::sleep_for(3ms);
      if (!sumIsRight(*communicator, 40'000, call)) return 1;
    }
    return kSuccess;
  });
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(group.wait(rank), kSuccess);
}

TEST(SharedMemory, KnowsWhenTheLastRankCame) {
  ProcessGroup group(3, [](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    using Clock = std::chrono::steady_clock;
    const auto communicator = connector.connect(addresses, kAmple);
    for (int call = 0; call < 20; ++call) {
      if (call % 3 == rank) std::this_thread::sleep_for(3ms);
      const Clock::time_point before = Clock::now();
      if (!sumIsRight(*communicator, 40'000, call)) return 1;
      const auto last = communicator->lastReadyAt();
      if (!last || *last < before || *last > Clock::now()) return 2;
      // Every rank knows the same moment.
      std::array<int64_t, 1> moments{last->time_since_epoch().count()};
      const int64_t own = moments[0];
      communicator->allReduceSum(moments, kAmple);
      if (moments[0] != 3 * own) return 3;
    }
    return kSuccess;
  });
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(group.wait(rank), kSuccess);
}

TEST(SharedMemory, KnowsWhenTheLastMessageCame) {
  ProcessGroup group(2, [](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    using Clock = std::chrono::steady_clock;
    const auto communicator = connector.connect(addresses, kAmple);
    // More than the packets between two ranks hold, so that the sender goes on when the receiver has begun.
    std::vector<std::byte> message(300'000);
    for (int call = 0; call < 20; ++call) {
      const int sender = call % 2;
      if (rank == sender) std::this_thread::sleep_for(3ms);
      const Clock::time_point before = Clock::now();
      std::array<ExchangePart, 2> parts;
      ExchangePart& other = parts[static_cast<size_t>(1 - rank)];
      if (rank == sender) {
        other.send = message;
      } else {
        other.receive = message;
      }
      communicator->exchange(parts, kAmple);
      const auto ready = communicator->lastReadyAt();
      if (!ready || *ready < before || *ready > Clock::now()) return 1;
      // The receiver's moment is not before the sender began.
      std::array<int64_t, 2> moments{};
      moments[rank == sender ? 0 : 1] = (rank == sender ? before : *ready).time_since_epoch().count();
      communicator->allReduceSum(moments, kAmple);
      if (moments[1] < moments[0]) return 2;
    }
    return kSuccess;
  });
  for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(group.wait(rank), kSuccess);
}

TEST(SharedMemory, RanksOfOneProcess) {
  constexpr int kRanks = 3;
  std::vector<std::unique_ptr<GlooConnector>> connectors;
  std::vector<std::string> addresses;
  for (int rank = 0; rank < kRanks; ++rank) {
    connectors.push_back(std::make_unique<GlooConnector>(rank, kRanks, "localhost"));
    addresses.push_back(connectors.back()->address());
  }
  std::vector<std::thread> threads;
  std::array<bool, kRanks> right = {};
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto communicator = connectors[static_cast<size_t>(rank)]->connect(addresses, kAmple);
      right[static_cast<size_t>(rank)] = sumIsRight(*communicator, 30'000, 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::accumulate(right.begin(), right.end(), 0), kRanks);
}

}  // namespace
}  // namespace hels::test
