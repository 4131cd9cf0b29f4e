// What remote attention sends: only what rows see, blocks whole where their parts would be larger, each once.
#include "engine/remote_traffic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "reference/tiny_model.h"

namespace hels {
namespace {

constexpr int64_t kBlockTokens = 64;

/// Rank 1 of three lends [2, 6) to rank 0 and [6, 20) to rank 2.
KvHomes homesOf(int rank) {
  KvHomes homes;
  homes.rank = rank;
  homes.ranks = 3;
  homes.headGroups = rank == 1 ? Range{1, 3} : Range{0, 1};
  homes.blocks = 20;
  homes.deviceBlocks = rank == 1 ? 2 : 20;
  homes.loans = {{1, 2, {6, 20}, {1, 3}}, {1, 0, {2, 6}, {1, 3}}};
  return checkedKvHomes(homes, 4, kBlockTokens);
}

class Traffic : public testing::Test {
 protected:
  void add(int64_t start, int64_t tokens, std::vector<int32_t> table) {
    tables_.push_back(std::move(table));
    const int64_t first = batch_.tokens();
    batch_.sequences.push_back({first, tokens, start, tables_.back().data()});
    for (int64_t i = 0; i < tokens; ++i) {
      batch_.tokenIds.push_back(0);
      batch_.positions.push_back(start + i);
      batch_.sequenceOf.push_back(static_cast<int32_t>(batch_.sequences.size()) - 1);
    }
  }
  RemotePlan plan(int rank = 1, int64_t window = 0) const { return planRemote(batch_, homesOf(rank), sizes_, window); }
  const RemoteTraffic& with(const RemotePlan& plan, int holder) const {
    return *std::ranges::find_if(plan.traffic, [&](const auto& traffic) { return traffic.loan.holder == holder; });
  }

