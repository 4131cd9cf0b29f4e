#include "comm/gloo_connector.h"

#include <gtest/gtest.h>

#include "comm/socket_address.h"
#include "process_group.h"

namespace hels::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kAmple = 20s;

/// Which of two ends waits for the other to dial in depends on their addresses, so each rank is the absent one once.
class GlooConnect : public testing::TestWithParam<int> {};

TEST_P(GlooConnect, AbsentPeerExceedsTheDeadline) {
  const int absent = GetParam();
  ProcessGroup group(2, [absent](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    if (rank == absent) {
      std::this_thread::sleep_for(5s);
      return kSuccess;
    }
    const auto start = Clock::now();
    try {
      connector.connect(addresses, 300ms);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kDeadlineExceeded && Clock::now() - start < 1s ? kSuccess : 1;
    }
    return 2;
  });
  EXPECT_EQ(group.wait(1 - absent), kSuccess);
}

TEST_P(GlooConnect, DeadPeerIsAnErrorInTime) {
  const int dead = GetParam();
  ProcessGroup group(2, [dead](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    if (rank == dead) return kSuccess;
    std::this_thread::sleep_for(200ms);
    try {
      connector.connect(addresses, 500ms);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kPeerLost || error.code() == ErrorCode::kDeadlineExceeded ? kSuccess : 1;
    }
    return 2;
  });
  EXPECT_EQ(group.wait(1 - dead, 5s), kSuccess);
}
TEST_P(GlooConnect, AbortEndsItAtOnce) {
  const int absent = GetParam();
  ProcessGroup group(2, [absent](int rank, GlooConnector& connector, const std::vector<std::string>& addresses) {
    if (rank == absent) {
      std::this_thread::sleep_for(5s);
      return kSuccess;
    }
    std::thread aborter([&] {
      std::this_thread::sleep_for(100ms);
      connector.abort();
    });
    const auto start = Clock::now();
    ErrorCode code = ErrorCode::kInternal;
    try {
      connector.connect(addresses, kAmple);
    } catch (const Error& error) {
      code = error.code();
    }
    aborter.join();
    return code == ErrorCode::kAborted && Clock::now() - start < 1s ? kSuccess : 1;
  });
  EXPECT_EQ(group.wait(1 - absent), kSuccess);
}
INSTANTIATE_TEST_SUITE_P(Ranks, GlooConnect, testing::Values(0, 1));

TEST(GlooConnector, AnAbortBeforeIsNotForgotten) {
  GlooConnector connector(0, 2, "127.0.0.1");
  const GlooConnector peer(1, 2, "127.0.0.1");
  const std::vector<std::string> addresses{connector.address(), peer.address()};
  connector.abort();
  try {
    connector.connect(addresses, kAmple);
    ADD_FAILURE() << "connected";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kAborted) << error.what();
  }
}

template <typename Action>
std::string messageOf(ErrorCode code, const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(GlooConnector, RefusesBadArguments) {
  const auto make = [](int rank, int ranks, const std::string& hostname) {
    return [=] { GlooConnector(rank, ranks, hostname); };
  };
  EXPECT_NE(messageOf(ErrorCode::kShapeInvalid, make(2, 2, "127.0.0.1")).find("rank is 2"), std::string::npos);
  EXPECT_NE(messageOf(ErrorCode::kShapeInvalid, make(0, 0, "127.0.0.1")).find("ranks is 0"), std::string::npos);
  EXPECT_NE(messageOf(ErrorCode::kShapeInvalid, make(0, 2, "203.0.113.7")).find("203.0.113.7"), std::string::npos);
  EXPECT_NE(messageOf(ErrorCode::kShapeInvalid, make(0, 2, "not a name")).find("not a name"), std::string::npos);
}

TEST(GlooConnector, RefusesBadAddresses) {
  GlooConnector connector(0, 2, "127.0.0.1");
  const std::string own = connector.address();
  messageOf(ErrorCode::kShapeInvalid, [&] { connector.connect({own}, 1s); });
  messageOf(ErrorCode::kShapeInvalid, [&] { connector.connect({own, own}, 1s); });
  messageOf(ErrorCode::kShapeInvalid, [&] { connector.connect({own, "127.0.0.1:99999,-"}, 1s); });
  messageOf(ErrorCode::kShapeInvalid, [&] { connector.connect({own, ",-"}, 1s); });
}

TEST(SocketAddress, TextIsReadBack) {
  for (const char* text : {"127.0.0.1:4711", "[::1]:80", "10.1.2.3:65535"}) {
    EXPECT_EQ(socketAddressText(parseSocketAddress(text)), text);
  }
  for (const char* text :
       {"", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:12x", "::1:80", "host:80"}) {
    EXPECT_THROW(parseSocketAddress(text), Error) << text;
  }
}

/// Several ranks of several groups live in one process (model verify does that); their sockets must not be mixed up.

}  // namespace
}  // namespace hels::test
