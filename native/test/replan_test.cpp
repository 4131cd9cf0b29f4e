// A change of plans half-way through sequences: unchanged weights are taken over, KV moves to the ranks that own its
// heads now, and the sequences go on with the bits of an undisturbed run.
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "comm/gloo_connector.h"
#include "engine/cpu_weights.h"
#include "reference/kv_world.h"
#include "reference/rank_group.h"

namespace hels {
namespace {

using namespace reference;

constexpr int64_t kTokens = 150;
constexpr int64_t kHalf = 77;  // in the middle of a block

/// Attention of several kinds, and quantised matrices.
ModelSpec specOf(const std::string& kind, DataType type) {
  ModelSpec spec = kind == "mha" ? tinyOpt() : tinyLlama();
  spec.weightType = type;
  spec.maxPositions = 600;
  if (kind == "int8") spec.quantization = Quantization::kInt8;
  if (kind == "int4") spec.quantization = Quantization::kInt4;
  if (kind == "tied") spec.tiedEmbeddings = true;
  if (kind == "pages") spec.headDim = 64;  // a block of a head group is a page
  return spec;
}

/// A plan: what each rank has, and which rank of the plan before it was; -1: none.
struct Plan {
  std::vector<RankShare> shares;
  std::vector<int> before;
};

/// Two sequences at addresses that lie apart; the second one shares its first block with the first.
const std::vector<std::vector<int32_t>> kTables = {{7, 3, 12, 40, 5, 41, 13, 20, 21, 22}, {7, 9, 30, 11, 6, 2, 33, 23}};
/// Of both sequences' first kHalf and kHalf - 20 tokens.
const std::vector<Range> kBlocksInUse = {{3, 4}, {5, 6}, {7, 8}, {9, 10}, {11, 13}, {30, 31}, {40, 41}};

std::vector<std::unique_ptr<Engine>> predecessorsOf(RankGroup& group, const std::vector<int>& before) {
  std::vector<std::unique_ptr<Engine>> engines = group.takeEngines();
  std::vector<std::unique_ptr<Engine>> predecessors(before.size());
  for (size_t rank = 0; rank < before.size(); ++rank) {
    if (before[rank] >= 0) predecessors[rank] = std::move(engines[static_cast<size_t>(before[rank])]);
  }
  return predecessors;
}

KvMigration migrationTo(const RankGroup& group, const std::vector<Range>& headGroupsBefore,
                        const std::vector<int>& before) {
  KvMigration migration;
  for (const int rank : before) {
    migration.previousHeadGroups.push_back(rank < 0 ? Range{} : headGroupsBefore[static_cast<size_t>(rank)]);
  }
  migration.headGroups = group.headGroups();
  migration.blocks = kBlocksInUse;
  return migration;
}

class Replan : public testing::TestWithParam<std::tuple<std::string, DataType>> {
 protected:
  void SetUp() override {
    model_ = makeTinyModel(specOf(std::get<0>(GetParam()), std::get<1>(GetParam())), 17);
    first_ = randomTokens(kTokens, model_.spec.vocabRows, 3);
    // Its first block is that of the first sequence, which it shares.
    second_ = randomTokens(kTokens - 40, model_.spec.vocabRows, 4);
    std::copy_n(first_.begin(), 16, second_.begin());
    RankGroup alone(model_, {{4, 0, 0}});
    expectedFirst_ = prefillLogits(alone, first_, 30);
    expectedSecond_ = prefillLogits(alone, second_, 30);
  }

  /// Feeds a sequence's tokens [begin, end) and compares the logits with those of the undisturbed run.
  void feed(RankGroup& group, int32_t slot, int64_t begin, int64_t end) {
    feed(group, sequenceStep(slot, {}, end - 1, kTables[static_cast<size_t>(slot)]), begin, end);
  }

