// KV that lies elsewhere gives the same bits: parked and brought back, in host memory, with another rank.
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "base/error.h"
#include "comm/gloo_connector.h"
#include "reference/kv_world.h"

namespace hels {
namespace {

using namespace reference;

void expectError(const std::string& part, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "no error; expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

/// Attention of several kinds: heads that share KV or not, more of them than rows are attended to at once, windows.
ModelSpec specOf(const std::string& kind, DataType type) {
  ModelSpec spec = kind == "mha" ? tinyOpt() : tinyLlama();
  if (kind == "wide") {
    spec.queryHeadsPerGroup = 10;
    spec.headDim = 6;
  }
  if (kind == "window") spec.slidingWindows = {9, 0, 130};
  spec.maxPositions = 600;
  spec.weightType = type;
  return spec;
}

EngineOptions poolOptions(int64_t blockTokens, int64_t blocks, int64_t parked) {
  EngineOptions options = tinyOptions();
  options.kvBlockTokens = blockTokens;
  options.kvBlocks = blocks;
  options.kvParkedBlocks = parked;
  return options;
}

class Residency : public testing::TestWithParam<std::tuple<std::string, DataType>> {
 protected:
  void SetUp() override { model_ = makeTinyModel(specOf(std::get<0>(GetParam()), std::get<1>(GetParam())), 5); }

  void expectSameBits(const std::vector<RankShare>& shares, const EngineOptions& common,
                      const std::vector<int64_t>& deviceBlocks, const KvWorld::Shape& shape, uint64_t seed) {
    std::mt19937_64 random(seed);
    RankGroup group(model_, shares, randomLoans(model_, shares, common, deviceBlocks, random));
    KvWorld world(model_, group, common, shape, seed);
    int64_t steps = 0;
    ASSERT_TRUE(world.run(steps)) << "step " << steps << ", seed " << seed;
    exchanges_ += group.engine(0).report().exchangeCount;
    steps_ += steps;
  }

  /// More than a pair of exchanges a layer and step; with windows few steps see what is lent.
  void expectTurns() const {
    if (!model_.spec.slidingWindows.empty()) return;
    EXPECT_GT(exchanges_, static_cast<uint64_t>(2 * model_.spec.layers * steps_));
  }

  TinyModel model_;
  uint64_t exchanges_ = 0;
  int64_t steps_ = 0;
};

TEST_P(Residency, ParkedOnTheDeviceAndInHostMemory) {
  for (const int64_t deviceBlocks : {30, 36, 54}) {  // none, some and all of the parked addresses on the device
    expectSameBits({{2, 1, 30}, {2, 0, 0}}, poolOptions(16, 30, 24), {30, deviceBlocks}, {}, 3);
  }
  EXPECT_EQ(exchanges_, 0U);
}

TEST_P(Residency, LentToOneOfTwoRanks) {
  const std::vector<RankShare> shares = {{1, 1, 30}, {3, 0, 0}};
  expectSameBits(shares, poolOptions(64, 12, 8), {12, 3}, {}, 4);
  expectSameBits(shares, poolOptions(64, 12, 8), {5, 16}, {}, 5);
  EXPECT_GT(exchanges_, 0U);
}

TEST_P(Residency, LentToEachOther) {
  expectSameBits({{2, 1, 30}, {2, 0, 0}}, poolOptions(64, 14, 4), {4, 7}, {5, 260, 128}, 6);
}

TEST_P(Residency, LentAmongThreeRanks) {
  for (uint64_t seed = 10; seed < 14; ++seed) {
    expectSameBits({{1, 1, 10}, {2, 1, 0}, {1, 0, 0}}, poolOptions(64, 12, 5), {0, 5, 9}, {}, seed);
  }
}

TEST_P(Residency, HeldByARankWithoutHeads) {
  expectSameBits({{0, 1, 10}, {4, 1, 0}}, poolOptions(64, 10, 3), {0, 2}, {}, 20);
}

TEST_P(Residency, BlocksOfSeveralChunks) {
  expectSameBits({{2, 1, 30}, {2, 0, 0}}, poolOptions(192, 8, 2), {2, 5}, {3, 420, 128}, 21);
}

/// Buffers for steps of 40 tokens hold two or three of the blocks that a sequence has lent.
TEST_P(Residency, ExchangesInTurns) {
  EngineOptions few = poolOptions(64, 40, 2);
  few.stepTokensMax = 40;
  expectSameBits({{1, 1, 30}, {3, 0, 0}}, few, {40, 1}, {6, 400, 40}, 21);
  expectTurns();
  expectSameBits({{1, 1, 30}, {2, 0, 0}, {1, 0, 0}}, few, {3, 1, 6}, {6, 400, 40}, 22);
}

/// Buffers hold rows of as many tokens as two blocks have, whatever a step may have.
TEST_P(Residency, LongPrefillsInTurns) {
  EngineOptions longSteps = poolOptions(64, 20, 4);
  longSteps.stepTokensMax = 512;
  expectSameBits({{1, 1, 30}, {3, 0, 0}}, longSteps, {20, 1}, {2, 580, 512}, 23);
  expectTurns();
}

TEST_P(Residency, AddressesGivenOutInOrder) {
  KvWorld::Shape shape;
  shape.lowestFirst = true;
  EngineOptions options = poolOptions(64, 12, 4);
  options.threads = 2;
  expectSameBits({{2, 1, 30}, {2, 0, 0}}, options, {6, 12}, shape, 22);
}

INSTANTIATE_TEST_SUITE_P(Models, Residency,
                         testing::Combine(testing::Values("mha", "gqa", "wide", "window"),
                                          testing::Values(DataType::kF32, DataType::kBf16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + dataTypeName(std::get<1>(info.param));
                         });

/// A group of two in which rank 1 lends the addresses from 1 on.
class Lending : public testing::Test {
 protected:
  std::vector<EngineOptions> options() const {
    EngineOptions common = poolOptions(64, 8, 2);
    common.kvLoans = {{1, 0, {1, 8}, {2, 4}}};
    std::vector<EngineOptions> both(2, common);
    both[1].kvDeviceBlocks = 1;
    return both;
  }
  const std::vector<RankShare> shares_ = {{2, 1, 30}, {2, 0, 0}};
  const TinyModel model_ = makeTinyModel(specOf("gqa", DataType::kF32), 5);
};

/// The same over what ranks in several processes use.
TEST_F(Lending, OverTcpAndSharedMemory) {
  for (const Transport transport : {Transport::kTcp, Transport::kBest}) {
    const std::vector<RankShare> shares = {{1, 1, 10}, {2, 1, 0}, {1, 0, 0}};
    const EngineOptions common = poolOptions(64, 12, 5);
    std::mt19937_64 random(30);
    RankGroup group(model_, shares, randomLoans(model_, shares, common, {3, 0, 8}, random));
    std::vector<std::unique_ptr<GlooConnector>> connectors;
    std::vector<std::string> addresses;
    for (int rank = 0; rank < 3; ++rank) {
      connectors.push_back(std::make_unique<GlooConnector>(rank, 3, "localhost"));
      addresses.push_back(connectors.back()->address());
    }
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        group.engine(rank).connect(connectors[rank]->connect(addresses, std::chrono::seconds(20), transport));
      });
    }
    for (std::thread& thread : threads) thread.join();
    KvWorld world(model_, group, common, {3, 180, 128}, 31);
    int64_t steps = 0;
    EXPECT_TRUE(world.run(steps)) << "step " << steps;
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_GT(group.engine(rank).report().moveSeconds, 0.0);
      EXPECT_GT(group.engine(rank).report().remoteSeconds, 0.0);
    }
  }
}

