// A change of plans half-way through sequences, for tests of all kinds of it: what comes before, what comes after, and
// the bits of an undisturbed run.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "engine/cpu_weights.h"
#include "reference/rank_group.h"

namespace hels::reference {

inline constexpr int64_t kTokens = 150;
inline constexpr int64_t kHalf = 77;  // in the middle of a block

/// Attention of several kinds, and quantised matrices.
inline ModelSpec specOf(const std::string& kind, DataType type) {
  ModelSpec spec = kind == "mha" ? tinyOpt() : tinyLlama();
  spec.weightType = type;
  spec.maxPositions = 600;
  if (kind == "int8") spec.quantization = Quantization::kInt8;
  if (kind == "int4") spec.quantization = Quantization::kInt4;
  if (kind == "tied") spec.tiedEmbeddings = true;
  return spec;
}

/// A plan: what each rank has, and which rank of the plan before it was; -1: none.
struct Plan {
  std::vector<RankShare> shares;
  std::vector<int> before;
};

/// Two sequences at addresses that lie apart; the second one shares its first block with the first.
inline const std::vector<std::vector<int32_t>> kTables = {{7, 3, 12, 40, 5, 41, 13, 20, 21, 22},
                                                          {7, 9, 30, 11, 6, 2, 33, 23}};
/// Of both sequences' first kHalf and kHalf - 20 tokens.
inline const std::vector<Range> kBlocksInUse = {{3, 4}, {5, 6}, {7, 8}, {9, 10}, {11, 13}, {30, 31}, {40, 41}};

inline std::vector<std::unique_ptr<Engine>> predecessorsOf(RankGroup& group, const std::vector<int>& before) {
  std::vector<std::unique_ptr<Engine>> engines = group.takeEngines();
  std::vector<std::unique_ptr<Engine>> predecessors(before.size());
  for (size_t rank = 0; rank < before.size(); ++rank) {
    if (before[rank] >= 0) predecessors[rank] = std::move(engines[static_cast<size_t>(before[rank])]);
  }
  return predecessors;
}

inline KvMigration migrationTo(const RankGroup& group, const std::vector<Range>& headGroupsBefore,
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

  TinyModel model_;
  std::vector<int32_t> first_, second_;
  std::vector<float> expectedFirst_, expectedSecond_;
};

inline const std::vector<int> kSameTwo = {0, 1};
inline const std::vector<int> kSameThree = {0, 1, 2};

inline const auto kReplanModels = testing::Values(
    std::tuple("mha", DataType::kF32), std::tuple("gqa", DataType::kF32), std::tuple("mha", DataType::kBf16),
    std::tuple("gqa", DataType::kBf16), std::tuple("tied", DataType::kBf16), std::tuple("int8", DataType::kBf16),
    std::tuple("int4", DataType::kBf16));

inline std::string replanModelName(const testing::TestParamInfo<Replan::ParamType>& info) {
  return std::get<0>(info.param) + "_" + dataTypeName(std::get<1>(info.param));
}

}  // namespace hels::reference