  /// `part` names slot and blocks.
  void feed(RankGroup& group, SequenceStep part, int64_t begin, int64_t end) {
    const std::vector<int32_t>& tokens = part.slot == 0 ? first_ : second_;
    const std::vector<float>& expected = part.slot == 0 ? expectedFirst_ : expectedSecond_;
    part.tokens = {tokens.begin() + begin, tokens.begin() + end};
    part.startPosition = begin;
    part.returnLogits = true;
    StepBatch batch;
    batch.sequences.push_back(part);
    const std::vector<float> logits = group.step(batch).logits;
    const auto vocabulary = static_cast<size_t>(model_.spec.vocabRows);
    ASSERT_EQ(logits.size(), static_cast<size_t>(end - begin) * vocabulary);
    for (size_t i = 0; i < logits.size(); ++i) {
      ASSERT_EQ(logits[i], expected[static_cast<size_t>(begin) * vocabulary + i])
          << "sequence " << part.slot << ", " << i;
    }
  }

  void feedFirstHalf(RankGroup& group) {
    feed(group, 0, 0, 40);
    feed(group, 0, 40, kHalf);
    feed(group, 1, 16, kHalf - 20);
  }

  void feedSecondHalf(RankGroup& group) {
    feed(group, 1, kHalf - 20, kHalf);
    feed(group, 0, kHalf, kHalf + 1);
    feed(group, 0, kHalf + 1, kTokens);
    feed(group, 1, kHalf, kTokens - 40);
  }

  /// Bytes of the files that a shard's parts are loaded from: replicated, with the embedding wherever it is held, then
  /// of the heads, of the FFN columns, of the vocabulary rows.
  std::vector<uint64_t> partBytes(const ShardSpec& shard) const {
    const auto loaded = [&](Range heads, Range ffn, Range vocabulary) {
      const ShardSpec part{0, 1, heads, ffn, vocabulary};
      const std::unique_ptr<Gemm> gemm = makeChainGemm(1);
      CpuWeights weights(model_.spec, part, *gemm, {});
      WeightReader reader(model_.source);
      weights.load(model_.spec, part, *gemm, reader);
      return weights.loaded().bytesLoaded;
    };
    const uint64_t replicated = loaded({}, {}, {});
    return {replicated, loaded(shard.headGroups, {}, {}) - replicated, loaded({}, shard.ffnColumns, {}) - replicated,
            loaded({}, {}, shard.vocabRows) - replicated};
  }

  /// Whether the head holds the embedding.
  bool headHoldsEmbedding(const ShardSpec& shard) const {
    return model_.spec.tiedEmbeddings && model_.spec.quantization == Quantization::kNone &&
           shard.vocabRows.size() == model_.spec.vocabRows;
  }

  uint64_t embeddingBytes() const {
    const int64_t elements = model_.spec.vocabRows * model_.spec.embeddingSize;
    return static_cast<uint64_t>(elements) * bytesOf(model_.spec.weightType);
  }

  void expectAdopted(RankGroup& group, const Plan& first, const Plan& second) const {
    const std::vector<ShardSpec> before = shardsOf(model_.spec, first.shares);
    const std::vector<ShardSpec> now = shardsOf(model_.spec, second.shares);
    for (size_t rank = 0; rank < now.size(); ++rank) {
      const std::vector<uint64_t> bytes = partBytes(now[rank]);
      uint64_t adopted = 0;
      if (second.before[rank] >= 0) {
        const ShardSpec& old = before[static_cast<size_t>(second.before[rank])];
        adopted = bytes[0] - (headHoldsEmbedding(old) == headHoldsEmbedding(now[rank]) ? 0 : embeddingBytes()) +
                  (old.headGroups == now[rank].headGroups ? bytes[1] : 0) +
                  (old.ffnColumns == now[rank].ffnColumns ? bytes[2] : 0) +
                  (old.vocabRows == now[rank].vocabRows ? bytes[3] : 0);
      }
      const EngineReport report = group.engine(rank).report();
      EXPECT_EQ(report.weightBytesAdopted, adopted) << "rank " << rank;
      EXPECT_EQ(report.weightBytesLoaded, std::accumulate(bytes.begin(), bytes.end(), uint64_t{0}) - adopted);
      EXPECT_EQ(report.kvKept, second.before[rank] >= 0) << "rank " << rank;
    }
  }

