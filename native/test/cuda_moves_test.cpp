// KV that is parked and brought back on a GPU gives the same bits, in every home and beside steps that compute; what is
// refused; what it takes. Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "engine/cuda/cuda_engine.h"
#include "reference/gpu_models.h"
#include "reference/kv_world.h"

namespace hels::cuda {
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

EngineOptions poolOptions(int64_t blocks, int64_t parked, int64_t deviceBlocks) {
  EngineOptions options = gpuOptions();
  options.kvBlocks = blocks;
  options.kvParkedBlocks = parked;
  options.kvDeviceBlocks = deviceBlocks;
  return options;
}

ModelSpec specOf(DataType type, bool window) {
  ModelSpec spec = gpuLlama();
  spec.weightType = type;
  spec.maxPositions = 600;
  if (window) spec.slidingWindows = {9, 0};
  return spec;
}

/// A small world: the emulation computes a token of it in tens of milliseconds.
void expectSameBits(const ModelSpec& spec, const std::vector<RankShare>& shares,
                    const std::vector<int64_t>& deviceBlocks) {
  const TinyModel model = makeTinyModel(spec, 5);
  const EngineOptions options = poolOptions(8, 6, 8);
  std::vector<EngineOptions> ofRanks(shares.size(), options);
  for (size_t rank = 0; rank < shares.size(); ++rank) ofRanks[rank].kvDeviceBlocks = deviceBlocks[rank];
  RankGroup group(model, shares, ofRanks);
  KvWorld world(model, group, options, {2, 40, 20}, 3);
  int64_t steps = 0;
  EXPECT_TRUE(world.run(steps)) << "step " << steps;
  EXPECT_GT(group.engine(0).report().moveSeconds, 0.0);
}

TEST(CudaMoves, LeaveAllBitsOfOneRank) {
  expectSameBits(specOf(DataType::kF32, true), {{4, 0, 0}}, {8});  // no parked address on the device
}

TEST(CudaMoves, LeaveAllBitsInHomesOfBothKinds) { expectSameBits(specOf(DataType::kBf16, false), {{4, 0, 0}}, {11}); }

TEST(CudaMoves, LeaveAllBitsOfRanksThatAreNotAlike) {
  expectSameBits(specOf(DataType::kBf16, false), {{1, 1, 30}, {3, 0, 0}}, {8, 14});
}

/// Greedy tokens of decode steps of three sequences of 20 prompt tokens. With `parking`, sequence 2 rests in every
/// other step and its blocks are away meanwhile: they leave beside a step of the others, come back in a step of their
/// own or with the step that needs them, in turn.
std::vector<int32_t> decode(Engine& engine, int64_t vocabRows, int steps, bool parking) {
  constexpr int32_t kSequences = 3;
  std::vector<int32_t> all;
  std::vector<int32_t> last(kSequences);
  const auto partOf = [&](int32_t slot, int step) {
    const std::vector<int32_t> blocks{3 * slot, 3 * slot + 2, 3 * slot + 1};
    SequenceStep part = step == 0
                            ? sequenceStep(slot, randomTokens(20, vocabRows, static_cast<uint64_t>(slot)), 0, blocks)
                            : sequenceStep(slot, {last[static_cast<size_t>(slot)]}, 19 + step, blocks);
    part.sampling = SamplingParameters{};
    return part;
  };
  const auto run = [&](const StepBatch& batch) {
    for (const SampledToken& sampled : engine.step(batch).sampled) {
      last[static_cast<size_t>(sampled.slot)] = sampled.tokenId;
      all.push_back(sampled.tokenId);
    }
  };
  for (int step = 0; step < steps; ++step) {
    StepBatch others{{partOf(0, step), partOf(1, step)}, {}, {}};
    StepBatch own{{partOf(2, step)}, {}, {}};
    if (parking && step > 0) {
      others.kvMoves = {{6, 9}, {7, 13}, {8, 10}};
      const std::vector<KvMove> back{{9, 6}, {13, 7}, {10, 8}};
      if (step % 2 == 0) {
        own.kvMoves = back;
        run(others);
      } else {
        run(others);
        engine.step({{}, back, {}});
      }
    } else {
      run(others);
    }
    run(own);
  }
  return all;
}

TEST(CudaMoving, GoesOnBesideReplayedSteps) {
  const TinyModel model = makeTinyModel(specOf(DataType::kF32, false), 8);
  RankGroup undisturbed(model, {{4, 0, 0}}, poolOptions(9, 0, 9));
  RankGroup moving(model, {{4, 0, 0}}, poolOptions(9, 5, 11));
  const std::vector<int32_t> expected = decode(undisturbed.engine(0), 101, 4, false);
  EXPECT_EQ(decode(moving.engine(0), 101, 4, true), expected);
  EXPECT_EQ(dynamic_cast<CudaEngine&>(moving.engine(0)).graphs().replayed(), 4) << "two steps of either kind";
}

TEST(CudaMoving, AStepOfMovesAloneTakesItsTime) {
  const TinyModel model = makeTinyModel(specOf(DataType::kF32, false), 8);
  RankGroup group(model, {{4, 0, 0}}, poolOptions(4, 4, 5));
  const StepResult result = group.step({{}, {{0, 5}, {1, 4}, {6, 7}}, {}});  // to the host, on the device, in the host
  EXPECT_TRUE(result.sampled.empty());
  EXPECT_GT(result.moveSeconds, 0.0);
  EXPECT_GE(result.totalSeconds, result.moveSeconds);
  EXPECT_EQ(group.engine(0).report().moveSeconds, result.moveSeconds);
}

TEST(CudaMoving, MemoryIsCountedWhereItLies) {
  const TinyModel model = makeTinyModel(specOf(DataType::kF32, false), 8);
  EngineOptions options = poolOptions(8, 6, 10);
  const uint64_t block = 2U * 2 * 4 * 16 * 4 * 16;  // keys and values, layers, groups, headDim, f32, positions
  const EngineReport report = RankGroup(model, {{4, 0, 0}}, options).engine(0).report();
  EXPECT_EQ(report.kvBytes, 10 * block);
  EXPECT_EQ(report.kvHostBytes, 4 * block);
  options.memoryBytes = report.residentBytes;
  EXPECT_NO_THROW(RankGroup(model, {{4, 0, 0}}, options));
  --options.memoryBytes;
  expectError(ErrorCode::kMemoryExceeded, "its memory budget", [&] { RankGroup(model, {{4, 0, 0}}, options); });
}

TEST(CudaMoving, HostMemoryIsCheckedBeforeItIsTaken) {
  const TinyModel model = makeTinyModel(specOf(DataType::kF32, false), 8);
  const EngineOptions huge = poolOptions(8, int64_t{1} << 30, 8);
  expectError(ErrorCode::kMemoryExceeded, "of page-locked host memory for parked and lent KV; the host has", [&] {
    RankGroup(model, {{4, 0, 0}}, huge);
  });
#ifdef HELS_CUDA_EMULATION
  emulation::setPinnedBytesMax(size_t{1} << 20);
  expectError(ErrorCode::kMemoryExceeded, "page-locked memory of 16777216 bytes for parked KV", [&] {
    RankGroup(model, {{4, 0, 0}}, poolOptions(8, 1024, 8));
  });
  emulation::setPinnedBytesMax(std::numeric_limits<size_t>::max());
#endif
}

TEST(CudaMoving, ARankWithoutHeadsHasNothingToMove) {
  const TinyModel model = makeTinyModel(specOf(DataType::kBf16, false), 8);
  RankGroup group(model, {{0, 1, 30}, {4, 0, 0}}, poolOptions(8, 6, 8));
  EXPECT_EQ(group.engine(0).report().kvHostBytes, 0U);
  EXPECT_NO_THROW(group.step({{}, {{0, 9}, {13, 12}}, {}}));
}

TEST(CudaMoving, RefusesUnknownAndDoubleAddresses) {
  const TinyModel model = makeTinyModel(specOf(DataType::kF32, false), 8);
  RankGroup group(model, {{4, 0, 0}}, poolOptions(8, 2, 9));
  const auto moves = [&](std::vector<KvMove> kvMoves) {
    return [&group, kvMoves = std::move(kvMoves)] { group.step({{}, kvMoves, {}}); };
  };
  const auto refuses = [](const std::string& part, const std::function<void()>& body) {
    expectError(ErrorCode::kShapeInvalid, part, body);
  };
  refuses("no sequences and no kvMoves", moves({}));
  refuses("kvMoves[1]: to is 10; allowed is [0, 10)", moves({{0, 1}, {2, 10}}));
  refuses("kvMoves[0]: from is -1", moves({{-1, 3}}));
  refuses("kvMoves[1]: to is 0; the address is used twice", moves({{0, 1}, {2, 0}}));
  refuses("kvMoves has 6 entries", moves(std::vector<KvMove>(6)));
  StepBatch parked;
  parked.sequences.push_back(sequenceStep(0, {1, 2}, 0, {8}));
  refuses("block is 8; allowed is [0, 8)", [&] { group.step(parked); });
  EXPECT_NO_THROW(moves({{0, 9}, {8, 3}})());
}

TEST(CudaMoving, RefusesHomesThatItDoesNotHave) {
  const TinyModel model = makeTinyModel(specOf(DataType::kF32, false), 8);
  const std::vector<ShardSpec> shards = shardsOf(model.spec, {{2, 1, 30}, {2, 0, 0}});
  const std::pair<const char*, std::function<void(EngineOptions&)>> cases[] = {
      {"kvParkedBlocks is -1", [](EngineOptions& o) { o.kvParkedBlocks = -1; }},
      {"kvDeviceBlocks is 11; allowed is 0 to 10", [](EngineOptions& o) { o.kvDeviceBlocks = 11; }},
      {"kvDeviceBlocks is 7, and rank 0 lends from address 8", [](EngineOptions& o) { o.kvDeviceBlocks = 7; }},
      {"kvBlockTokens is 64; with kvLoans it must be a multiple of 256 on device cuda:0",
       [](EngineOptions& o) {
         o.kvBlockTokens = 64;
         o.kvLoans = {{1, 0, {4, 8}, {2, 4}}};
       }},
      {"kvParkedBlocks is 2; with kvLoans it must be 0 on device cuda:0",
       [](EngineOptions& o) {
         o.kvBlockTokens = 256;
         o.kvLoans = {{1, 0, {4, 8}, {2, 4}}};
       }},
  };
  for (const auto& [message, change] : cases) {
    EngineOptions options = poolOptions(8, 2, 8);
    change(options);
    expectError(ErrorCode::kShapeInvalid, message, [&] { Engine::load(model.spec, shards[0], model.source, options); });
  }
}

}  // namespace
}  // namespace hels::cuda
#endif
