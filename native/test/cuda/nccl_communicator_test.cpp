#include "comm/cuda/nccl_communicator.h"

#include <cstdlib>

#include "comm/cuda/nccl_log.h"
#include "device_group.h"
#include "fake_folder.h"

namespace hels::cuda {
namespace {

using namespace std::chrono_literals;

class NcclCommunicatorTest : public ::testing::Test {
 protected:
  /// One for all tests: NCCL is loaded once in a process.
  static const test::FakeFolder& folder() {
    static const test::FakeFolder made(HELS_FAKE_NCCL, "libnccl.so.2");
    return made;
  }
  ~NcclCommunicatorTest() override { fake<void(int)>("helsFakeSetAsyncError")(0); }

  template <typename Signature>
  Signature* fake(const char* name) const {
    return DynamicLibrary::open("fake", {"libnccl.so.2"}, folder().search()).function<Signature>(name);
  }
  int ended() const { return fake<int()>("helsFakeEnded")(); }

  /// Groups that were given up are ended in the background: waits until `communicators` of them have been since there
  /// were `before`, and nothing of them is left on the device. The process must not end under their threads.
  void expectSettled(int before, int communicators) const {
    const auto settled = [&] {
      size_t freeBytes = 0;
      size_t totalBytes = 0;
      (void)cudaMemGetInfo(&freeBytes, &totalBytes);
      return ended() == before + communicators && freeBytes == totalBytes;
    };
    const auto limit = std::chrono::steady_clock::now() + test::kAmple;
    while (!settled() && std::chrono::steady_clock::now() < limit) std::this_thread::sleep_for(1ms);
    EXPECT_TRUE(settled());
  }