  /// KV of one head group's pieces that change owners, all layers.
  uint64_t movedBytes(const KvMigration& migration, size_t rank) const {
    int64_t groups = 0;
    for (size_t from = 0; from < migration.previousHeadGroups.size(); ++from) {
      if (from == rank) continue;
      const Range& before = migration.previousHeadGroups[from];
      const Range& now = migration.headGroups[rank];
      groups += std::max<int64_t>(0, std::min(before.end, now.end) - std::max(before.begin, now.begin));
    }
    const int64_t element = model_.spec.weightType == DataType::kF32 ? 4 : 2;
    constexpr int64_t kBlocks = 8;
    return static_cast<uint64_t>(groups * kBlocks * model_.spec.layers * 2 * 16 * model_.spec.headDim * element);
  }

  void expectSameBits(const Plan& first, const Plan& second, const EngineOptions& before = tinyOptions(),
                      const EngineOptions& now = tinyOptions()) {
    RankGroup old(model_, first.shares, before);
    feedFirstHalf(old);
    const std::vector<Range> headGroupsBefore = old.headGroups();
    RankGroup group(model_, second.shares, std::vector<EngineOptions>(second.shares.size(), now),
                    predecessorsOf(old, second.before));
    expectAdopted(group, first, second);
    const KvMigration migration = migrationTo(group, headGroupsBefore, second.before);
    const std::vector<KvMigrationResult> results = group.migrateKv(migration);
    for (size_t rank = 0; rank < results.size(); ++rank) {
      EXPECT_EQ(results[rank].bytesReceived, movedBytes(migration, rank)) << "rank " << rank;
      EXPECT_FALSE(group.engine(rank).report().kvKept);
    }
    feedSecondHalf(group);
  }

  /// Of plans with blocks of whole chunks; the sequence lies in those that nobody lends.
  void expectSameBitsBesideLoans(const std::vector<EngineOptions>& before, const std::vector<EngineOptions>& now) {
    SequenceStep part;
    part.blockTable = {2, 0};
    RankGroup old(model_, kLendingBefore, before);
    feed(old, part, 0, kHalf);
    RankGroup group(model_, kLendingNow, now, old.takeEngines());
    group.migrateKv({{{0, 1}, {1, 4}}, {{0, 3}, {3, 4}}, {}, {{0, 1}, {2, 3}}, {}, {}});
    part.blockTable = {2, 0, 1};
    feed(group, part, kHalf, kTokens);
  }

  /// The first sequence gives up all but its first block to parked addresses, and has them back after the change.
  void expectSameBitsOfParked(const std::vector<RankShare>& shares, const std::vector<EngineOptions>& before,
                              const std::vector<RankShare>& nextShares, const std::vector<EngineOptions>& now,
                              const std::vector<int32_t>& parked = {6, 0, 4, 5}) {
    const std::vector<int32_t> parkedNow = {1, 0, 4, 3};
    std::vector<int32_t> table = kTables[0];
    RankGroup old(model_, shares, before);
    feed(old, 0, 0, kHalf);
    StepBatch leave;
    StepBatch comeBack;
    std::vector<KvMove> moves;
    for (size_t i = 0; i < parked.size(); ++i) {
      const auto from = static_cast<int32_t>(before[0].kvBlocks + parked[i]);
      const auto to = static_cast<int32_t>(now[0].kvBlocks + parkedNow[i]);
      leave.kvMoves.push_back({table[i + 1], from});
      moves.push_back({from, to});
      table[i + 1] = static_cast<int32_t>(30 + i);
      comeBack.kvMoves.push_back({to, table[i + 1]});
    }
    old.step(leave);
    const std::vector<Range> headGroupsBefore = old.headGroups();
    RankGroup group(model_, nextShares, now, old.takeEngines());
    group.migrateKv({headGroupsBefore, group.headGroups(), {}, {{7, 8}}, moves, {}});
    group.step(comeBack);
    feed(group, sequenceStep(0, {}, kTokens - 1, table), kHalf, kTokens);
  }

