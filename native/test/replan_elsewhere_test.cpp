// A change of plans half-way through sequences whose KV does not all lie with its heads: parked blocks and lent ones
// stay or move, and the sequences go on with the bits of an undisturbed run.
#include "reference/kv_world.h"
#include "replan_fixture.h"

namespace hels {
namespace {

using namespace reference;

class ReplanElsewhere : public Replan {
 protected:
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
};

TEST_P(ReplanElsewhere, WithParkedAddressesInEitherPlan) {
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
TEST_P(ReplanElsewhere, ParkedBlocksStayOrMove) {
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

TEST_P(ReplanElsewhere, ParkedBlocksThatTheNextPlanHasNoAddressForMove) {
  EngineOptions many = tinyOptions();
  many.kvParkedBlocks = 40;
  EngineOptions few = tinyOptions();
  few.kvParkedBlocks = 6;
  const std::vector<EngineOptions> before(2, many), now(2, few);
  const std::vector<RankShare> shares = {{2, 1, 30}, {2, 0, 0}};
  expectSameBitsOfParked(shares, before, shares, now, {39, 0, 37, 38});
  expectSameBitsOfParked(shares, before, {{3, 1, 30}, {1, 0, 0}}, now, {39, 0, 37, 38});
}

TEST_P(ReplanElsewhere, BesideLoansInEitherPlan) {
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
TEST_P(ReplanElsewhere, WhatIsLentStaysOrMoves) {
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

INSTANTIATE_TEST_SUITE_P(Models, ReplanElsewhere, kReplanModels, replanModelName);

}  // namespace
}  // namespace hels
