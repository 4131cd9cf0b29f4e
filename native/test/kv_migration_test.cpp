// What a change of plans refuses, what it frees, and how it ends when a rank fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "base/error.h"
#include "base/pages.h"
#include "engine/arena.h"
#include "kv/kv_cache.h"
#include "reference/rank_group.h"

namespace hels {
namespace {

using namespace reference;

void expectError(ErrorCode code, const std::string& part, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "no error; expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

/// A group of two that has run a step over the addresses [0, 5) of its 64.
class Migration : public testing::Test {
 protected:
  using Change = std::function<void(EngineOptions&)>;

  std::unique_ptr<RankGroup> served(const EngineOptions& options = tinyOptions()) const {
    auto group = std::make_unique<RankGroup>(model_, shares_, options);
    prefillLogits(*group, tokens_, 80);
    return group;
  }

  std::unique_ptr<RankGroup> next(RankGroup& group, const EngineOptions& options = tinyOptions()) const {
    return std::make_unique<RankGroup>(model_, nextShares_, std::vector<EngineOptions>(2, options),
                                       group.takeEngines());
  }

  bool kept(RankGroup& group) const {
    EXPECT_EQ(group.engine(0).report().kvKept, group.engine(1).report().kvKept);
    return group.engine(0).report().kvKept;
  }

  const TinyModel model_ = makeTinyModel(tinyLlama(), 9);
  const std::vector<RankShare> shares_ = {{2, 1, 30}, {2, 0, 0}};
  const std::vector<RankShare> nextShares_ = {{1, 1, 30}, {3, 0, 0}};
  const std::vector<int32_t> tokens_ = randomTokens(80, model_.spec.vocabRows, 2);
  const KvMigration migration_ = {{{0, 2}, {2, 4}}, {{0, 1}, {1, 4}}, {}, {{0, 5}}, {}, std::chrono::milliseconds(500)};
};

TEST_F(Migration, RefusesWhatDoesNotFit) {
  using Edit = std::function<void(KvMigration&)>;
  const std::pair<const char*, Edit> cases[] = {
      {"previousHeadGroups has 1 entries; the group has 2 ranks", [](auto& m) { m.previousHeadGroups.pop_back(); }},
      {"previousHeadGroups is [0, 2), [3, 4); together they must be [0, 4), each head group once",
       [](auto& m) { m.previousHeadGroups[1].begin = 3; }},
      {"previousHeadGroups is [0, 2), [1, 4)", [](auto& m) { m.previousHeadGroups[1].begin = 1; }},
      {"previousHeadGroups is [0, 4), [0, 4)",
       [](auto& m) {
         m.previousHeadGroups = {{0, 4}, {0, 4}};
       }},
      {"previousHeadGroups is [0, 0), [0, 0)",
       [](auto& m) {
         m.previousHeadGroups = {{0, 0}, {0, 0}};
       }},
      {"previousHeadGroups has [2, 5); it must lie within [0, 4)", [](auto& m) { m.previousHeadGroups[1].end = 5; }},
      {"headGroups has 3 entries",
       [](auto& m) {
         m.headGroups.push_back({4, 4});
       }},
      {"headGroups[0] is [0, 2); this rank has [0, 1)",
       [](auto& m) {
         m.headGroups = {{0, 2}, {2, 4}};
       }},
      {"previousHeadGroups[0] is [0, 1); this rank kept KV of [0, 2)",
       [](auto& m) {
         m.previousHeadGroups = {{0, 1}, {1, 4}};
       }},
      {"blocks[0] is [3, 65); it must be a range, not empty, within [0, 64)",
       [](auto& m) {
         m.blocks = {{3, 65}};
       }},
      {"blocks[0] is [-1, 5)", [](auto& m) { m.blocks[0].begin = -1; }},
      {"blocks[1] is [4, 6); it must be a range, not empty, within [5, 64)",
       [](auto& m) {
         m.blocks.push_back({4, 6});
       }},
      {"parked[0].to is 64; it must be a parked address, within [64, 64), and named once",
       [](auto& m) {
         m.parked = {{64, 64}};
       }},
      {"blocks[1] is [7, 7)",
       [](auto& m) {
         m.blocks.push_back({7, 7});
       }},
  };
  const auto old = served();
  const auto group = next(*old);
  for (const auto& [message, edit] : cases) {
    KvMigration migration = migration_;
    edit(migration);
    expectError(ErrorCode::kShapeInvalid, message, [&] { group->engine(0).migrateKv(migration); });
  }
  EXPECT_TRUE(kept(*group));
  EXPECT_NO_THROW(group->migrateKv(migration_));
  expectError(ErrorCode::kShapeInvalid, "this rank kept KV of none", [&] { group->engine(0).migrateKv(migration_); });
}

TEST_F(Migration, KeepsNoKvThatIsNotWholeOrMeansSomethingElse) {
  RankGroup fresh(model_, shares_);
  EXPECT_FALSE(kept(*next(fresh))) << "without a step";

  const std::pair<Change, Change> changes[] = {
      {[](EngineOptions&) {}, [](EngineOptions& o) { o.kvBlockTokens = 32; }},
      {[](EngineOptions&) {}, [](EngineOptions& o) { o.numerics = Numerics::kFast; }},
      {[](EngineOptions& o) {
         o.corruption = {"model.norm.weight", 0};
       },
       [](EngineOptions&) {}},
  };
  for (const auto& [before, now] : changes) {
    EngineOptions first = tinyOptions();
    EngineOptions second = tinyOptions();
    before(first);
    now(second);
    const auto old = served(first);
    const auto group = next(*old, second);
    EXPECT_FALSE(kept(*group));
    const bool alike = second.numerics == Numerics::kExact && !first.corruption;
    EXPECT_EQ(group->engine(0).report().weightBytesAdopted > 0, alike);
  }
}

TEST_F(Migration, AfterAFailedStepOnlyTheWeightsAreOfUse) {
  const auto failed = served();
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, {1, 2}, 80, {0, 1, 2, 3, 4, 5}));
  batch.collectiveDeadline = std::chrono::milliseconds(100);
  expectError(ErrorCode::kDeadlineExceeded, "", [&] { failed->engine(1).step(batch); });
  const auto group = next(*failed);
  EXPECT_TRUE(group->engine(0).report().kvKept);
  EXPECT_FALSE(group->engine(1).report().kvKept);
  EXPECT_GT(group->engine(1).report().weightBytesAdopted, 0U);
}

TEST_F(Migration, RefusesParkedAddressesThatOnePlanHasNotAndThoseNamedTwice) {
  EngineOptions few = tinyOptions();
  few.kvParkedBlocks = 3;
  EngineOptions many = tinyOptions();
  many.kvParkedBlocks = 7;
  for (const bool fewer : {false, true}) {
    const auto old = served(fewer ? many : few);
    const auto group = next(*old, fewer ? few : many);
    const std::string range = "it must be a parked address, within [64, 67), and named once";
    const auto refused = [&](const std::string& part, const std::vector<KvMove>& parked) {
      KvMigration migration = migration_;
      migration.parked = parked;
      expectError(ErrorCode::kShapeInvalid, part, [&] { group->engine(0).migrateKv(migration); });
    };
    refused(fewer ? "parked[1].to is 67; " + range : "parked[1].from is 67; " + range, {{64, 64}, {67, 67}});
    refused("parked[0].from is 63; ", {{63, 64}});
    refused("parked[1].from is 64; ", {{64, 64}, {64, 65}});
    refused("parked[1].to is 64; ", {{64, 64}, {65, 64}});
    refused("parked[0].to is 65, as far behind the runnable addresses as what moves elsewhere", {{64, 65}, {65, 66}});
    KvMigration migration = migration_;
    migration.parked = {{64, 66}, {65, 65}};
    EXPECT_NO_THROW(group->migrateKv(migration));
  }
}

/// In the plan before rank 1 lent from address 3 on.
TEST_F(Migration, RefusesLoansThatWereNotThatWay) {
  EngineOptions common = tinyOptions();
  common.kvBlockTokens = 64;
  const EngineOptions plain = common;
  common.kvLoans = {{1, 0, {3, 64}, {2, 4}}};
  std::vector<EngineOptions> lending(2, common);
  lending[1].kvDeviceBlocks = 3;
  RankGroup old(model_, shares_, lending);
  prefillLogits(old, tokens_, 80);
  RankGroup group(model_, nextShares_, std::vector<EngineOptions>(2, plain), old.takeEngines());
  EXPECT_TRUE(group.engine(0).report().kvLoansKept);
  const auto refused = [&](size_t rank, const std::string& part, const std::vector<KvLoan>& loans) {
    KvMigration migration = migration_;
    migration.previousLoans = loans;
    expectError(ErrorCode::kShapeInvalid, part, [&] { group.engine(rank).migrateKv(migration); });
  };
  refused(1, "blocks[0] is [0, 5); it must be a range, not empty, within [0, 3)", {});
  refused(1, "previousLoans of rank 1 are not what it lent", {{1, 0, {4, 64}, {2, 4}}});
  refused(0, "previousLoans[0] has KV of head groups [2, 4) at [4, 64) with this rank, which has not kept it",
          {{1, 0, {4, 64}, {2, 4}}});
  refused(0, "previousLoans[0].headGroups is [1, 4); its owner had [2, 4)", {{1, 0, {3, 64}, {1, 4}}});
  refused(0, "previousLoans[0] is of rank 1 with rank 1, [3, 64); it must be of two of 2 ranks",
          {{1, 1, {3, 64}, {2, 4}}});
  refused(0, "previousLoans[0] is of rank 1 with rank 2", {{1, 2, {3, 64}, {2, 4}}});
  refused(0, "previousLoans[0] is of rank 1 with rank 0, [3, 3)", {{1, 0, {3, 3}, {2, 4}}});
  KvMigration migration = migration_;
  migration.previousLoans = {{1, 0, {3, 64}, {2, 4}}};
  EXPECT_NO_THROW(group.migrateKv(migration));
}

TEST_F(Migration, WhatIsNotMigratedIsFreedByTheFirstStepOrBefore) {
  for (const bool step : {false, true}) {
    const auto old = served();
    const auto group = next(*old);
    const uint64_t before = group->engine(0).report().residentBytes;
    if (step) {
      prefillLogits(*group, randomTokens(1, model_.spec.vocabRows, 1), 1);
    } else {
      for (size_t rank = 0; rank < 2; ++rank) group->engine(rank).dropPreviousKv();
      EXPECT_LT(group->engine(0).report().residentBytes, before);
    }
    EXPECT_FALSE(kept(*group));
    expectError(ErrorCode::kShapeInvalid, "this rank kept KV of none", [&] { group->engine(0).migrateKv(migration_); });
  }
}

/// With a budget of exactly what the next plan needs, KV before is kept where it is not larger than that of the plan.
TEST_F(Migration, TheBudgetDecidesWhetherKvIsKept) {
  for (const int64_t kvBlocks : {300, 4}) {
    RankGroup old(model_, {{4, 0, 0}});
    prefillLogits(old, tokens_, 80);
    EngineOptions options = tinyOptions();
    options.kvBlocks = kvBlocks;
    const ShardSpec shard = shardsOf(model_.spec, {{1, 0, 0}, {3, 0, 0}}).front();
    const EngineReport needs = Engine::load(model_.spec, shard, model_.source, options)->report();
    options.memoryBytes = needs.weightBytesResident + needs.kvBytes + needs.scratchBytes;
    const auto engine = Engine::load(model_.spec, shard, model_.source, options, std::move(old.takeEngines().front()));
    const EngineReport report = engine->report();
    EXPECT_GT(report.weightBytesAdopted, 0U);
    EXPECT_EQ(report.kvKept, kvBlocks == 300);
  }
}

/// Where both plans' KV does not fit, what was held for others goes first.
TEST_F(Migration, TheBudgetDecidesWhetherLoansAreKept) {
  EngineOptions common = tinyOptions();
  common.kvBlockTokens = 64;
  common.kvLoans = {{1, 0, {3, 64}, {2, 4}}};
  std::vector<EngineOptions> lending(2, common);
  lending[1].kvDeviceBlocks = 3;
  for (const int64_t kvBlocks : {200, 8}) {
    RankGroup old(model_, shares_, lending);
    prefillLogits(old, tokens_, 80);
    EngineOptions options = tinyOptions();
    options.kvBlockTokens = 64;
    options.kvBlocks = kvBlocks;
    const ShardSpec shard = shardsOf(model_.spec, shares_).front();
    const EngineReport needs = Engine::load(model_.spec, shard, model_.source, options)->report();
    options.memoryBytes = needs.weightBytesResident + needs.kvBytes + needs.scratchBytes;
    const auto engine = Engine::load(model_.spec, shard, model_.source, options, std::move(old.takeEngines().front()));
    EXPECT_TRUE(engine->report().kvKept);
    EXPECT_EQ(engine->report().kvLoansKept, kvBlocks == 200);
    engine->dropPreviousKv();
    EXPECT_FALSE(engine->report().kvLoansKept);
  }
}

TEST_F(Migration, ARankThatDoesNotComeIsNotWaitedForLonger) {
  const auto old = served();
  const auto group = next(*old);
  expectError(ErrorCode::kDeadlineExceeded, "", [&] { group->engine(0).migrateKv(migration_); });
  EXPECT_FALSE(group->engine(0).report().kvKept);
}

TEST_F(Migration, AbortEndsIt) {
  const auto old = served();
  const auto group = next(*old);
  KvMigration patient = migration_;
  patient.deadline = std::chrono::seconds(60);
  std::thread aborts([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    group->engine(0).abort();
  });
  expectError(ErrorCode::kAborted, "", [&] { group->engine(0).migrateKv(patient); });
  aborts.join();
}

/// KV of thousands of addresses: several exchanges of each layer.
TEST_F(Migration, MovesManyBlocksInRounds) {
  EngineOptions options = tinyOptions();
  options.kvBlocks = 4000;
  std::vector<int32_t> table(64);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(3999 - 61 * i);
  const std::vector<int32_t> tokens = randomTokens(120, model_.spec.vocabRows, 3);
  RankGroup alone(model_, {{4, 0, 0}});
  const std::vector<float> expected = prefillLogits(alone, tokens, 120);
  RankGroup old(model_, shares_, options);
  prefillLogits(old, {tokens.begin(), tokens.begin() + 90}, 90, table);
  const auto group = next(old, options);
  KvMigration migration = migration_;
  migration.blocks = {{0, 4000}};
  const std::vector<KvMigrationResult> results = group->migrateKv(migration);
  EXPECT_EQ(results[0].bytesReceived, 0U);
  EXPECT_EQ(results[1].bytesReceived, uint64_t{4000} * 3 * 2 * 16 * 12 * 4);
  EXPECT_GT(group->engine(1).report().exchangeCount, 3 * 2U);
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, {tokens.begin() + 90, tokens.end()}, 90, table));
  batch.sequences.back().returnLogits = true;
  const std::vector<float> logits = group->step(batch).logits;
  EXPECT_TRUE(std::equal(logits.begin(), logits.end(), expected.end() - static_cast<std::ptrdiff_t>(logits.size())));
}