  /// Where the KV of a head group lies: its owner, or the holder of a loan.
  static int placeOf(const std::vector<Range>& headGroups, const std::vector<KvLoan>& loans, int64_t group,
                     int64_t address) {
    const auto owner =
        std::ranges::find_if(headGroups, [&](const Range& range) { return range.begin <= group && group < range.end; });
    const auto rank = static_cast<int>(owner - headGroups.begin());
    for (const KvLoan& loan : loans) {
      if (loan.owner == rank && loan.blocks.begin <= address && address < loan.blocks.end) return loan.holder;
    }
    return rank;
  }

  /// The first sequence lies anywhere, at home and on loan; so it does in the next plan.
  void expectSameBitsOfLent(const std::vector<RankShare>& shares, const std::vector<EngineOptions>& before,
                            const std::vector<RankShare>& nextShares, const std::vector<EngineOptions>& now,
                            const std::vector<int32_t>& table) {
    SequenceStep part;
    part.blockTable = {table[0], table[1]};
    RankGroup old(model_, shares, before);
    feed(old, part, 0, kHalf);
    const std::vector<Range> headGroupsBefore = old.headGroups();
    RankGroup group(model_, nextShares, now, old.takeEngines());
    const int32_t low = std::min(table[0], table[1]);
    const int32_t high = std::max(table[0], table[1]);
    const KvMigration migration = {
        headGroupsBefore, group.headGroups(), before[0].kvLoans, {{low, low + 1}, {high, high + 1}}, {}, {}};
    std::vector<uint64_t> expected(shares.size());
    const int64_t element = model_.spec.weightType == DataType::kF32 ? 4 : 2;
    const int64_t pieceBytes = model_.spec.layers * 2 * 64 * model_.spec.headDim * element;
    for (int64_t headGroup = 0; headGroup < 4; ++headGroup) {
      for (const int32_t address : {low, high}) {
        const int to = placeOf(group.headGroups(), now[0].kvLoans, headGroup, address);
        const bool moves = placeOf(headGroupsBefore, before[0].kvLoans, headGroup, address) != to;
        if (moves) expected[static_cast<size_t>(to)] += static_cast<uint64_t>(pieceBytes);
      }
    }
    const std::vector<KvMigrationResult> results = group.migrateKv(migration);
    for (size_t rank = 0; rank < results.size(); ++rank) EXPECT_EQ(results[rank].bytesReceived, expected[rank]);
    part.blockTable = table;
    feed(group, part, kHalf, kTokens);
  }

  static inline const std::vector<RankShare> kLendingBefore = {{1, 1, 30}, {3, 0, 0}};
  static inline const std::vector<RankShare> kLendingNow = {{3, 1, 30}, {1, 0, 0}};
  TinyModel model_;
  std::vector<int32_t> first_, second_;
  std::vector<float> expectedFirst_, expectedSecond_;
};

const std::vector<int> kSameTwo = {0, 1};
const std::vector<int> kSameThree = {0, 1, 2};

TEST_P(Replan, TwoRanksWithOtherShares) {
  expectSameBits({{{1, 1, 30}, {3, 0, 0}}, {}}, {{{3, 2, 10}, {1, 0, 0}}, kSameTwo});
}

TEST_P(Replan, OnlyOneRangeChanges) {
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 2, 30}, {2, 0, 0}}, kSameTwo});
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 1, 31}, {2, 0, 0}}, kSameTwo});
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{3, 1, 30}, {1, 0, 0}}, kSameTwo});
}

TEST_P(Replan, NothingChanges) { expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 1, 30}, {2, 0, 0}}, kSameTwo}); }

TEST_P(Replan, RanksThatGetOrLoseAllHeads) {
  expectSameBits({{{0, 1, 10}, {4, 0, 0}}, {}}, {{{4, 1, 10}, {0, 0, 0}}, kSameTwo});
  expectSameBits({{{1, 1, 10}, {2, 1, 0}, {1, 0, 0}}, {}}, {{{2, 0, 30}, {0, 1, 0}, {2, 0, 0}}, kSameThree});
  expectSameBits({{{2, 0, 10}, {0, 1, 0}, {2, 0, 0}}, {}}, {{{1, 1, 10}, {3, 0, 0}, {0, 1, 0}}, kSameThree});
}

