#include "base/cuda/device_partition.h"

#include <gtest/gtest.h>

#include <optional>

#include "base/error.h"
#include "fake_folder.h"

namespace hels::cuda {
namespace {

/// A device of 20 multiprocessors: two groups of 8 and 4 that are left over.
class DevicePartitionTest : public ::testing::Test {
 protected:
  DevicePartitionTest() : folder_(HELS_FAKE_DRIVER, "libcuda.so.1") {}

  int liveObjects() const {
    return DynamicLibrary::open("fake", {"libcuda.so.1"}, folder_.search()).function<int()>("helsFakeObjects")();
  }

  test::FakeFolder folder_;
};

template <typename Work>
std::string failure(ErrorCode code, const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return "nothing thrown";
}

TEST_F(DevicePartitionTest, RoundsUpToUnits) {
  const auto pool = PartitionPool::create(0, folder_.search());
  EXPECT_EQ(pool->unit(), 8);
  for (const auto& [asked, given] : {std::pair{1, 8}, {8, 8}, {9, 16}, {17, 20}, {20, 20}}) {
    const auto partition = pool->take(asked);
    EXPECT_EQ(partition->multiprocessors(), given) << asked;
    EXPECT_EQ(partition->deviceMultiprocessors(), 20);
    EXPECT_EQ(partition->describe(), std::to_string(given) + " of 20 multiprocessors");
  }
}

TEST_F(DevicePartitionTest, PartitionsAreDisjointAndComeBack) {
  const auto pool = PartitionPool::create(0, folder_.search());
  std::optional<std::unique_ptr<DevicePartition>> first = pool->take(8);  // the fake refuses to share
  const auto second = pool->take(8);
  const auto rest = pool->take(4);
  EXPECT_EQ(rest->multiprocessors(), 4);
  EXPECT_EQ(failure(ErrorCode::kMemoryExceeded, [&] { pool->take(1); }),
            "sm is 1; of the 20 multiprocessors of cuda:0 other partitions of this process leave 0");
  first.reset();
  EXPECT_EQ(pool->take(8)->multiprocessors(), 8);
}

TEST_F(DevicePartitionTest, EndsItsStreamsAndContext) {
  const auto pool = PartitionPool::create(0, folder_.search());
  const int before = liveObjects();
  {
    const auto partition = pool->take(8);
    EXPECT_NE(partition->addStream(), partition->addStream());
    EXPECT_EQ(liveObjects(), before + 3);
  }
  EXPECT_EQ(liveObjects(), before);
}

TEST_F(DevicePartitionTest, RefusesWhatTheDeviceDoesNotHave) {
  const auto pool = PartitionPool::create(0, folder_.search());
  EXPECT_EQ(failure(ErrorCode::kShapeInvalid, [&] { pool->take(0); }), "sm is 0; cuda:0 has 1 to 20 multiprocessors");
  EXPECT_EQ(failure(ErrorCode::kShapeInvalid, [&] { pool->take(21); }), "sm is 21; cuda:0 has 1 to 20 multiprocessors");
  EXPECT_NE(failure(ErrorCode::kDeviceMissing, [&] { PartitionPool::create(1, folder_.search()); }).find("cuda:1"),
            std::string::npos);
}

TEST_F(DevicePartitionTest, AContextThatTheDriverRefusesLosesNoDevice) {
  const auto partition = PartitionPool::create(0, folder_.search())->take(8);
  const auto other = PartitionPool::create(0, folder_.search());  // does not know of the first one's
  EXPECT_EQ(failure(ErrorCode::kInternal, [&] { other->take(8); }),
            "partition of cuda:0: invalid resource configuration (driver status 915)");
}

TEST_F(DevicePartitionTest, SaysWhichDriverItTakes) {
  const test::FakeFolder old(HELS_FAKE_OLD_DRIVER, "libcuda.so.1");
  const std::string text = failure(ErrorCode::kDeviceMissing, [&] { PartitionPool::create(0, old.search()); });
  EXPECT_NE(text.find("takes a driver for CUDA 12.5 or newer (release 555), this one is for CUDA 12.2"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace hels::cuda