  std::vector<std::unique_ptr<NcclConnector>> connectors(int ranks) const {
    std::vector<std::unique_ptr<NcclConnector>> made;
    for (int rank = 0; rank < ranks; ++rank)
      made.push_back(std::make_unique<NcclConnector>(rank, ranks, 0, folder().search()));
    return made;
  }
  static std::vector<std::string> addresses(const std::vector<std::unique_ptr<NcclConnector>>& connectors) {
    std::vector<std::string> all;
    for (const auto& connector : connectors) all.push_back(connector->address());
    return all;
  }
  std::vector<std::shared_ptr<DeviceCommunicator>> group(int ranks) const {
    const auto made = connectors(ranks);
    const auto all = addresses(made);
    std::vector<std::shared_ptr<DeviceCommunicator>> communicators(static_cast<size_t>(ranks));
    test::onEveryRank(ranks, [&](int rank) {
      communicators[static_cast<size_t>(rank)] = made[static_cast<size_t>(rank)]->connect(all, test::kAmple);
    });
    return communicators;
  }
};

template <typename Work>
std::optional<Error> failure(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

TEST_F(NcclCommunicatorTest, SumsOnEveryRank) {
  for (int ranks = 1; ranks <= 3; ++ranks) {
    const auto communicators = group(ranks);
    test::expectSums(ranks, [&](int rank) -> DeviceCommunicator& { return *communicators[static_cast<size_t>(rank)]; });
  }
}

TEST_F(NcclCommunicatorTest, SaysHowTheRanksAreConnected) {
  EXPECT_EQ(group(2)[0]->transport(), "nccl 2.28.3 (Ring, Simple), P2P/CUMEM");
}

TEST_F(NcclCommunicatorTest, EndsItsCommunicators) {
  const int before = ended();
  group(2);
  EXPECT_EQ(ended(), before + 2);
}

TEST_F(NcclCommunicatorTest, AGroupThatDoesNotFormExceedsTheDeadline) {
  const auto made = connectors(2);
  const int before = ended();
  const auto start = std::chrono::steady_clock::now();
  const auto ended = failure([&] { made[0]->connect(addresses(made), 50ms); });
  test::expectCode(ended, ErrorCode::kDeadlineExceeded);
  EXPECT_STREQ(ended->what(), "rank 0: the group of 2 ranks did not form within 50 ms");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  // The peer that comes at last finds a group whose first rank has given up.
  test::expectCode(failure([&] { made[1]->connect(addresses(made), 500ms); }), ErrorCode::kDeadlineExceeded);
  expectSettled(before, 2);
}

TEST_F(NcclCommunicatorTest, AbortEndsTheFormingOfAGroup) {
  const auto made = connectors(2);
  const int before = ended();
  std::thread aborter([&] {
    std::this_thread::sleep_for(50ms);
    made[0]->abort();
  });
  const auto start = std::chrono::steady_clock::now();
  test::expectCode(failure([&] { made[0]->connect(addresses(made), test::kAmple); }), ErrorCode::kAborted);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1s);
  aborter.join();
  made[1]->abort();  // not yet connecting
  test::expectCode(failure([&] { made[1]->connect(addresses(made), test::kAmple); }), ErrorCode::kAborted);
  // The thread that waits in NCCL goes on once all ranks are there.
  test::expectCode(failure([&] { NcclConnector(1, 2, 0, folder().search()).connect(addresses(made), 500ms); }),
                   ErrorCode::kDeadlineExceeded);
  expectSettled(before, 2);
}

TEST_F(NcclCommunicatorTest, AbortEndsARunningSum) {
  const auto communicators = group(2);
  std::thread aborter([&] {
    std::this_thread::sleep_for(50ms);
    communicators[0]->abort();
    communicators[0]->abort();
  });
  test::expectCode(test::sumOnce(*communicators[0], test::kAmple), ErrorCode::kAborted);
  aborter.join();
  test::expectCode(test::sumOnce(*communicators[0], test::kAmple), ErrorCode::kAborted);
}

TEST_F(NcclCommunicatorTest, AFailureOfAPeerIsFound) {
  const auto communicators = group(1);
  fake<void(int)>("helsFakeSetAsyncError")(6);
  const auto lost = test::sumOnce(*communicators[0], test::kAmple);
  test::expectCode(lost, ErrorCode::kPeerLost);
  EXPECT_STREQ(lost->what(), "NCCL, state of the group: remote process exited: the fake's own words (status 6)");
  test::expectCode(test::sumOnce(*communicators[0], test::kAmple), ErrorCode::kAborted);
}

TEST_F(NcclCommunicatorTest, RefusesAddressesOfAnotherKind) {
  const auto made = connectors(2);
  const auto refuse = [&](const std::vector<std::string>& all) {
    test::expectCode(failure([&] { made[0]->connect(all, test::kAmple); }), ErrorCode::kShapeInvalid);
  };
  refuse({made[0]->address()});
  refuse({"tcp/127.0.0.1", made[1]->address()});
  refuse({made[1]->address(), made[1]->address()});
  refuse({made[0]->address() + "0", made[1]->address()});
  refuse({"nccl/" + std::string(256, 'g'), made[1]->address()});
  test::expectCode(failure([] { NcclConnector(2, 2, 0); }), ErrorCode::kShapeInvalid);
}

TEST(NcclLog, FindsEveryConnectionOnce) {
  EXPECT_EQ(connectionsInLog("a:1 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM\n"
                             "a:1 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM\n"
                             "a:1 [0] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [send] via NET/Socket/0\n"
                             "a:1 [0] NCCL INFO Bootstrap : via eth0\n"
                             "a:1 [0] NCCL INFO Channel 00 : 1[1] -> 0[0] via SHM/direct/direct"),
            "P2P/CUMEM, NET/Socket/0, SHM/direct/direct");
  EXPECT_EQ(connectionsInLog(""), "");
}

TEST(NcclLog, PinsAlgorithmAndProtocol) {
  EXPECT_EQ(NcclLog::instance().pinned(), "Ring, Simple");
  EXPECT_STREQ(std::getenv("NCCL_ALGO"), "Ring");
  EXPECT_STREQ(std::getenv("NCCL_PROTO"), "Simple");
}

}  // namespace
}  // namespace hels::cuda