TEST_P(Replan, ARankJoinsAndOneLeaves) {
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{1, 1, 10}, {2, 1, 0}, {1, 0, 0}}, {0, -1, 1}});
  expectSameBits({{{4, 0, 0}}, {}}, {{{1, 1, 10}, {3, 0, 0}}, {-1, 0}});
  expectSameBits({{{1, 1, 10}, {0, 1, 0}, {3, 0, 0}}, {}}, {{{2, 0, 10}, {2, 1, 0}}, {2, 0}});
}

TEST_P(Replan, AnotherNumberOfBlocks) {
  EngineOptions fewer = tinyOptions();
  fewer.kvBlocks = 42;
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 1, 30}, {2, 0, 0}}, kSameTwo}, tinyOptions(), fewer);
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{3, 1, 30}, {1, 0, 0}}, kSameTwo}, fewer, tinyOptions());
  expectSameBits({{{4, 0, 0}}, {}}, {{{4, 0, 0}}, {0}}, fewer, tinyOptions());
}

TEST_P(Replan, WithParkedAddressesInEitherPlan) {
  EngineOptions parking = tinyOptions();
  parking.kvParkedBlocks = 6;
  EngineOptions spare = parking;
  spare.kvDeviceBlocks = 67;
  for (const EngineOptions& options : {parking, spare}) {
    expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{3, 1, 30}, {1, 0, 0}}, kSameTwo}, options, tinyOptions());
    expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{3, 1, 30}, {1, 0, 0}}, kSameTwo}, tinyOptions(), options);
  }
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 1, 30}, {2, 0, 0}}, kSameTwo}, parking, spare);
  expectSameBits({{{2, 1, 30}, {2, 0, 0}}, {}}, {{{2, 1, 31}, {2, 0, 0}}, kSameTwo}, spare, spare);
}

/// Both ranks' parked blocks lie on the device or in host memory, and may lie elsewhere in the next plan.
TEST_P(Replan, ParkedBlocksStayOrMove) {
  const auto options = [](int64_t kvBlocks, int64_t parkedBlocks, int64_t spareOfFirst, int64_t spareOfSecond) {
    EngineOptions common = tinyOptions();
    common.kvBlocks = kvBlocks;
    common.kvParkedBlocks = parkedBlocks;
    std::vector<EngineOptions> both(2, common);
    both[0].kvDeviceBlocks = kvBlocks + spareOfFirst;
    both[1].kvDeviceBlocks = kvBlocks + spareOfSecond;
    return both;
  };
  const std::vector<RankShare> shares = {{2, 1, 30}, {2, 0, 0}};
  const std::vector<std::vector<EngineOptions>> plans = {
      options(64, 7, 0, 0), options(64, 7, 1, 7), options(64, 8, 7, 7), options(62, 8, 3, 0), options(70, 7, 0, 2)};
  for (const auto& before : plans) {
    for (const auto& now : plans) {
      expectSameBitsOfParked(shares, before, shares, now);
      expectSameBitsOfParked(shares, before, {{3, 1, 30}, {1, 0, 0}}, now);
    }
  }
}

TEST_P(Replan, ParkedBlocksThatTheNextPlanHasNoAddressForMove) {
  EngineOptions many = tinyOptions();
  many.kvParkedBlocks = 40;
  EngineOptions few = tinyOptions();
  few.kvParkedBlocks = 6;
  const std::vector<EngineOptions> before(2, many), now(2, few);
  const std::vector<RankShare> shares = {{2, 1, 30}, {2, 0, 0}};
  expectSameBitsOfParked(shares, before, shares, now, {39, 0, 37, 38});
  expectSameBitsOfParked(shares, before, {{3, 1, 30}, {1, 0, 0}}, now, {39, 0, 37, 38});
}

TEST_P(Replan, BesideLoansInEitherPlan) {
  EngineOptions plain = tinyOptions();
  plain.kvBlockTokens = 64;
  plain.kvBlocks = 9;
  EngineOptions parking = plain;
  parking.kvParkedBlocks = 4;
  for (const EngineOptions& common : {plain, parking}) {
    std::mt19937_64 random(7);
    const auto before = randomLoans(model_, kLendingBefore, common, {9, 3}, random);
    const auto now = randomLoans(model_, kLendingNow, common, {4, 5}, random);
    expectSameBitsBesideLoans(before, now);
    expectSameBitsBesideLoans(before, {plain, plain});
    expectSameBitsBesideLoans({plain, plain}, now);
  }
}

