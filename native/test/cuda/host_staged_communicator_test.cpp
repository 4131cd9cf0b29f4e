#include "comm/cuda/host_staged_communicator.h"

#include "comm/local_communicator.h"
#include "device_group.h"

namespace hels::cuda {
namespace {

using namespace std::chrono_literals;

TEST(HostStagedCommunicator, SumsOnEveryRankAndGrows) {
  for (int ranks = 1; ranks <= 3; ++ranks) {
    const auto group = createLocalGroup(ranks);
    std::vector<std::shared_ptr<DeviceCommunicator>> communicators;
    for (const auto& communicator : group) communicators.push_back(stageThroughHost(communicator, 100));
    test::expectSums(ranks, [&](int rank) -> DeviceCommunicator& { return *communicators[static_cast<size_t>(rank)]; });
    EXPECT_EQ(communicators[0]->transport(), "host, threads");
  }
}

TEST(HostStagedCommunicator, SharesAGroupWithARankOnTheProcessor) {
  constexpr size_t kCount = 300;
  const auto group = createLocalGroup(2);
  const auto device = stageThroughHost(group[1], kCount);
  std::vector<int64_t> onHost = test::addends(0, 0, kCount);
  std::thread host([&] { group[0]->allReduceSum(onHost, test::kAmple); });
  const test::Stream stream;
  const test::DeviceValues values(kCount);
  values.write(test::addends(1, 0, kCount));
  device->allReduceSum(values.data(), kCount, stream.get(), test::kAmple);
  device->synchronize(stream.get(), test::kAmple);
  host.join();
  EXPECT_EQ(values.read(), test::sumOf(2, 0, kCount));
  EXPECT_EQ(onHost, test::sumOf(2, 0, kCount));
}

TEST(HostStagedCommunicator, AMissingRankExceedsTheDeadline) {
  const auto group = createLocalGroup(2);
  test::expectCode(test::sumOnce(*stageThroughHost(group[0], 100), 50ms), ErrorCode::kDeadlineExceeded);
  test::expectCode(test::sumOnce(*stageThroughHost(group[1], 100), test::kAmple), ErrorCode::kPeerLost);
}

TEST(HostStagedCommunicator, AbortEndsARunningSum) {
  const auto group = createLocalGroup(2);
  const auto device = stageThroughHost(group[0], 100);
  std::thread aborter([&] {
    std::this_thread::sleep_for(50ms);
    device->abort();
  });
  test::expectCode(test::sumOnce(*device, test::kAmple), ErrorCode::kAborted);
  aborter.join();
  test::expectCode(test::sumOnce(*device, test::kAmple), ErrorCode::kAborted);
}

}  // namespace
}  // namespace hels::cuda
