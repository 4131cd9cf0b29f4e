#include "comm/local_communicator.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "base/error.h"
#include "exchange_pattern.h"

namespace hels {
namespace {

using namespace std::chrono_literals;

constexpr auto kAmple = 20s;

/// Runs body(communicator) of every rank on a thread of its own.
template <typename Body>
void onEveryRank(const std::vector<std::shared_ptr<Communicator>>& group, const Body& body) {
  std::vector<std::thread> threads;
  for (const auto& communicator : group) threads.emplace_back([&body, communicator] { body(*communicator); });
  for (std::thread& thread : threads) thread.join();
}

std::optional<ErrorCode> sumOnce(Communicator& communicator, std::chrono::nanoseconds deadline, size_t count = 100) {
  std::vector<int64_t> values(count, 1);
  try {
    communicator.allReduceSum(values, deadline);
  } catch (const Error& error) {
    return error.code();
  }
  return std::nullopt;
}

TEST(LocalCommunicator, SumsEveryRankOnce) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    const auto group = createLocalGroup(ranks);
    onEveryRank(group, [ranks](Communicator& communicator) {
      for (int64_t call = 0; call < 200; ++call) {
        std::vector<int64_t> values(static_cast<size_t>(call % 17));
        for (size_t i = 0; i < values.size(); ++i)
          values[i] = (int64_t{1} << (8 * communicator.rank())) * (call + static_cast<int64_t>(i));
        communicator.allReduceSum(values, kAmple);
        for (size_t i = 0; i < values.size(); ++i) {
          int64_t expected = 0;
          for (int rank = 0; rank < ranks; ++rank)
            expected += (int64_t{1} << (8 * rank)) * (call + static_cast<int64_t>(i));
          ASSERT_EQ(values[i], expected);
        }
      }
    });
  }
}

TEST(LocalCommunicator, MissingRankExceedsTheDeadline) {
  const auto group = createLocalGroup(2);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(sumOnce(*group[0], 50ms), ErrorCode::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  EXPECT_EQ(sumOnce(*group[1], kAmple), ErrorCode::kPeerLost);
}

TEST(LocalCommunicator, AbortEndsARunningSum) {
  const auto group = createLocalGroup(2);
  std::thread aborter([&] {
    std::this_thread::sleep_for(20ms);
    group[0]->abort();
  });
  EXPECT_EQ(sumOnce(*group[0], kAmple), ErrorCode::kAborted);
  aborter.join();
  EXPECT_EQ(sumOnce(*group[0], kAmple), ErrorCode::kAborted);
  EXPECT_EQ(sumOnce(*group[1], kAmple), ErrorCode::kPeerLost);
}

TEST(LocalCommunicator, DestroyedRankIsLost) {
  auto group = createLocalGroup(2);
  group[1].reset();
  EXPECT_EQ(sumOnce(*group[0], kAmple), ErrorCode::kPeerLost);
}

TEST(LocalCommunicator, DifferentLengthsAreRefusedOnEveryRank) {
  onEveryRank(createLocalGroup(3), [](Communicator& communicator) {
    EXPECT_EQ(sumOnce(communicator, kAmple, communicator.rank() == 1 ? 5 : 4), ErrorCode::kShapeInvalid);
  });
}

/// The code of what an exchange throws in which every other rank sends `size(from, to)` bytes.
template <typename Size>
std::optional<ErrorCode> exchangeOnce(Communicator& communicator, std::chrono::nanoseconds deadline, const Size& size) {
  try {
    test::exchangeIsRight(communicator, 0, deadline, size);
  } catch (const Error& error) {
    return error.code();
  }
  return std::nullopt;
}
constexpr auto kFew = [](int, int) { return size_t{10}; };

TEST(LocalExchange, BringsEveryByteToItsRank) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    onEveryRank(createLocalGroup(ranks), [](Communicator& communicator) {
      for (int call = 0; call < 40; ++call) {
        ASSERT_TRUE(test::exchangeIsRight(communicator, call, kAmple,
                                          [call](int from, int to) { return test::exchangeSize(from, to, call); }));
        if (call % 3 == 0) {
          ASSERT_EQ(sumOnce(communicator, kAmple), std::nullopt);
        }
      }
    });
  }
}

TEST(LocalExchange, EndsByDeadlineAbortAndLoss) {
  auto group = createLocalGroup(2);
  EXPECT_EQ(exchangeOnce(*group[0], 50ms, kFew), ErrorCode::kDeadlineExceeded);
  EXPECT_EQ(exchangeOnce(*group[1], kAmple, kFew), ErrorCode::kPeerLost);

  group = createLocalGroup(2);
  std::thread aborter([&] {
    std::this_thread::sleep_for(20ms);
    group[0]->abort();
  });
  EXPECT_EQ(exchangeOnce(*group[0], kAmple, kFew), ErrorCode::kAborted);
  aborter.join();
  EXPECT_EQ(exchangeOnce(*group[1], kAmple, kFew), ErrorCode::kPeerLost);

  group = createLocalGroup(2);
  group[1].reset();
  EXPECT_EQ(exchangeOnce(*group[0], kAmple, kFew), ErrorCode::kPeerLost);
}

TEST(LocalExchange, RefusesDifferentSizesAndBadParts) {
  onEveryRank(createLocalGroup(3), [](Communicator& communicator) {
    const auto size = [&](int from, int to) {
      return static_cast<size_t>(from == 1 && to == 2 && communicator.rank() == 2 ? 11 : 10);
    };
    EXPECT_EQ(exchangeOnce(communicator, kAmple, size), ErrorCode::kShapeInvalid);
  });
  const auto group = createLocalGroup(2);
  EXPECT_THROW(group[0]->exchange(std::vector<ExchangePart>(3), kAmple), Error);
  std::vector<std::byte> bytes(1);
  std::vector<ExchangePart> own(2);
  own[0].receive = bytes;
  EXPECT_THROW(group[0]->exchange(own, kAmple), Error);
}

TEST(LocalGroup, RefusesBadRanks) {
  EXPECT_THROW(LocalGroup::create(0), Error);
  EXPECT_THROW((void)LocalGroup::create(2)->communicator(2), Error);
}

}  // namespace
}  // namespace hels