/// Owners and holders change, hold the same as before, or have no heads at all; loans begin and end.
TEST_P(Replan, WhatIsLentStaysOrMoves) {
  EngineOptions plain = tinyOptions();
  plain.kvBlockTokens = 64;
  plain.kvBlocks = 9;
  plain.kvParkedBlocks = 2;
  const std::vector<std::pair<std::vector<RankShare>, std::vector<int64_t>>> plans = {
      {{{1, 1, 30}, {3, 0, 0}, {0, 0, 0}}, {11, 2, 11}},
      {{{2, 1, 30}, {2, 0, 0}, {0, 0, 0}}, {0, 4, 11}},
      {{{1, 1, 30}, {1, 0, 0}, {2, 0, 0}}, {3, 1, 5}},
      {{{1, 1, 30}, {3, 0, 0}, {0, 0, 0}}, {11, 11, 11}}};
  std::mt19937_64 random(11);
  for (const auto& [shares, deviceBlocks] : plans) {
    for (const auto& [nextShares, nextDeviceBlocks] : plans) {
      EngineOptions fewer = plain;
      fewer.kvBlocks = 9 - static_cast<int64_t>(random() % 2);
      fewer.kvParkedBlocks = 11 - fewer.kvBlocks;
      const auto before = randomLoans(model_, shares, plain, deviceBlocks, random);
      const auto now = randomLoans(model_, nextShares, fewer, nextDeviceBlocks, random);
      std::vector<int32_t> table = {0, 1, 2, 3, 4, 5, 6, 7};
      std::ranges::shuffle(table, random);
      table.resize(3);
      expectSameBitsOfLent(shares, before, nextShares, now, table);
      expectSameBitsOfLent(shares, before, shares, before, table);
    }
  }
}

TEST_P(Replan, AgainAndAgain) {
  RankGroup group(model_, {{2, 1, 30}, {2, 0, 0}});
  feedFirstHalf(group);
  const std::vector<std::vector<RankShare>> plans = {
      {{1, 1, 30}, {3, 0, 0}}, {{4, 1, 30}, {0, 0, 0}}, {{4, 1, 30}, {0, 0, 0}}, {{0, 2, 1}, {4, 0, 0}}};
  for (const std::vector<RankShare>& shares : plans) {
    const std::vector<Range> headGroupsBefore = group.headGroups();
    RankGroup next(model_, shares, std::vector<EngineOptions>(2, tinyOptions()), predecessorsOf(group, kSameTwo));
    next.migrateKv(migrationTo(next, headGroupsBefore, kSameTwo));
    group = std::move(next);  // without a step between
  }
  feedSecondHalf(group);
}

/// The same over what ranks in several processes use.
TEST_P(Replan, OverTcpAndSharedMemory) {
  for (const Transport transport : {Transport::kTcp, Transport::kBest}) {
    RankGroup old(model_, {{1, 1, 10}, {2, 1, 0}, {1, 0, 0}});
    feedFirstHalf(old);
    const std::vector<Range> headGroupsBefore = old.headGroups();
    RankGroup group(model_, {{2, 1, 10}, {0, 1, 0}, {2, 0, 0}}, std::vector<EngineOptions>(3, tinyOptions()),
                    predecessorsOf(old, kSameThree));
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
    group.migrateKv(migrationTo(group, headGroupsBefore, kSameThree));
    feedSecondHalf(group);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Replan,
                         testing::Values(std::tuple("mha", DataType::kF32), std::tuple("gqa", DataType::kF32),
                                         std::tuple("pages", DataType::kF32), std::tuple("mha", DataType::kBf16),
                                         std::tuple("gqa", DataType::kBf16), std::tuple("tied", DataType::kBf16),
                                         std::tuple("int8", DataType::kBf16), std::tuple("int4", DataType::kBf16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + dataTypeName(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace hels
