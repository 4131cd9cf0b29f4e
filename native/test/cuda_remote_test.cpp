// KV that lies with another rank gives the same bits on GPUs, too. Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/cuda/cuda_engine.h"
#include "reference/gpu_models.h"
#include "reference/kv_world.h"

namespace hels::cuda {
namespace {

using namespace reference;

ModelSpec specOf(const std::string& kind, DataType type) {
  ModelSpec spec = kind == "mha" ? gpuOpt() : gpuLlama();
  spec.layers = 2;
  spec.slidingWindows = {kind == "window" ? 270 : 0, 0};
  spec.maxPositions = 700;
  spec.weightType = type;
  return spec;
}

EngineOptions lendingOptions(int64_t blocks, int64_t blockTokens = 256) {
  EngineOptions options = gpuOptions();
  options.kvBlockTokens = blockTokens;
  options.kvBlocks = blocks;
  return options;
}

struct Lending {
  const char* name;
  const char* kind;
  DataType type;
  std::vector<RankShare> shares;
  std::vector<int64_t> deviceBlocks;
  int64_t turnTokens = 128;
  int64_t blockTokens = 256;
};

class GpuRemote : public testing::TestWithParam<Lending> {};

TEST_P(GpuRemote, GivesTheBitsOfKvAtHome) {
  const Lending& lending = GetParam();
  const TinyModel model = makeTinyModel(specOf(lending.kind, lending.type), 5);
  const EngineOptions common = lendingOptions(6, lending.blockTokens);
  // Sequences go beyond their first block.
  const int64_t tokens = lending.blockTokens + 144;
  for (const uint64_t seed : {4U, 5U}) {
    std::mt19937_64 random(seed);
    RankGroup group(model, lending.shares, randomLoans(model, lending.shares, common, lending.deviceBlocks, random));
    for (size_t rank = 0; rank < group.ranks(); ++rank) {
      dynamic_cast<CudaEngine&>(group.engine(rank)).limitRemoteTurns(lending.turnTokens);
    }
    KvWorld world(model, group, common, {2, tokens, 128}, seed);
    int64_t steps = 0;
    ASSERT_TRUE(world.run(steps)) << "step " << steps << ", seed " << seed;
    EXPECT_GT(group.engine(0).report().exchangeCount, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, GpuRemote,
    testing::Values(Lending{"toOneOfTwo", "gqa", DataType::kBf16, {{1, 1, 30}, {3, 0, 0}}, {6, 1}},
                    Lending{"toEachOther", "mha", DataType::kF16, {{2, 1, 30}, {2, 0, 0}}, {2, 3}},
                    Lending{"amongThree", "window", DataType::kBf16, {{1, 1, 10}, {2, 1, 0}, {1, 0, 0}}, {0, 2, 4}},
                    Lending{"withoutHeads", "gqa", DataType::kF32, {{0, 1, 10}, {4, 1, 0}}, {0, 1}},
                    Lending{"inTurns", "window", DataType::kF32, {{1, 1, 30}, {3, 0, 0}}, {2, 1}, 7},
                    Lending{"blocksOfTwoChunks", "window", DataType::kF32, {{1, 1, 30}, {3, 0, 0}}, {3, 1}, 50, 512}),
    [](const auto& info) { return info.param.name; });

/// A group of two in which rank 1 lends the addresses from 1 on.
class GpuLending : public testing::Test {
 protected:
  std::vector<EngineOptions> options() const {
    EngineOptions common = lendingOptions(4);
    common.kvLoans = {{1, 0, {1, 4}, {2, 4}}};
    std::vector<EngineOptions> both(2, common);
    both[1].kvDeviceBlocks = 1;
    return both;
  }
  const std::vector<RankShare> shares_ = {{2, 1, 30}, {2, 0, 0}};
  const TinyModel model_ = makeTinyModel(specOf("gqa", DataType::kBf16), 5);
};

TEST_F(GpuLending, ExchangesOnlyWhatASequenceTouches) {
  RankGroup group(model_, shares_, options());
  StepBatch batch;
  SequenceStep& sequence = batch.sequences.emplace_back();
  sequence.tokens = randomTokens(60, model_.spec.vocabRows, 1);
  sequence.blockTable = {0};
  EXPECT_EQ(group.step(batch).remoteSeconds, 0.0);
  EXPECT_EQ(group.engine(0).report().exchangeCount, 0U);
  sequence.blockTable = {2};
  const StepResult result = group.step(batch);
  EXPECT_EQ(group.engine(0).report().exchangeCount, 4U);  // two in each of two layers
  EXPECT_EQ(group.engine(0).report().exchangeBytes, group.engine(1).report().exchangeBytes);
  EXPECT_GT(result.remoteSeconds, 0.0);
  EXPECT_EQ(group.engine(0).report().remoteSeconds, result.remoteSeconds);
  EXPECT_GE(result.totalSeconds, result.remoteSeconds + result.computeSeconds);
}

TEST_F(GpuLending, CountsMemoryWhereItLies) {
  RankGroup group(model_, shares_, options());
  const uint64_t block = 2U * 2 * 2 * 16 * 2 * 256;  // keys and values, layers, groups, headDim, bf16, positions
  const EngineReport holder = group.engine(0).report();
  const EngineReport owner = group.engine(1).report();
  EXPECT_EQ(holder.kvBytes, 4 * block);
  EXPECT_EQ(holder.kvLoanBytes, 3 * block);
  EXPECT_EQ(owner.kvBytes, block);
  EXPECT_EQ(owner.kvLoanBytes, 0U);

  std::vector<EngineOptions> limited = options();
  limited[0].memoryBytes = holder.residentBytes;
  EXPECT_NO_THROW(RankGroup(model_, shares_, limited));
  --limited[0].memoryBytes;
  try {
    RankGroup(model_, shares_, limited);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kMemoryExceeded);
    EXPECT_NE(std::string(error.what()).find("KV of other ranks"), std::string::npos) << error.what();
  }
}

TEST_F(GpuLending, MovesNothing) {
  RankGroup group(model_, shares_, options());
  StepBatch batch;
  batch.kvMoves = {{3, 0}};
  try {
    group.step(batch);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid);
    EXPECT_NE(std::string(error.what()).find("kvMoves is not empty"), std::string::npos) << error.what();
  }
}

TEST_F(GpuLending, LossOfTheHolderIsReported) {
  RankGroup group(model_, shares_, options());
  StepBatch batch;
  SequenceStep& sequence = batch.sequences.emplace_back();
  sequence.tokens = {1, 2, 3};
  sequence.blockTable = {2};
  batch.collectiveDeadline = std::chrono::milliseconds(200);
  try {
    group.engine(1).step(batch);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDeadlineExceeded) << error.what();
  }
}

}  // namespace
}  // namespace hels::cuda
#endif
