// A change of plans on a GPU half-way through a sequence: unchanged weights stay where they are, KV moves to the ranks
// that own its heads now, and the sequence goes on with the bits of an undisturbed run. Runs on a GPU, or under
// emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "comm/cuda/local_device_communicator.h"
#include "reference/gpu_models.h"

namespace hels {
namespace {

using namespace reference;

constexpr int64_t kTokens = 40;
constexpr int64_t kHalf = 21;  // in the middle of a block

struct Plan {
  std::vector<RankShare> shares;
  std::vector<int> before;  // which rank of the plan before it was; -1: none
};

class CudaReplan : public testing::Test {
 protected:
  explicit CudaReplan(bool tied = false) {
    ModelSpec spec = gpuLlama();
    spec.weightType = DataType::kBf16;
    spec.tiedEmbeddings = tied;
    model_ = makeTinyModel(spec, 17);
    tokens_ = randomTokens(kTokens, spec.vocabRows, 3);
    RankGroup alone(model_, {{4, 0, 0}}, gpuOptions());
    expected_ = prefillLogits(alone, tokens_, kTokens);
  }

  /// Feeds tokens [begin, end) and compares the logits with those of the undisturbed run.
  void feed(RankGroup& group, int64_t begin, int64_t end) const {
    StepBatch batch;
    batch.sequences.push_back(sequenceStep(0, {tokens_.begin() + begin, tokens_.begin() + end}, begin, {5, 2, 9}));
    batch.sequences.back().returnLogits = true;
    const std::vector<float> logits = group.step(batch).logits;
    const auto first = expected_.begin() + begin * model_.spec.vocabRows;
    EXPECT_TRUE(std::equal(logits.begin(), logits.end(), first, expected_.begin() + end * model_.spec.vocabRows));
  }

  std::unique_ptr<RankGroup> next(RankGroup& group, const Plan& plan, const EngineOptions& options) const {
    std::vector<std::unique_ptr<Engine>> engines = group.takeEngines();
    std::vector<std::unique_ptr<Engine>> predecessors(plan.before.size());
    for (size_t rank = 0; rank < plan.before.size(); ++rank) {
      if (plan.before[rank] >= 0) predecessors[rank] = std::move(engines[static_cast<size_t>(plan.before[rank])]);
    }
    return std::make_unique<RankGroup>(model_, plan.shares, std::vector<EngineOptions>(plan.shares.size(), options),
                                       std::move(predecessors));
  }

  static KvMigration migrationTo(const RankGroup& group, const std::vector<Range>& headGroupsBefore,
                                 const std::vector<int>& before) {
    KvMigration migration;
    for (const int rank : before) {
      migration.previousHeadGroups.push_back(rank < 0 ? Range{} : headGroupsBefore[static_cast<size_t>(rank)]);
    }
    migration.headGroups = group.headGroups();
    migration.blocks = {{2, 3}, {5, 6}, {8, 11}};  // the sequence's, some that nobody uses, and runs of them
    return migration;
  }

  std::vector<KvMigrationResult> expectSameBits(const std::vector<RankShare>& first, const Plan& second,
                                                const EngineOptions& options = gpuOptions()) const {
    RankGroup old(model_, first, gpuOptions());
    feed(old, 0, kHalf);
    const std::vector<Range> headGroupsBefore = old.headGroups();
    const auto group = next(old, second, options);
    RankGroup fresh(model_, second.shares, options);
    for (size_t rank = 0; rank < group->ranks(); ++rank) {
      const EngineReport report = group->engine(rank).report();
      EXPECT_EQ(report.kvKept, second.before[rank] >= 0) << "rank " << rank;
      EXPECT_EQ(report.weightBytesAdopted > 0, second.before[rank] >= 0) << "rank " << rank;
      EXPECT_EQ(report.weightBytesAdopted + report.weightBytesLoaded, fresh.engine(rank).report().weightBytesLoaded);
    }
    const auto results = group->migrateKv(migrationTo(*group, headGroupsBefore, second.before));
    for (size_t rank = 0; rank < group->ranks(); ++rank) EXPECT_FALSE(group->engine(rank).report().kvKept);
    feed(*group, kHalf, kTokens);
    return results;
  }