TEST_F(Lending, NothingIsExchangedWhileNoSequenceTouchesWhatIsLent) {
  RankGroup group(model_, shares_, options());
  StepBatch batch;
  SequenceStep& sequence = batch.sequences.emplace_back();
  sequence.tokens = randomTokens(60, model_.spec.vocabRows, 1);
  sequence.blockTable = {0};
  group.step(batch);
  EXPECT_EQ(group.engine(0).report().exchangeCount, 0U);
  sequence.startPosition = 60;
  sequence.blockTable = {0, 5};
  const StepResult result = group.step(batch);
  EXPECT_EQ(group.engine(0).report().exchangeCount, 6U);  // two in each of three layers
  EXPECT_EQ(group.engine(0).report().exchangeBytes, group.engine(1).report().exchangeBytes);
  EXPECT_GT(result.remoteSeconds, 0.0);
  EXPECT_GE(result.totalSeconds, result.remoteSeconds + result.computeSeconds);
  EXPECT_EQ(group.engine(0).report().remoteSeconds, result.remoteSeconds);
}

/// Decode rows of many sequences that share a lent prefix: together they are more than the block.
TEST_F(Lending, SharedPrefix) {
  const std::vector<int32_t> tokens = randomTokens(70, model_.spec.vocabRows, 5);
  RankGroup alone(model_, {{4, 0, 0}});
  const std::vector<float> expected = prefillLogits(alone, tokens, 70);
  EngineOptions common = options()[0];
  common.kvBlocks = 40;
  common.kvLoans[0].blocks = {1, 40};
  std::vector<EngineOptions> both(2, common);
  both[1].kvDeviceBlocks = 1;
  RankGroup group(model_, shares_, both);
  StepBatch prefix;
  SequenceStep first;
  first.tokens.assign(tokens.begin(), tokens.begin() + 64);
  first.blockTable = {7};
  prefix.sequences.push_back(first);
  group.step(prefix);
  for (const int32_t sequences : {3, 30}) {
    StepBatch batch;
    for (int32_t slot = 0; slot < sequences; ++slot) {
      SequenceStep part;
      part.slot = slot;
      part.startPosition = 64;
      part.tokens.assign(tokens.begin() + 64, tokens.begin() + 67);
      part.blockTable = {7, 8 + slot};
      part.returnLogits = true;
      batch.sequences.push_back(part);
    }
    const std::vector<float> logits = group.step(batch).logits;
    const size_t rows = 3 * 101;
    ASSERT_EQ(logits.size(), rows * static_cast<size_t>(sequences));
    for (size_t i = 0; i < logits.size(); ++i) ASSERT_EQ(logits[i], expected[64 * 101 + i % rows]) << i;
  }
}

