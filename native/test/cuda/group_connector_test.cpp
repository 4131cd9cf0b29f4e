#include "engine/group_connector.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <future>
#include <optional>
#include <thread>

#include "base/error.h"
#include "comm/cuda/nccl_communicator.h"
#include "comm/device_communicator.h"
#include "engine/engine_thread.h"
#include "fake_folder.h"

namespace hels {
namespace {

using namespace std::chrono_literals;

/// Keeps what it is connected by.
class ConnectedEngine final : public Engine {
 public:
  void connect(std::shared_ptr<Communicator> communicator) override { host = std::move(communicator); }
  void connectDevice(std::shared_ptr<cuda::DeviceCommunicator> communicator) override {
    device = std::move(communicator);
  }
  KvMigrationResult migrateKv(const KvMigration& /*migration*/) override { return {}; }
  StepResult step(const StepBatch& /*batch*/) override { return {}; }
  EngineReport report() const override { return {}; }
  void abort() noexcept override {}

  std::shared_ptr<Communicator> host;
  std::shared_ptr<cuda::DeviceCommunicator> device;
};

/// Finds the fake as NCCL.
class GroupConnectorTest : public ::testing::Test {
 protected:
  GroupConnectorTest() {
    static const test::FakeFolder folder(HELS_FAKE_NCCL, "libnccl.so.2");
    ::setenv("HELS_CUDA_LIBRARY_PATH", folder.path().c_str(), 1);
  }
};

TEST_F(GroupConnectorTest, ARankWithAGpuOfItsOwnUsesNccl) {
  GroupConnector connector(0, 1, "127.0.0.1", "cuda:0");
  ConnectedEngine engine;
  EXPECT_EQ(connector.connect(engine, {connector.address()}, 20s).find("nccl 2.28.3"), 0U);
  ASSERT_NE(engine.device, nullptr);
  EXPECT_EQ(engine.device->ranks(), 1);
  EXPECT_EQ(engine.host, nullptr);
}

TEST_F(GroupConnectorTest, RanksThatShareAGpuOrHaveNoneSumThroughTheHost) {
  for (const char* other : {"cuda:0", "cpu"}) {
    GroupConnector first(0, 2, "127.0.0.1", "cuda:0");
    GroupConnector second(1, 2, "127.0.0.1", other);
    const std::vector<std::string> addresses{first.address(), second.address()};
    ConnectedEngine engines[2];
    std::thread peer([&] { second.connect(engines[1], addresses, 20s); });
    first.connect(engines[0], addresses, 20s);
    peer.join();
    for (const ConnectedEngine& engine : engines) {
      ASSERT_NE(engine.host, nullptr) << other;
      EXPECT_EQ(engine.host->ranks(), 2);
      EXPECT_EQ(engine.device, nullptr);
    }
  }
}

using Clock = std::chrono::steady_clock;

std::optional<ErrorCode> codeOf(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code();
  }
  return std::nullopt;
}

/// Rank 1 of 2 with a GPU of its own, whose ends nobody answers at unless the test does.
struct SilentPeer {
  GlooConnector host{1, 2, "127.0.0.1"};
  cuda::NcclConnector devices{1, 2, 0};
  std::string address() const { return host.address() + "|another|" + devices.address(); }
};

TEST_F(GroupConnectorTest, OneDeadlineIsForAllOfIt) {
  SilentPeer peer;
  GroupConnector connector(0, 2, "127.0.0.1", "cuda:0");
  const std::vector<std::string> addresses{connector.address(), peer.address()};
  const std::string own = addresses[0].substr(addresses[0].rfind('|') + 1);
  std::shared_ptr<cuda::DeviceCommunicator> formed;
  std::thread late([&] {  // the peer forms the group of the GPUs, late, and no more
    std::this_thread::sleep_for(700ms);
    formed = peer.devices.connect({own, peer.devices.address()}, 20s);
  });
  ConnectedEngine engine;
  const auto start = Clock::now();
  EXPECT_EQ(codeOf([&] { connector.connect(engine, addresses, 1s); }), ErrorCode::kDeadlineExceeded);
  EXPECT_LT(Clock::now() - start, 1400ms);
  late.join();
}

/// Runs connect() on an engine thread with a peer that never comes, and what `end` does meanwhile.
void expectEnded(const std::string& ownDevice, const std::string& peerAddress,
                 const std::function<void(EngineThread&)>& end) {
  EngineThread thread;
  std::promise<void> connecting;
  std::promise<std::exception_ptr> settled;
  thread.post({[&](EngineSlot& slot) {
                 slot.set(std::make_unique<ConnectedEngine>());
                 slot.setConnector(std::make_unique<GroupConnector>(0, 2, "127.0.0.1", ownDevice));
                 connecting.set_value();
                 slot.connector()->connect(*slot.get(), {slot.connector()->address(), peerAddress}, 20s);
               },
               [&](std::exception_ptr failure) { settled.set_value(std::move(failure)); }});
  connecting.get_future().wait();
  std::this_thread::sleep_for(50ms);
  const auto start = Clock::now();
  end(thread);
  EXPECT_EQ(codeOf([&] { std::rethrow_exception(settled.get_future().get()); }), ErrorCode::kAborted);
  EXPECT_LT(Clock::now() - start, 2s);
}

TEST_F(GroupConnectorTest, AbortAndCloseEndTheFormingOfAGroup) {
  for (const char* device : {"cpu", "cuda:0"}) {
    for (const bool close : {false, true}) {
      SilentPeer peer;
      expectEnded(device, peer.address(), [close](EngineThread& thread) { close ? thread.close() : thread.abort(); });
    }
  }
}

TEST(GroupAddress, HasOneOrThreeParts) {
  EXPECT_EQ(parseGroupAddress("host").host, "host");
  const GroupAddress address = parseGroupAddress("host|boot/0000:17:00.0|nccl/00");
  EXPECT_EQ(address.host, "host");
  EXPECT_EQ(address.gpu, "boot/0000:17:00.0");
  EXPECT_EQ(address.nccl, "nccl/00");
  EXPECT_THROW(parseGroupAddress("host|gpu"), Error);
  EXPECT_THROW(parseGroupAddress("a|b|c|d"), Error);
}

TEST(GroupAddress, EveryRankNeedsAGpuOfItsOwn) {
  const GroupAddress cpu{.host = "h", .gpu = "", .nccl = ""};
  const auto gpu = [](const char* name) { return GroupAddress{.host = "h", .gpu = name, .nccl = "nccl/"}; };
  EXPECT_TRUE(haveOwnGpus({gpu("a/0"), gpu("a/1"), gpu("b/0")}));
  EXPECT_FALSE(haveOwnGpus({gpu("a/0"), gpu("a/1"), gpu("a/0")}));
  EXPECT_FALSE(haveOwnGpus({gpu("a/0"), cpu}));
  EXPECT_FALSE(haveOwnGpus({}));
}

}  // namespace
}  // namespace hels