  const ModelSpec model_ = reference::tinyLlama();  // two query heads a group, headDim 12, f32
  const RemoteSizes sizes_{model_, kBlockTokens};
  TokenBatch batch_;
  std::vector<std::vector<int32_t>> tables_;
};

TEST_F(Traffic, IsNoneForWhatLiesAtHome) {
  add(100, 1, {0, 1});
  const RemotePlan none = plan();
  EXPECT_TRUE(none.traffic.empty());
  EXPECT_FALSE(none.first || none.second);
}

TEST_F(Traffic, OfADecodeRow) {
  add(64 * 3 + 5, 1, {1, 4, 7, 3});
  const RemotePlan all = plan();
  ASSERT_EQ(all.traffic.size(), 2U);
  const RemoteTraffic& zero = with(all, 0);
  EXPECT_EQ(zero.stored, std::vector<int64_t>{0});  // position 197 lies in address 3
  EXPECT_EQ(zero.queryCount, 1);
  EXPECT_EQ(zero.rows, 4);  // two chunks of two query heads
  EXPECT_TRUE(zero.blocks.empty());
  EXPECT_EQ(sizes_.firstBytes(zero), 2 * (2 * 12 + 2 * 12) * 4);
  EXPECT_EQ(sizes_.secondBytes(zero), 2 * 4 * (12 + 2) * 4);
  const RemoteTraffic& two = with(all, 2);
  EXPECT_TRUE(two.stored.empty());
  EXPECT_EQ(two.rows, 2);
  ASSERT_EQ(all.sources[0].size(), 3U);
  EXPECT_EQ(all.sources[0][0].chunk, 1);
  EXPECT_EQ(all.sources[0][1].chunk, 2);
  EXPECT_EQ(all.sources[0][2].chunk, 3);
  EXPECT_TRUE(plan(0).sources[0].empty()) << "only the owner merges";
  EXPECT_EQ(plan(0).traffic.size(), 2U) << "every rank knows all messages";
}

TEST_F(Traffic, LeavesOutWhatNoRowSees) {
  add(64 * 3 + 5, 1, {1, 4, 7, 3});
  // Position 197 sees from 127 on, the last of chunk 1, or from 128 on.
  EXPECT_EQ(with(plan(1, 71), 0).rows, 4);
  EXPECT_EQ(with(plan(1, 70), 0).rows, 2);
  EXPECT_EQ(with(plan(1, 70), 2).rows, 2);
  const RemotePlan near = plan(1, 5);
  ASSERT_EQ(near.traffic.size(), 1U);
  EXPECT_EQ(with(near, 0).rows, 2);
}

/// Parts of r rows are r * 14 * 4 bytes, the block 2 * 64 * 12 * 4: as long as r is at most 109, parts go.
TEST_F(Traffic, SendsTheBlockWhereItsPartsWouldBeLarger) {
  add(64, 54, {4, 7});
  EXPECT_TRUE(with(plan(), 0).blocks.empty());
  EXPECT_EQ(with(plan(), 0).rows, 108);
  tables_.clear();
  batch_ = {};
  add(64, 55, {4, 7});
  const RemotePlan whole = plan();
  EXPECT_EQ(with(whole, 0).blocks, std::vector<int32_t>{4});
  EXPECT_EQ(with(whole, 0).rows, 0);
  EXPECT_EQ(with(whole, 0).queryCount, 0);
  EXPECT_EQ(sizes_.firstBytes(with(whole, 0)), 0);
  EXPECT_EQ(sizes_.secondBytes(with(whole, 0)), 2 * 2 * 64 * 12 * 4);
  EXPECT_EQ(whole.sources[0][0].wholeBlock, 0);
  EXPECT_TRUE(with(whole, 2).blocks.size() == 1 && with(whole, 2).stored.size() == 55);
}

/// A prefill and decode rows: each turn fits, and together they are what goes at once.
TEST_F(Traffic, GoesInTurnsThatFit) {
  tables_.reserve(12);
  add(64 * 12, 60, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14});
  for (int32_t i = 0; i < 10; ++i) add(64 * 3 + i, 1, {i % 4, 15, 16, 17});
  const int64_t bytesMax = exchangeBytesMax(model_, sizes_, 70, 3);
  const RemotePlan whole = plan();
  EXPECT_GT(sizes_.secondBytes(with(whole, 2)), bytesMax);
  const std::vector<RemotePlan> turns = planRemoteTurns(batch_, homesOf(1), sizes_, 0, bytesMax);
  EXPECT_GT(turns.size(), 1U);
  std::vector<std::vector<int64_t>> chunks(batch_.sequences.size());
  std::vector<int64_t> stored;
  for (const RemotePlan& turn : turns) {
    int64_t first = 0;
    int64_t second = 0;
    for (const RemoteTraffic& traffic : turn.traffic) {
      first += sizes_.firstBytes(traffic);
      second += sizes_.secondBytes(traffic);
      stored.insert(stored.end(), traffic.stored.begin(), traffic.stored.end());
    }
    EXPECT_LE(std::max(first, second), bytesMax);
    for (size_t sequence = 0; sequence < chunks.size(); ++sequence) {
      for (const RemoteSource& source : turn.sources[sequence]) chunks[sequence].push_back(source.chunk);
    }
  }
  for (size_t sequence = 0; sequence < chunks.size(); ++sequence) {
    std::vector<int64_t> expected;
    for (const RemoteSource& source : whole.sources[sequence]) expected.push_back(source.chunk);
    EXPECT_EQ(chunks[sequence], expected) << "sequence " << sequence;
  }
  EXPECT_EQ(stored.size(), with(whole, 0).stored.size() + with(whole, 2).stored.size());
  EXPECT_EQ(planRemoteTurns(batch_, homesOf(1), sizes_, 0, int64_t{1} << 30).size(), 1U);
}

TEST_F(Traffic, CountsTheRowsOfAllSequencesThatShareABlock) {
  tables_.reserve(60);
  for (int32_t i = 0; i < 54; ++i) add(64, 1, {4, 0});
  EXPECT_TRUE(with(plan(), 0).blocks.empty());
  add(64, 1, {4, 0});
  const RemotePlan shared = plan();
  EXPECT_EQ(with(shared, 0).blocks, std::vector<int32_t>{4});
  for (const auto& sources : shared.sources) EXPECT_EQ(sources.at(0).wholeBlock, 0);
}

}  // namespace
}  // namespace hels
