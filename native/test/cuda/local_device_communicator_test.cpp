#include "comm/cuda/local_device_communicator.h"

#include "device_group.h"

namespace hels::cuda {
namespace {

using namespace std::chrono_literals;

TEST(LocalDeviceCommunicator, SumsOnEveryRank) {
  for (int ranks = 1; ranks <= 4; ++ranks) {
    const auto group = LocalDeviceGroup::create(ranks);
    test::expectSums(ranks, [&](int rank) -> DeviceCommunicator& { return *group->communicator(rank); });
  }
}

TEST(LocalDeviceCommunicator, AGraphSumsAtEveryReplay) {
  constexpr int kRanks = 3;
  constexpr size_t kCount = 700;
  const auto group = LocalDeviceGroup::create(kRanks);
  test::onEveryRank(kRanks, [&](int rank) {
    DeviceCommunicator& communicator = *group->communicator(rank);
    const test::Stream stream;
    const test::DeviceValues values(kCount);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capture");
    communicator.allReduceSum(values.data(), kCount, stream.get(), test::kAmple);
    communicator.allReduceSum(values.data(), kCount, stream.get(), test::kAmple);
    check(cudaStreamEndCapture(stream.get(), &graph), "capture");
    check(cudaGraphInstantiate(&executable, graph, 0), "graph");
    for (int call = 0; call < 5; ++call) {
      values.write(test::addends(rank, call, kCount));
      check(cudaGraphLaunch(executable, stream.get()), "replay");
      communicator.synchronize(stream.get(), test::kAmple);
      std::vector<int64_t> expected = test::sumOf(kRanks, call, kCount);
      for (int64_t& value : expected) value *= kRanks;  // the second sum adds what is equal everywhere
      ASSERT_EQ(values.read(), expected);
    }
    check(cudaGraphExecDestroy(executable), "graph");
    check(cudaGraphDestroy(graph), "graph");
  });
}

TEST(LocalDeviceCommunicator, AMissingRankExceedsTheDeadline) {
  const auto group = LocalDeviceGroup::create(2);
  const auto start = std::chrono::steady_clock::now();
  test::expectCode(test::sumOnce(*group->communicator(0), 100ms), ErrorCode::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  test::expectCode(test::sumOnce(*group->communicator(1), test::kAmple), ErrorCode::kPeerLost);
  test::expectCode(test::sumOnce(*group->communicator(0), test::kAmple), ErrorCode::kDeadlineExceeded);
}

TEST(LocalDeviceCommunicator, UnequalCountsAreAnError) {
  const auto group = LocalDeviceGroup::create(2);
  test::onEveryRank(2, [&](int rank) {
    const auto failure = test::sumOnce(*group->communicator(rank), test::kAmple, rank == 0 ? 100 : 5000);
    test::expectCode(failure, ErrorCode::kShapeInvalid);
  });
}

TEST(LocalDeviceCommunicator, AbortEndsARunningSum) {
  const auto group = LocalDeviceGroup::create(3);
  std::thread aborter([&] {
    std::this_thread::sleep_for(100ms);
    group->communicator(0)->abort();
    group->communicator(0)->abort();
  });
  const auto start = std::chrono::steady_clock::now();
  test::onEveryRank(2, [&](int rank) {  // rank 2 never comes
    test::expectCode(test::sumOnce(*group->communicator(rank), test::kAmple),
                     rank == 0 ? ErrorCode::kAborted : ErrorCode::kPeerLost);
  });
  aborter.join();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

TEST(LocalDeviceCommunicator, ADestroyedRankIsLost) {
  std::shared_ptr<DeviceCommunicator> first;
  {
    const auto group = LocalDeviceGroup::create(2);
    first = group->communicator(0);
  }
  const auto failure = test::sumOnce(*first, test::kAmple);
  test::expectCode(failure, ErrorCode::kPeerLost);
  EXPECT_STREQ(failure->what(), "rank 1 left the group: its communicator was destroyed");
}

TEST(LocalDeviceCommunicator, RefusesGroupsAndRanksThatAreNone) {
  for (const int ranks : {0, 9}) EXPECT_THROW(LocalDeviceGroup::create(ranks), Error);
  EXPECT_THROW(LocalDeviceGroup::create(2)->communicator(2), Error);
}

}  // namespace
}  // namespace hels::cuda
