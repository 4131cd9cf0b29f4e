// The invariant of exact numerics: the same bits for any split, batch, chunking, placement of KV blocks and number of
// threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "base/error.h"
#include "engine/engine.h"
#include "reference/rank_group.h"

namespace hels {
namespace {

using namespace reference;

constexpr int64_t kTokens = 100;

ModelSpec specOf(const std::string& family, DataType type) {
  ModelSpec spec = family == "opt" ? tinyOpt() : tinyLlama();
  if (family == "opt350m") {
    spec = tinyOpt();
    spec.normBeforeBlock = spec.finalNorm = false;
    spec.embeddingSize = 20;
  }
  if (family == "qwen3Window") {
    spec.queryKeyNorm = spec.qkvBias = spec.mlpBias = true;
    spec.slidingWindows = {9, 0, 70};
    spec.ffnColumns = 53;
  }
  spec.weightType = type;
  return spec;
}

class Exactness : public testing::TestWithParam<std::tuple<std::string, DataType>> {
 protected:
  void SetUp() override {
    model_ = makeTinyModel(specOf(std::get<0>(GetParam()), std::get<1>(GetParam())), 21);
    tokens_ = randomTokens(kTokens, model_.spec.vocabRows, 9);
    RankGroup group(model_, whole());
    expected_ = prefillLogits(group, tokens_, kTokens);
  }
  std::vector<RankShare> whole() const { return {{model_.spec.headGroups, 0, 0}}; }