/// While layers move, those that have moved take no memory any more.
TEST(KvCachePages, ADiscardedLayerIsFreeAndTheOthersStay) {
  const KvShape shape{DataType::kF32, 3, 2, 64, 16, 500};
  const size_t layerBytes = shape.sizeBytes() / 3;
  Arena memory(shape.sizeBytes(), "KV");
  KvCache cache(shape, memory.data());
  std::fill_n(memory.data(), shape.sizeBytes(), std::byte{7});
  const size_t full = memory.residentBytes();
  EXPECT_GE(full, shape.sizeBytes());
  cache.discardLayer(1);
  // Two runs of pages, at whose ends a page may be shared.
  EXPECT_LE(memory.residentBytes(), full - layerBytes + size_t{4} * 65536);
  std::vector<std::byte> block(static_cast<size_t>(2 * shape.blockBytes()));
  for (const int64_t layer : {0, 2}) {
    for (const int64_t address : {int64_t{0}, shape.blocks - 1}) {
      cache.readGroup(layer, 1, address, block.data());
      EXPECT_TRUE(std::ranges::all_of(block, [](std::byte value) { return value == std::byte{7}; }));
    }
  }
  cache.discardBlocks({250, shape.blocks});
  EXPECT_LE(memory.residentBytes(), (full - layerBytes) / 2 + size_t{16} * 65536);
  cache.readGroup(2, 1, 249, block.data());
  EXPECT_TRUE(std::ranges::all_of(block, [](std::byte value) { return value == std::byte{7}; }));
}

}  // namespace
}  // namespace hels
