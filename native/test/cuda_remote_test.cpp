// KV that lies with another rank gives the same bits on GPUs, too. Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/cuda/cuda_engine.h"
#include "engine/cuda/cuda_remote_attention.h"
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
    const KvWorld::Shape shape{.sequences = 2, .tokens = tokens, .chunkMax = 128, .recalls = false};
    KvWorld world(model, group, common, shape, seed);
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

/// Of a model with eight head groups of 128 dimensions and long contexts. test/unit/deployment/reserved-bytes.test.ts
/// holds what plans count with against the same numbers.
TEST(GpuRemoteMemory, IsWhatPlansReserve) {
  ModelSpec spec = specOf("gqa", DataType::kBf16);
  spec.headGroups = 8;
  spec.queryHeadsPerGroup = 4;
  spec.headDim = 128;
  spec.maxPositions = 131072;
  spec.slidingWindows.clear();
  EngineOptions options = lendingOptions(1024);
  options.stepTokensMax = 2048;
  options.sequencesMax = 64;
  const auto mebibytesOf = [&](const KvHomes& homes) {
    return static_cast<double>(remoteBytesOf(spec, homes, options).device) / 1048576.0;
  };
  const std::vector<KvLoan> one = {{1, 0, {9, 1024}, {2, 8}}};
  EXPECT_NEAR(mebibytesOf({0, 2, {0, 2}, 1024, 0, 1024, one}), 138.57, 0.01);
  EXPECT_NEAR(mebibytesOf({1, 2, {2, 8}, 1024, 0, 9, one}), 114.39, 0.01);
  const std::vector<KvLoan> two = {{1, 0, {9, 1024}, {1, 2}}, {2, 0, {9, 1024}, {2, 8}}};
  EXPECT_NEAR(mebibytesOf({0, 3, {0, 1}, 1024, 0, 1024, two}), 150.78, 0.01);
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

#ifdef HELS_CUDA_EMULATION
/// In place of the other rank; notes how many blocks of threads had been started when this one came to exchange.
class Watcher final : public Communicator {
 public:
  explicit Watcher(int rank) : rank_(rank) {}
  int rank() const override { return rank_; }
  int ranks() const override { return 2; }
  const char* transport() const override { return "none"; }
  void allReduceSum(std::span<int64_t> /*values*/, std::chrono::nanoseconds /*deadline*/) override {}
  void exchange(std::span<const ExchangePart> parts, std::chrono::nanoseconds /*deadline*/) override {
    for (const ExchangePart& part : parts) std::ranges::fill(part.receive, std::byte{0});
    started.push_back(emulation::blocksRun());
  }
  void abort() noexcept override {}

  std::vector<uint64_t> started;

 private:
  const int rank_;
};

/// Blocks of threads that were started before each exchange and until the end of a layer's attention of tokens that see
/// an address of rank 1's that lies with rank 0, in turns of two.
std::vector<uint64_t> startedBlocks(int rank) {
  const ModelSpec spec = specOf("gqa", DataType::kBf16);
  const EngineOptions options = lendingOptions(2);
  const KvHomes homes{rank, 2, {2 * rank, 2 * rank + 2}, 2, 0, rank == 0 ? 2 : 1, {{1, 0, {1, 2}, {2, 4}}}};
  StepBatch batch;
  SequenceStep& sequence = batch.sequences.emplace_back();
  sequence.tokens = {1, 2, 3, 4};
  sequence.startPosition = 300;
  sequence.blockTable = {0, 1};
  const TokenBatch tokens = makeTokenBatch(batch, spec, options, {});
  const StepShape shape = shapeOf(tokens, {}, options.kvBlockTokens);
  const DeviceBuffer tables(StepMetadata::measure(shape), "test");
  StepMetadata metadata(shape, homes.deviceBlocks, tables.data());
  metadata.write(batch, tokens, {}, shape);
  metadata.upload(nullptr);

  KvShape kvShape{spec.weightType, spec.layers, 2, spec.headDim, options.kvBlockTokens, homes.deviceBlocks};
  const DeviceBuffer kv(kvShape.sizeBytes(), "test"), held(kvShape.sizeBytes(), "test");
  const int64_t stride = 2 * spec.queryHeadsPerGroup * spec.headDim;
  const DeviceBuffer queries(static_cast<size_t>(4 * stride) * 2, "test"), output(queries.sizeBytes(), "test");
  const AttentionModel model{spec.queryHeadsPerGroup};
  const DeviceKv own = CudaKv{kvShape, kv.data()}.layer(0);
  const DeviceBuffer workspace(attentionWorkspaceBytes(model, own, 1, shape.contextMax), "test");
  DeviceClock clock(1.0);
  Collective exchange(rank, 2, clock);
  const auto watcher = std::make_shared<Watcher>(rank);
  exchange.connect(watcher);
  CudaCollective alone(0, 1);
  CudaRemoteAttention remote(spec, options, homes, held.data(), exchange, alone);
  remote.limitTurns(2);
  remote.begin(tokens, shape, nullptr);
  const uint64_t before = emulation::blocksRun();
  remote.attend(0, model, own, metadata.deviceBatch(), queries.data(), output.data(), stride, workspace.data(),
                nullptr);
  watcher->started.push_back(emulation::blocksRun());
  for (uint64_t& count : watcher->started) count -= before;
  return watcher->started;
}

TEST(GpuRemoteOrder, OwnAttentionRunsBesideExchangesAndOwnersGoFirst) {
  const std::vector<uint64_t> owner = startedBlocks(1);
  ASSERT_EQ(owner.size(), 5U);
  EXPECT_GT(owner[0], 0U);        // begun before the queries are sent
  EXPECT_EQ(owner[0], owner[1]);  // until the parts are there
  EXPECT_GT(owner[2], owner[1]);  // merged, and the second turn begun
  const std::vector<uint64_t> holder = startedBlocks(0);
  ASSERT_EQ(holder.size(), 5U);
  EXPECT_EQ(holder[0], 0U);
  EXPECT_EQ(holder[2], holder[1]);                          // the first turn is the owner's alone
  EXPECT_GT(holder[3] - holder[2], holder[1] - holder[0]);  // its own rows are behind the owner's
  EXPECT_EQ(holder[4], holder[3]);                          // and nothing is left to start when the parts are sent
}
#endif

}  // namespace
}  // namespace hels::cuda
#endif
