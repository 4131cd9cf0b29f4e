// Exchanges between processes, over TCP and through shared memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>

#include "exchange_pattern.h"
#include "process_group.h"

namespace hels::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kAmple = 20s;

/// The code of what the exchange throws, and how long that took.
struct Outcome {
  std::optional<ErrorCode> code;
  std::chrono::nanoseconds duration;
};

template <typename Size>
Outcome exchangeOnce(Communicator& communicator, std::chrono::nanoseconds deadline, const Size& size) {
  const auto start = Clock::now();
  try {
    exchangeIsRight(communicator, 0, deadline, size);
  } catch (const Error& error) {
    return {error.code(), Clock::now() - start};
  }
  return {std::nullopt, Clock::now() - start};
}
constexpr auto kFew = [](int, int) { return size_t{10}; };

bool sumIsRight(Communicator& communicator, size_t count) {
  std::vector<int64_t> values(count, communicator.rank() + 1);
  communicator.allReduceSum(values, kAmple);
  const int64_t expected = communicator.ranks() * (communicator.ranks() + 1) / 2;
  return std::ranges::all_of(values, [expected](int64_t value) { return value == expected; });
}

std::string transportName(Transport transport) { return transport == Transport::kTcp ? "Tcp" : "SharedMemory"; }

class Exchange : public testing::TestWithParam<std::tuple<Transport, int>> {};
INSTANTIATE_TEST_SUITE_P(Between, Exchange,
                         testing::Combine(testing::Values(Transport::kTcp, Transport::kBest),
                                          testing::Values(1, 2, 3, 5)),
                         [](const auto& info) {
                           return transportName(std::get<0>(info.param)) + std::to_string(std::get<1>(info.param));
                         });

class Processes : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(Over, Processes, testing::Values(Transport::kTcp, Transport::kBest),
                         [](const auto& info) { return transportName(info.param); });

TEST_P(Exchange, BringsEveryByteToItsRank) {
  const auto [transport, ranks] = GetParam();
  ProcessGroup group(ranks,
                     [transport = transport](int, GlooConnector& connector, const std::vector<std::string>& addresses) {
                       const auto communicator = connector.connect(addresses, kAmple, transport);
                       for (int call = 0; call < 60; ++call) {
                         const auto size = [call](int from, int to) { return exchangeSize(from, to, call); };
                         if (!exchangeIsRight(*communicator, call, kAmple, size)) return 1;
                         if (call % 3 == 0 && !sumIsRight(*communicator, call % 2 == 0 ? 20'000 : 10)) return 2;
                       }
                       return kSuccess;
                     });
  for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(group.wait(rank), kSuccess) << "rank " << rank;
}

/// Bytes of one pair only, or of a ring: what blocks a rank must never be a peer that waits for it.
TEST_P(Processes, LargeUnevenExchangesDoNotDeadlock) {
  const Transport transport = GetParam();
  ProcessGroup group(4, [transport](int, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    constexpr size_t kLarge = 3'000'001;
    for (int call = 0; call < 4; ++call) {
      const auto ring = [](int from, int to) { return (from + 1) % 4 == to ? kLarge : size_t{0}; };
      const auto pair = [](int from, int to) { return from == 2 && to == 0 ? kLarge : size_t{0}; };
      const auto all = [](int from, int to) { return kLarge / static_cast<size_t>(1 + from + 3 * to); };
      if (!exchangeIsRight(*communicator, call, kAmple, ring)) return 1;
      if (!exchangeIsRight(*communicator, call, kAmple, pair)) return 2;
      if (!exchangeIsRight(*communicator, call, kAmple, all)) return 3;
    }
    return kSuccess;
  });
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(group.wait(rank), kSuccess) << "rank " << rank;
}

TEST_P(Processes, KilledPeerEndsAnExchange) {
  const Transport transport = GetParam();
  ProcessGroup group(2, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    if (exchangeOnce(*communicator, kAmple, kFew).code.has_value()) return 1;
    if (rank == 1) ::raise(SIGKILL);
    const Outcome outcome = exchangeOnce(*communicator, kAmple, kFew);
    return outcome.code == ErrorCode::kPeerLost && outcome.duration < 2s ? kSuccess : 2;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
  EXPECT_EQ(group.wait(1), kKilled);
}

/// One rank that waits for bytes, one that cannot get rid of its own.
TEST_P(Processes, StoppedPeerEndsAnExchangeInTime) {
  const Transport transport = GetParam();
  for (const bool sends : {false, true}) {
    ProcessGroup group(
        2, [transport, sends](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
          const auto communicator = connector.connect(addresses, kAmple, transport);
          if (rank == 1) ::raise(SIGSTOP);
          const auto size = [sends](int from, int) { return (from == 0) == sends ? size_t{5'000'000} : size_t{0}; };
          const Outcome outcome = exchangeOnce(*communicator, 300ms, size);
          return outcome.code == ErrorCode::kDeadlineExceeded && outcome.duration < 5s ? kSuccess : 2;
        });
    EXPECT_EQ(group.wait(0), kSuccess) << (sends ? "sending" : "receiving");
  }
}

TEST_P(Processes, AbortEndsAnExchange) {
  const Transport transport = GetParam();
  ProcessGroup group(2, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    if (rank == 1) {
      std::this_thread::sleep_for(600ms);
      exchangeOnce(*communicator, kAmple, kFew);  // may still succeed: what rank 0 sent before it aborted has arrived
      return exchangeOnce(*communicator, kAmple, kFew).code == ErrorCode::kPeerLost ? kSuccess : 1;
    }
    std::thread aborter([&] {
      std::this_thread::sleep_for(100ms);
      communicator->abort();
    });
    const Outcome outcome = exchangeOnce(*communicator, kAmple, kFew);
    aborter.join();
    return outcome.code == ErrorCode::kAborted && outcome.duration < 500ms ? kSuccess : 2;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
  EXPECT_EQ(group.wait(1), kSuccess);
}

TEST_P(Processes, DifferentSizesOfAnExchangeAreRefused) {
  const Transport transport = GetParam();
  ProcessGroup group(2, [transport](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    const auto communicator = connector.connect(addresses, kAmple, transport);
    const auto size = [rank](int, int) { return rank == 0 ? size_t{100} : size_t{101}; };
    return exchangeOnce(*communicator, kAmple, size).code == ErrorCode::kShapeInvalid ? kSuccess : 1;
  });
  EXPECT_EQ(group.wait(0), kSuccess);
  EXPECT_EQ(group.wait(1), kSuccess);
}

}  // namespace
}  // namespace hels::test