TEST_F(Lending, LossOfTheHolderIsReported) {
  RankGroup group(model_, shares_, options());
  StepBatch batch;
  SequenceStep& sequence = batch.sequences.emplace_back();
  sequence.tokens = {1, 2, 3};
  sequence.blockTable = {5};
  batch.collectiveDeadline = std::chrono::milliseconds(200);
  try {
    group.engine(1).step(batch);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDeadlineExceeded);
  }
}

TEST_F(Lending, MemoryIsCountedWhereItLies) {
  RankGroup group(model_, shares_, options());
  const uint64_t block = 2U * 3 * 2 * 12 * 4 * 64;  // keys and values, layers, groups, headDim, f32, positions
  const EngineReport holder = group.engine(0).report();
  const EngineReport owner = group.engine(1).report();
  EXPECT_EQ(holder.kvBytes, 8 * block);
  EXPECT_EQ(holder.kvLoanBytes, 7 * block);
  EXPECT_EQ(holder.kvHostBytes, 2 * block);
  EXPECT_EQ(owner.kvBytes, block);
  EXPECT_EQ(owner.kvLoanBytes, 0U);
  EXPECT_EQ(owner.kvHostBytes, 2 * block);

  std::vector<EngineOptions> limited = options();
  limited[0].memoryBytes = holder.weightBytesResident + holder.kvBytes + holder.kvLoanBytes + holder.scratchBytes;
  EXPECT_NO_THROW(RankGroup(model_, shares_, limited));
  --limited[0].memoryBytes;
  try {
    RankGroup(model_, shares_, limited);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kMemoryExceeded);
    EXPECT_NE(std::string(error.what()).find("KV held for others"), std::string::npos) << error.what();
  }
}