  TinyModel model_;
  std::vector<int32_t> tokens_;
  std::vector<float> expected_;
};

class CudaReplanTied : public CudaReplan {
 protected:
  CudaReplanTied() : CudaReplan(true) {}
};

TEST_F(CudaReplan, HeadsChangeHands) {
  const auto results = expectSameBits({{1, 1, 30}, {3, 0, 0}}, {{{3, 2, 10}, {1, 0, 0}}, {0, 1}});
  // Two head groups of five blocks: layers, keys and values, positions, headDim, bf16.
  EXPECT_EQ(results[0].bytesReceived, 2U * 5 * 2 * 2 * 16 * 16 * 2);
  EXPECT_EQ(results[1].bytesReceived, 0U);
}

TEST_F(CudaReplan, WhatStaysIsNotRead) {
  const auto results = expectSameBits({{2, 1, 30}, {2, 0, 0}}, {{{2, 2, 30}, {2, 0, 0}}, {0, 1}});
  EXPECT_EQ(results[0].bytesReceived + results[1].bytesReceived, 0U);
  RankGroup old(model_, {{4, 0, 0}}, gpuOptions());
  const auto same = next(old, {{{4, 0, 0}}, {0}}, gpuOptions());
  EXPECT_EQ(same->engine(0).report().weightBytesLoaded, 0U);
  EXPECT_FALSE(same->engine(0).report().kvKept) << "without a step";
}

TEST_F(CudaReplan, ARankJoins) { expectSameBits({{4, 0, 0}}, {{{1, 1, 10}, {3, 0, 0}}, {-1, 0}}); }

TEST_F(CudaReplan, AnotherNumberOfBlocks) {
  EngineOptions fewer = gpuOptions();
  fewer.kvBlocks = 20;
  expectSameBits({{4, 0, 0}}, {{{4, 0, 0}}, {0}}, fewer);
}

/// On the device or in host memory, before and after.
TEST_F(CudaReplan, ParkedBlocksStayOrMove) {
  const auto options = [](int64_t kvBlocks, int64_t spare) {
    EngineOptions result = gpuOptions();
    result.kvBlocks = kvBlocks;
    result.kvParkedBlocks = 3;
    result.kvDeviceBlocks = kvBlocks + spare;
    return result;
  };
  for (const EngineOptions& before : {options(20, 0), options(20, 2), options(20, 3)}) {
    for (const EngineOptions& now : {options(20, 0), options(20, 2), options(22, 1)}) {
      for (const std::vector<RankShare>& shares : {std::vector<RankShare>{{4, 0, 0}}, {{1, 1, 30}, {3, 0, 0}}}) {
        RankGroup old(model_, {{4, 0, 0}}, before);
        feed(old, 0, kHalf);
        const auto parked = static_cast<int32_t>(before.kvBlocks);
        StepBatch leave;
        leave.kvMoves = {{5, parked + 2}, {2, parked + 1}};
        old.step(leave);
        const auto group = next(old, {shares, shares.size() == 1 ? std::vector{0} : std::vector{-1, 0}}, now);
        KvMigration migration;
        migration.previousHeadGroups = shares.size() == 1 ? std::vector<Range>{{0, 4}} : std::vector<Range>{{}, {0, 4}};
        migration.headGroups = group->headGroups();
        const auto parkedNow = static_cast<int32_t>(now.kvBlocks);
        migration.parked = {{parked + 2, parkedNow}, {parked + 1, parkedNow + 1}};
        group->migrateKv(migration);
        StepBatch comeBack;
        comeBack.kvMoves = {{parkedNow, 5}, {parkedNow + 1, 2}};
        group->step(comeBack);
        feed(*group, kHalf, kTokens);
      }
    }
  }
}

TEST_F(CudaReplan, WithParkedAddressesInTheNextPlan) {
  EngineOptions parking = gpuOptions();
  parking.kvParkedBlocks = 3;
  parking.kvDeviceBlocks = parking.kvBlocks + 1;
  expectSameBits({{1, 1, 30}, {3, 0, 0}}, {{{3, 2, 10}, {1, 0, 0}}, {0, 1}}, parking);
}

TEST_F(CudaReplanTied, HeadRowsComeFromTheEmbeddingThatStayed) {
  expectSameBits({{2, 1, 30}, {2, 0, 0}}, {{{2, 1, 80}, {2, 0, 0}}, {0, 1}});
}

TEST_F(CudaReplan, KeepsNoKvWithoutRoomForBothPlans) {
  const std::vector<RankShare> shares = {{1, 1, 30}, {3, 0, 0}};
  for (const uint64_t extra : {0, 1}) {
    RankGroup old(model_, {{2, 1, 30}, {2, 0, 0}}, gpuOptions());
    feed(old, 0, kHalf);
    const uint64_t kept = old.engine(0).report().kvBytes;
    EngineOptions options = gpuOptions();
    RankGroup probe(model_, shares, options);
    const EngineReport needs = probe.engine(0).report();
    std::vector<EngineOptions> both(2, options);
    both[0].memoryBytes = needs.residentBytes + kept - 1 + extra;
    RankGroup group(model_, shares, both, old.takeEngines());
    EXPECT_EQ(group.engine(0).report().kvKept, extra == 1);
    EXPECT_GT(group.engine(0).report().weightBytesAdopted, 0U);
    EXPECT_TRUE(group.engine(1).report().kvKept);
    EXPECT_EQ(group.engine(0).report().residentBytes, needs.residentBytes + (extra == 1 ? kept : 0));
    group.engine(0).dropPreviousKv();
    EXPECT_EQ(group.engine(0).report().residentBytes, needs.residentBytes);
  }
}

TEST_F(CudaReplan, KeepsNothingThatMeansSomethingElse) {
  const std::pair<std::function<void(EngineOptions&)>, bool> changes[] = {
      {[](EngineOptions& o) { o.kvBlockTokens = 32; }, true},
      {[](EngineOptions& o) { o.device = "cpu"; }, false},
  };
  for (const auto& [change, weights] : changes) {
    RankGroup old(model_, {{4, 0, 0}}, gpuOptions());
    feed(old, 0, kHalf);
    EngineOptions options = gpuOptions();
    change(options);
    const auto group = next(old, {{{4, 0, 0}}, {0}}, options);
    EXPECT_FALSE(group->engine(0).report().kvKept);
    EXPECT_EQ(group->engine(0).report().weightBytesAdopted > 0, weights);
  }
}

void expectRefused(Engine& engine, const KvMigration& migration, const std::string& part) {
  try {
    engine.migrateKv(migration);
    ADD_FAILURE() << "no error; expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST_F(CudaReplan, RefusesWhatItCannotMigrate) {
  RankGroup old(model_, {{4, 0, 0}}, gpuOptions());
  feed(old, 0, kHalf);
  const auto shards = shardsOf(model_.spec, {{1, 1, 30}, {3, 0, 0}});
  const auto engine =
      Engine::load(model_.spec, shards[0], model_.source, gpuOptions(), std::move(old.takeEngines()[0]));
  KvMigration migration{{{0, 4}, {}}, {{0, 1}, {1, 4}}, {}, {{0, 65}}, {}, {}};
  const auto refused = [&](const std::string& part) { expectRefused(*engine, migration, part); };
  refused("blocks[0] is [0, 65); it must be a range, not empty, within [0, 64)");
  migration.blocks = {{0, 5}};
  refused("needs connect()");
  // Sums of device memory carry no bytes from rank to rank.
  engine->connectDevice(cuda::LocalDeviceGroup::create(2)->communicator(0));
  refused("needs connect()");
  migration.previousHeadGroups[0] = {0, 3};
  refused("previousHeadGroups is [0, 3), [0, 0); together they must be [0, 4)");
}

/// Rank 1 gets half of the heads, and lends rank 0 their addresses from 3 on.
TEST_F(CudaReplan, MovesNothingThatIsLent) {
  EngineOptions options = gpuOptions();
  options.kvBlockTokens = 256;
  options.kvBlocks = 6;
  RankGroup old(model_, {{4, 0, 0}}, options);
  feed(old, 0, kHalf);
  options.kvLoans = {{1, 0, {3, 6}, {2, 4}}};
  const auto shards = shardsOf(model_.spec, {{2, 1, 30}, {2, 0, 0}});
  const auto engine = Engine::load(model_.spec, shards[0], model_.source, options, std::move(old.takeEngines()[0]));
  KvMigration migration{{{0, 4}, {}}, {{0, 2}, {2, 4}}, {}, {{0, 5}}, {}, {}};
  const auto refused = [&](const std::string& part) { expectRefused(*engine, migration, part); };
  refused("blocks[0] is [0, 5); it must be a range, not empty, within [0, 3)");
  migration.blocks = {{0, 3}};
  refused("needs connect()");
  migration.previousLoans = {{1, 0, {3, 6}, {0, 0}}};
  refused("previousLoans[0] has KV of head groups [0, 0) at [3, 6) with this rank, which has not kept it");
  migration.previousLoans = {{0, 1, {3, 6}, {0, 4}}};
  refused("previousLoans of rank 0 are not what it lent");
}

}  // namespace
}  // namespace hels
#endif