  TinyModel model_;
  std::vector<int32_t> tokens_;
  std::vector<float> expected_;
};

TEST_P(Exactness, AnySplit) {
  const std::vector<std::vector<RankShare>> splits = {
      {{2, 1, 30}, {2, 0, 0}},
      {{1, 2, 1}, {3, 0, 0}},
      {{0, 2, 20}, {4, 0, 0}},                          // no heads
      {{3, 0, 33}, {1, 0, 0}},                          // no FFN columns
      {{1, 1, 10}, {2, 1, 0}, {1, 0, 0}},               // no vocabulary rows
      {{0, 0, 5}, {4, 2, 7}, {0, 0, 0}},                // a rank with nothing but vocabulary
      {{1, 1, 16}, {1, 0, 16}, {1, 1, 16}, {1, 0, 0}},  // one head group each
      {{0, 1, 0}, {2, 1, 40}, {0, 0, 2}, {2, 0, 0}},
  };
  for (size_t i = 0; i < splits.size(); ++i) {
    RankGroup group(model_, splits[i]);
    ASSERT_EQ(prefillLogits(group, tokens_, kTokens), expected_) << "split " << i;
    for (size_t rank = 0; rank < group.ranks(); ++rank) {
      EXPECT_EQ(group.engine(rank).report().fingerprint, group.engine(0).report().fingerprint);
    }
  }
}

TEST_P(Exactness, AnyChunking) {
  RankGroup one(model_, whole());
  RankGroup three(model_, {{1, 1, 10}, {2, 1, 0}, {1, 0, 0}});
  for (const int64_t chunk : {1, 7, 16, 64}) {
    ASSERT_EQ(prefillLogits(one, tokens_, chunk), expected_) << "chunk " << chunk;
    ASSERT_EQ(prefillLogits(three, tokens_, chunk), expected_) << "chunk " << chunk << ", three ranks";
  }
}

TEST_P(Exactness, AnyThreadsAndBlocks) {
  EngineOptions options = tinyOptions();
  options.threads = 2;
  std::vector<int32_t> blocks(64);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937_64(3));
  RankGroup group(model_, whole(), options);
  ASSERT_EQ(prefillLogits(group, tokens_, 33, blocks), expected_);
  std::reverse(blocks.begin(), blocks.end());
  ASSERT_EQ(prefillLogits(group, tokens_, 50, blocks), expected_) << "over KV left by another run";
}

TEST_P(Exactness, BatchOfSixteen) {
  // The sequence rides along fifteen others, a decode token here and a chunk there.
  RankGroup group(model_, {{2, 1, 30}, {2, 0, 0}});
  std::vector<float> logits;
  size_t fed = 0;
  for (int64_t step = 0; fed < 60; ++step) {
    StepBatch batch;
    for (int32_t slot = 0; slot < 15; ++slot) {
      std::vector<int32_t> blocks(3);
      std::iota(blocks.begin(), blocks.end(), 10 + slot * 3);
      const std::vector<int32_t> other =
          randomTokens(slot % 3 == 0 ? 4 : 1, model_.spec.vocabRows, static_cast<uint64_t>(slot));
      batch.sequences.push_back(sequenceStep(slot, other, step, blocks));
    }
    const size_t count = std::min<size_t>(step % 2 == 0 ? 1 : 9, 60 - fed);
    const std::vector<int32_t> part(tokens_.begin() + static_cast<std::ptrdiff_t>(fed),
                                    tokens_.begin() + static_cast<std::ptrdiff_t>(fed + count));
    batch.sequences.insert(batch.sequences.begin() + step % 15,
                           sequenceStep(31, part, static_cast<int64_t>(fed), {5, 0, 63, 2, 7, 8, 9}));
    batch.sequences[static_cast<size_t>(step % 15)].returnLogits = true;
    const StepResult result = group.step(batch);
    logits.insert(logits.end(), result.logits.begin(), result.logits.end());
    fed += count;
  }
  ASSERT_TRUE(std::equal(logits.begin(), logits.end(), expected_.begin()));
}

INSTANTIATE_TEST_SUITE_P(Models, Exactness,
                         testing::Combine(testing::Values("llama", "qwen3Window", "opt", "opt350m"),
                                          testing::Values(DataType::kF32, DataType::kBf16, DataType::kF16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + dataTypeName(std::get<1>(info.param));
                         });

TEST(Collectives, TwoForEachLayerAndOneForSampling) {
  const TinyModel model = makeTinyModel(tinyLlama(), 4);
  RankGroup group(model, {{2, 1, 30}, {2, 0, 0}});
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, {1, 2, 3}, 0, {0}));
  group.step(batch);
  EXPECT_EQ(group.engine(0).report().allReduceCount, 6U);
  EXPECT_EQ(group.engine(0).report().allReduceBytes, 6U * 3 * 40 * 8);
  batch.sequences[0].sampling = SamplingParameters{};
  group.step(batch);
  EXPECT_EQ(group.engine(1).report().allReduceCount, 13U);
  RankGroup alone(model, {{4, 0, 0}});
  alone.step(batch);
  EXPECT_EQ(alone.engine(0).report().allReduceCount, 0U);
}

TEST(Fingerprint, DependsOnTheArithmeticOnly) {
  const auto fingerprint = [](const ModelSpec& spec, uint64_t seed) {
    RankGroup group(makeTinyModel(spec, seed), {{spec.headGroups, 0, 0}});
    return group.engine(0).report().fingerprint;
  };
  ModelSpec bf16 = tinyLlama();
  bf16.weightType = DataType::kBf16;
  EXPECT_EQ(fingerprint(tinyLlama(), 1), fingerprint(tinyLlama(), 2));
  EXPECT_NE(fingerprint(tinyLlama(), 1), fingerprint(bf16, 1));
  EXPECT_EQ(fingerprint(tinyLlama(), 1).rfind("chain-5/f32:", 0), 0U);
}

TEST(NumericRange, NamesLayerAndPosition) {
  ModelSpec spec = tinyLlama();
  TinyModel model = makeTinyModel(spec, 4);
  TensorView& view = const_cast<TensorView&>(*model.source->find("model.layers.1.mlp.down_proj.weight"));
  std::vector<float> huge(view.sizeBytes / 4, 1e12F);
  view.data = reinterpret_cast<const std::byte*>(huge.data());
  RankGroup group(model, {{4, 0, 0}});
  try {
    prefillLogits(group, {3, 4, 5}, 1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumericRange);
    EXPECT_NE(std::string(error.what()).find("layer 1, MLP output"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("position 0"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace hels