TEST_F(Lending, RefusesWhatGivesAnAddressNoHomeOrTwo) {
  using Change = std::function<void(EngineOptions&)>;
  const std::pair<const char*, Change> cases[] = {
      {"kvParkedBlocks is -1", [](EngineOptions& o) { o.kvParkedBlocks = -1; }},
      {"kvDeviceBlocks is 11; allowed is 0 to 10", [](EngineOptions& o) { o.kvDeviceBlocks = 11; }},
      {"kvDeviceBlocks is 2, and rank 1 lends from address 1", [](EngineOptions& o) { o.kvDeviceBlocks = 2; }},
      {"lends from address 8 of 8", [](EngineOptions& o) { o.kvLoans.clear(); }},
      {"kvLoans[0].owner is 2", [](EngineOptions& o) { o.kvLoans[0].owner = 2; }},
      {"kvLoans[0].holder is -1", [](EngineOptions& o) { o.kvLoans[0].holder = -1; }},
      {"holder is 1, the owner itself", [](EngineOptions& o) { o.kvLoans[0].holder = 1; }},
      {"blocks is [3, 3)",
       [](EngineOptions& o) {
         o.kvLoans[0].blocks = {3, 3};
       }},
      {"blocks is [1, 9)", [](EngineOptions& o) { o.kvLoans[0].blocks.end = 9; }},
      {"headGroups is [2, 5)", [](EngineOptions& o) { o.kvLoans[0].headGroups.end = 5; }},
      {"headGroups is [1, 4); its owner has [2, 4)", [](EngineOptions& o) { o.kvLoans[0].headGroups.begin = 1; }},
      {"lends [1, 7)", [](EngineOptions& o) { o.kvLoans[0].blocks.end = 7; }},
      {"lends [1, 6)",
       [](EngineOptions& o) {
         o.kvLoans = {{1, 0, {1, 6}, {2, 4}}, {1, 0, {5, 8}, {2, 4}}};
       }},
      {"different headGroups",
       [](EngineOptions& o) {
         o.kvLoans = {{0, 1, {1, 6}, {0, 2}}, {0, 1, {6, 8}, {0, 1}}};
       }},
      {"headGroups [1, 3) of rank 0 and [2, 4) of rank 1 overlap",
       [](EngineOptions& o) {
         o.kvLoans = {{0, 1, {4, 8}, {1, 3}}, {1, 0, {1, 8}, {2, 4}}};
       }},
      {"kvBlockTokens is 32; with kvLoans", [](EngineOptions& o) { o.kvBlockTokens = 32; }},
  };
  const std::vector<ShardSpec> shards = shardsOf(model_.spec, shares_);
  for (const auto& [message, change] : cases) {
    EngineOptions changed = options()[1];
    change(changed);
    expectError(message, [&] { Engine::load(model_.spec, shards[1], model_.source, changed); });
  }
}

/// What moves between ranks has room for each head once.
TEST(LentHeads, HaveOneOwner) {
  KvHomes homes;
  homes.rank = 2;
  homes.ranks = 3;
  homes.blocks = homes.deviceBlocks = 8;
  homes.loans = {{0, 2, {4, 8}, {0, 4}}, {1, 2, {4, 8}, {4, 8}}};
  EXPECT_NO_THROW(checkedKvHomes(homes, 8, 64));
  homes.loans[1].headGroups = {0, 8};
  expectError("headGroups [0, 4) of rank 0 and [0, 8) of rank 1 overlap", [&] { checkedKvHomes(homes, 8, 64); });
}

TEST_F(Lending, RefusesMovesOfUnknownOrDoubleAddresses) {
  RankGroup group(model_, shares_, options());
  const auto moves = [&](std::vector<KvMove> kvMoves) {
    return [&group, kvMoves = std::move(kvMoves)] { group.step({{}, kvMoves, {}}); };
  };
  expectError("no sequences and no kvMoves", moves({}));
  expectError("kvMoves[1]: to is 10; allowed is [0, 10)", moves({{0, 1}, {2, 10}}));
  expectError("kvMoves[0]: from is -1", moves({{-1, 3}}));
  expectError("kvMoves[1]: to is 0; the address is used twice", moves({{0, 1}, {2, 0}}));
  expectError("kvMoves[0]: to is 4; the address is used twice", moves({{4, 4}}));
  expectError("kvMoves has 6 entries", moves(std::vector<KvMove>(6)));
  EXPECT_NO_THROW(moves({{0, 9}, {8, 3}})());
}

}  // namespace
}  // namespace hels
