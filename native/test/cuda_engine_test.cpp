// The engine on a GPU against the model in f64 and against the engine on the CPU; what it samples, refuses and reports.
// Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include "engine/cuda/cuda_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <future>

#include "base/error.h"
#include "comm/local_communicator.h"
#include "reference/gpu_models.h"
#include "reference/rank_group.h"
#include "reference/reference_model.h"

namespace hels::cuda {
namespace {

using namespace reference;

struct Family {
  const char* name;
  std::function<ModelSpec()> spec;
};

template <typename Change>
Family variant(const char* name, ModelSpec (*base)(), const Change& change) {
  return {name, [base, change] {
            ModelSpec spec = base();
            change(spec);
            return spec;
          }};
}

const Family kFamilies[] = {
    variant("llama", gpuLlama, [](ModelSpec&) {}),
    variant("llamaTiedBiases", gpuLlama,
            [](ModelSpec& s) { s.tiedEmbeddings = s.qkvBias = s.attentionOutputBias = s.mlpBias = true; }),
    variant("mistralWindow", gpuLlama,
            [](ModelSpec& s) {
              s.slidingWindows = {8, 0};
            }),
    variant("llama3Rope", gpuLlama,
            [](ModelSpec& s) {
              s.ropeScaling = RopeScaling::kLlama3;
              s.ropeFactor = 8.0;
              s.ropeLowFrequencyFactor = 1.0;
              s.ropeHighFrequencyFactor = 4.0;
              s.ropeOriginalMaxPositions = 32;
              s.ropeTheta = 500.0;
            }),
    variant("qwen3Ragged", gpuLlama, [](ModelSpec& s) { s.queryKeyNorm = s.qkvBias = true, s.ffnColumns = 53; }),
    variant("multiQuery", gpuLlama, [](ModelSpec& s) { s.headGroups = 1, s.queryHeadsPerGroup = 5; }),
    variant("optPre", gpuOpt, [](ModelSpec&) {}),
    variant("opt350mPost", gpuOpt, [](ModelSpec& s) { s.normBeforeBlock = s.finalNorm = false, s.embeddingSize = 20; }),
};

double tolerance(DataType type) {
  // Inputs of products, queries and attention's weights are rounded to the weights' type: 2^-9 and 2^-12 each time.
  return type == DataType::kF32 ? 5e-5 : type == DataType::kF16 ? 4e-3 : 3e-2;
}

class CudaFamilies : public testing::TestWithParam<std::tuple<size_t, DataType>> {};

TEST_P(CudaFamilies, LogitsAgreeWithTheModelInF64) {
  ModelSpec spec = kFamilies[std::get<0>(GetParam())].spec();
  spec.weightType = std::get<1>(GetParam());
  const TinyModel model = makeTinyModel(spec, 11);
  const std::vector<int32_t> tokens = randomTokens(37, spec.vocabRows, 5);
  RankGroup group(model, {{spec.headGroups, 0, 0}}, gpuOptions());
  const std::vector<float> logits = prefillLogits(group, tokens, 37);
  const std::vector<std::vector<double>> expected = referenceLogits(model, tokens);
  const auto columns = static_cast<size_t>(spec.vocabRows);
  ASSERT_EQ(logits.size(), tokens.size() * columns);
  double largest = 0.0;
  double difference = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double reference = expected[i / columns][i % columns];
    largest = std::max(largest, std::abs(reference));
    difference = std::max(difference, std::abs(reference - static_cast<double>(logits[i])));
  }
  EXPECT_GT(largest, 0.5);
  EXPECT_LT(difference / largest, tolerance(spec.weightType));
}

INSTANTIATE_TEST_SUITE_P(Families, CudaFamilies,
                         testing::Combine(testing::Range(size_t{0}, std::size(kFamilies)),
                                          testing::Values(DataType::kF32, DataType::kBf16)),
                         [](const auto& info) {
                           return std::string(kFamilies[std::get<0>(info.param)].name) + "_" +
                                  dataTypeName(std::get<1>(info.param));
                         });

double largestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return difference;
}

TEST(CudaAndCpu, AgreeInF32) {
  for (const ModelSpec& spec : {gpuLlama(), gpuOpt()}) {
    const TinyModel model = makeTinyModel(spec, 3);
    const std::vector<int32_t> tokens = randomTokens(30, spec.vocabRows, 5);
    RankGroup cpu(model, {{4, 0, 0}});
    RankGroup gpu(model, {{4, 0, 0}}, gpuOptions());
    EXPECT_LT(largestDifference(prefillLogits(cpu, tokens, 30), prefillLogits(gpu, tokens, 30)), 2e-5);
  }
}

TEST(CudaAndCpu, ShareAGroup) {
  const TinyModel model = makeTinyModel(gpuLlama(), 3);
  const std::vector<ShardSpec> shards = shardsOf(model.spec, {{2, 1, 30}, {2, 0, 0}});
  const auto communicators = createLocalGroup(2);
  std::vector<std::unique_ptr<Engine>> engines;
  for (const int rank : {0, 1}) {
    engines.push_back(Engine::load(model.spec, shards[static_cast<size_t>(rank)], model.source,
                                   rank == 0 ? tinyOptions() : gpuOptions()));
    engines.back()->connect(communicators[static_cast<size_t>(rank)]);
  }
  const std::vector<int32_t> tokens = randomTokens(20, model.spec.vocabRows, 5);
  RankGroup alone(model, {{4, 0, 0}});
  for (const bool logprobs : {false, true}) {
    StepBatch batch;
    batch.sequences.push_back(sequenceStep(0, tokens, 0, {3, 1}));
    batch.sequences[0].sampling = SamplingParameters{0.9F, 1.0F, 0, 5, logprobs ? 2 : -1};
    auto other = std::async(std::launch::async, [&] { return engines[1]->step(batch); });
    const StepResult first = engines[0]->step(batch);
    const StepResult second = other.get();
    const StepResult expected = alone.step(batch);
    ASSERT_EQ(first.sampled.size(), 1U);
    ASSERT_EQ(second.sampled.size(), 1U);
    EXPECT_EQ(first.sampled[0].tokenId, expected.sampled[0].tokenId);
    EXPECT_EQ(second.sampled[0].tokenId, expected.sampled[0].tokenId);
    EXPECT_EQ(first.sampled[0].logprob, second.sampled[0].logprob);
  }
}

/// Tokens of `steps` decode steps of some sequences after their prompts. Slot 2 is greedy, the others have
/// temperatures; the fed-back token is taken from the slot in odd steps.
std::vector<int32_t> decode(RankGroup& group, int64_t vocabRows, int steps, int32_t logprobs) {
  constexpr int32_t kSequences = 5;
  std::vector<int32_t> all;
  std::vector<int32_t> last(kSequences);
  for (int step = 0; step < steps; ++step) {
    StepBatch batch;
    for (int32_t slot = 0; slot < kSequences; ++slot) {
      const std::vector<int32_t> blocks{2 * slot, 2 * slot + 1};
      const int64_t prompt = 3 + slot;
      SequenceStep sequence =
          step == 0 ? sequenceStep(slot, randomTokens(prompt, vocabRows, static_cast<uint64_t>(slot)), 0, blocks)
                    : sequenceStep(slot, {last[static_cast<size_t>(slot)]}, prompt + step - 1, blocks);
      if (step % 2 == 1) {
        sequence.tokens.clear();
        sequence.takeSampled = true;
      }
      const float temperature = slot == 2 ? 0.0F : 0.5F * static_cast<float>(slot + 1);
      sequence.sampling = SamplingParameters{temperature, 1.0F, 0, static_cast<uint64_t>(100 + slot), logprobs};
      batch.sequences.push_back(sequence);
    }
    for (const SampledToken& sampled : group.step(batch).sampled) {
      last[static_cast<size_t>(sampled.slot)] = sampled.tokenId;
      all.push_back(sampled.tokenId);
    }
  }
  return all;
}

TEST(CudaSampling, IsTheSameOnDeviceAndHostOnAnySplitAndReplayed) {
  ModelSpec spec = gpuLlama();
  spec.weightType = DataType::kBf16;
  const TinyModel model = makeTinyModel(spec, 8);
  RankGroup one(model, {{4, 0, 0}}, gpuOptions());
  const std::vector<int32_t> expected = decode(one, spec.vocabRows, 6, -1);
  EXPECT_EQ(expected.size(), 30U);
  const auto& engine = dynamic_cast<CudaEngine&>(one.engine(0));
  EXPECT_EQ(engine.graphs().recorded(), 1);
  EXPECT_EQ(engine.graphs().replayed(), 4) << "the prompts are no step of decode, the first step of it runs directly";
  RankGroup direct(model, {{4, 0, 0}}, gpuOptions());
  dynamic_cast<CudaEngine&>(direct.engine(0)).setGraphs(false);
  EXPECT_EQ(decode(direct, spec.vocabRows, 6, -1), expected);
  EXPECT_EQ(dynamic_cast<CudaEngine&>(direct.engine(0)).graphs().replayed(), 0);
  RankGroup host(model, {{4, 0, 0}}, gpuOptions());
  EXPECT_EQ(decode(host, spec.vocabRows, 6, 0), expected) << "whole rows on the host";
  RankGroup three(model, {{1, 1, 10}, {2, 1, 40}, {1, 0, 0}}, gpuOptions());
  EXPECT_EQ(decode(three, spec.vocabRows, 6, -1), expected);
  EXPECT_EQ(three.engine(0).report().allReduceCount, 6U * 5);
}

TEST(CudaSampling, EqualsTheCpuEngine) {
  const TinyModel model = makeTinyModel(gpuLlama(), 8);  // f32: logits differ by less than what decides a token
  RankGroup cpu(model, {{4, 0, 0}});
  RankGroup gpu(model, {{4, 0, 0}}, gpuOptions());
  EXPECT_EQ(decode(gpu, 101, 5, -1), decode(cpu, 101, 5, -1));
}

TEST(CudaSampling, FiltersAndLogprobsGoThroughTheHost) {
  const TinyModel model = makeTinyModel(gpuLlama(), 8);
  RankGroup cpu(model, {{4, 0, 0}});
  RankGroup gpu(model, {{1, 2, 33}, {3, 0, 0}}, gpuOptions());
  StepBatch batch;
  for (int32_t slot = 0; slot < 20; ++slot) {
    batch.sequences.push_back(sequenceStep(slot, {slot, 5, slot + 1}, 0, {slot}));
    batch.sequences.back().sampling = SamplingParameters{1.0F, slot % 2 == 0 ? 0.8F : 1.0F, slot % 3 == 0 ? 9 : 0,
                                                         static_cast<uint64_t>(slot), slot % 5 == 0 ? 3 : -1};
  }
  const StepResult expected = cpu.step(batch);
  const StepResult result = gpu.step(batch);
  ASSERT_EQ(result.sampled.size(), expected.sampled.size());
  for (size_t i = 0; i < result.sampled.size(); ++i) {
    EXPECT_EQ(result.sampled[i].tokenId, expected.sampled[i].tokenId) << i;
    EXPECT_NEAR(result.sampled[i].logprob, expected.sampled[i].logprob, 1e-4F);
    ASSERT_EQ(result.sampled[i].topLogprobs.size(), expected.sampled[i].topLogprobs.size());
  }
}

TEST(CudaSampling, BannedTokensGoThroughTheHost) {
  const TinyModel model = makeTinyModel(gpuLlama(), 8);
  RankGroup cpu(model, {{4, 0, 0}});
  RankGroup gpu(model, {{1, 2, 33}, {3, 0, 0}}, gpuOptions());
  const auto stepOf = [](bool first, const std::vector<int32_t>& banned) {
    StepBatch batch;
    for (int32_t slot = 0; slot < 6; ++slot) {
      batch.sequences.push_back(
          sequenceStep(slot, first ? std::vector<int32_t>{slot, 5} : std::vector<int32_t>{}, first ? 0 : 2, {slot}));
      batch.sequences.back().takeSampled = !first;
      batch.sequences.back().sampling = SamplingParameters{slot % 2 == 0 ? 0.0F : 1.0F, 1.0F, 0, 7, -1};
      if (!banned.empty()) batch.sequences.back().bannedTokens = {banned[static_cast<size_t>(slot)], 100};
    }
    return batch;
  };
  const auto tokensOf = [](const StepResult& result) {
    std::vector<int32_t> tokens;
    for (const SampledToken& sampled : result.sampled) tokens.push_back(sampled.tokenId);
    return tokens;
  };
  const std::vector<int32_t> banned = tokensOf(cpu.step(stepOf(true, {})));
  const std::vector<int32_t> expected = tokensOf(cpu.step(stepOf(true, banned)));
  EXPECT_EQ(tokensOf(gpu.step(stepOf(true, banned))), expected);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NE(expected[i], banned[i]);
  EXPECT_EQ(tokensOf(gpu.step(stepOf(false, {}))), tokensOf(cpu.step(stepOf(false, {})))) << "goes on on the device";
}

void expectError(ErrorCode code, const std::string& part, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "no error; expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(CudaErrors, APartialOutOfRangeNamesLayerAndPosition) {
  for (const char* name : {"mlp.down_proj", "self_attn.o_proj"}) {
    TinyModel model = makeTinyModel(gpuLlama(), 4);
    auto& view = const_cast<TensorView&>(*model.source->find("model.layers.1." + std::string(name) + ".weight"));
    std::vector<float> huge(view.sizeBytes / 4, 1e12F);
    view.data = reinterpret_cast<const std::byte*>(huge.data());
    RankGroup group(model, {{4, 0, 0}}, gpuOptions());
    const std::string part = std::string("layer 1, ") + (name[0] == 'm' ? "MLP" : "attention") + " output";
    expectError(ErrorCode::kNumericRange, part, [&] { prefillLogits(group, {3, 4, 5}, 1); });
    StepBatch batch;
    for (int32_t slot = 0; slot < 3; ++slot) batch.sequences.push_back(sequenceStep(slot, {1}, 0, {slot}));
    for (SequenceStep& sequence : batch.sequences) sequence.sampling = SamplingParameters{};
    for (int i = 0; i < 3; ++i) {  // directly, recorded, replayed
      expectError(ErrorCode::kNumericRange, "sequence 0 of the step, position 0", [&] { group.step(batch); });
    }
  }
}

TEST(CudaErrors, ABrokenLogitNamesTokenSlotAndPosition) {
  TinyModel model = makeTinyModel(gpuLlama(), 4);
  auto& view = const_cast<TensorView&>(*model.source->find("lm_head.weight"));
  std::vector<float> rows(view.sizeBytes / 4);
  std::copy_n(reinterpret_cast<const float*>(view.data), rows.size(), rows.begin());
  rows[17 * 40 + 3] = NAN;
  view.data = reinterpret_cast<const std::byte*>(rows.data());
  RankGroup group(model, {{2, 1, 10}, {2, 0, 0}}, gpuOptions());
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(6, {1, 2}, 0, {0}));
  batch.sequences[0].sampling = SamplingParameters{};
  expectError(ErrorCode::kNumericRange, "the logit of token 17 on rank 1", [&] { group.step(batch); });
  RankGroup again(model, {{2, 1, 10}, {2, 0, 0}}, gpuOptions());
  batch.sequences[0].sampling->logprobs = 1;
  expectError(ErrorCode::kNumericRange, "for slot 6 at position 2", [&] { again.step(batch); });
}

TEST(CudaErrors, WhatIsNotDoneIsRefusedByName) {
  const auto load = [](const std::function<void(ModelSpec&, EngineOptions&)>& change) {
    ModelSpec spec = gpuLlama();
    EngineOptions options = gpuOptions();
    change(spec, options);
    const TinyModel model = makeTinyModel(spec, 1);
    RankGroup(model, {{spec.headGroups, 0, 0}}, options);
  };
  const std::pair<const char*, std::function<void(ModelSpec&, EngineOptions&)>> cases[] = {
      {"device is \"gpu\"", [](ModelSpec&, EngineOptions& o) { o.device = "gpu"; }},
      {"device is \"cuda:\"", [](ModelSpec&, EngineOptions& o) { o.device = "cuda:"; }},
      {"device is \"cuda:-1\"", [](ModelSpec&, EngineOptions& o) { o.device = "cuda:-1"; }},
      {"device is \"cuda:1x\"", [](ModelSpec&, EngineOptions& o) { o.device = "cuda:1x"; }},
      {"speed is 0.5", [](ModelSpec&, EngineOptions& o) { o.speed = 0.5; }},
      {"headDim is 12", [](ModelSpec& s, EngineOptions&) { s.headDim = 12; }},
      {"ffnGranule is 4", [](ModelSpec& s, EngineOptions&) { s.ffnGranule = 4, s.weightType = DataType::kF16; }},
      {"quantization is int8",
       [](ModelSpec& s, EngineOptions&) { s.quantization = Quantization::kInt8, s.weightType = DataType::kBf16; }},
  };
  for (const auto& [message, change] : cases) expectError(ErrorCode::kShapeInvalid, message, [&] { load(change); });
  expectError(ErrorCode::kDeviceMissing, "",
              [&] { load([](ModelSpec&, EngineOptions& o) { o.device = "cuda:900"; }); });
}

TEST(CudaErrors, MemoryIsCheckedBeforeItIsTaken) {
  const TinyModel model = makeTinyModel(gpuLlama(), 1);
  EngineOptions options = gpuOptions();
  const EngineReport report = RankGroup(model, {{4, 0, 0}}, options).engine(0).report();
  EXPECT_EQ(report.kvBytes, 2U * 2 * 4 * 16 * 4 * 64 * 16);  // keys and values, layers, groups, headDim, f32, blocks
  const uint64_t total = report.weightBytesResident + report.kvBytes + report.scratchBytes;
  options.memoryBytes = total;
  EXPECT_NO_THROW(RankGroup(model, {{4, 0, 0}}, options));
  options.memoryBytes = total - 1;
  expectError(ErrorCode::kMemoryExceeded, "its memory budget", [&] { RankGroup(model, {{4, 0, 0}}, options); });
  options.memoryBytes = 0;
  options.kvBlocks = int64_t{1} << 28;
  expectError(ErrorCode::kMemoryExceeded, " free; give it fewer", [&] { RankGroup(model, {{4, 0, 0}}, options); });
}

TEST(CudaErrors, PositionsThatThePoolHasNoRoomForAreRefused) {
  EngineOptions options = gpuOptions();
  options.kvBlocks = 2;
  RankGroup group(makeTinyModel(gpuLlama(), 1), {{4, 0, 0}}, options);
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, {1}, 100, {0, 0, 0, 0, 0, 0, 1}));
  expectError(ErrorCode::kShapeInvalid, "startPosition is 100; allowed is [0, 32)", [&] { group.step(batch); });
}

TEST(CudaErrors, ConnectIsNeededForSeveralRanks) {
  const TinyModel model = makeTinyModel(gpuLlama(), 1);
  const auto shards = shardsOf(model.spec, {{2, 1, 30}, {2, 0, 0}});
  const auto engine = Engine::load(model.spec, shards[0], model.source, gpuOptions());
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, {1}, 0, {0}));
  expectError(ErrorCode::kShapeInvalid, "needs connect()", [&] { engine->step(batch); });
  expectError(ErrorCode::kShapeInvalid, "rank 0 of 2", [&] { engine->connect(createLocalGroup(2)[1]); });
  const auto cpu = Engine::load(model.spec, shards[0], model.source, tinyOptions());
  expectError(ErrorCode::kShapeInvalid, "on a GPU", [&] { cpu->connectDevice(nullptr); });
}

TEST(CudaReport, FingerprintDependsOnTheArithmeticOnly) {
  const auto report = [](DataType type, uint64_t seed) {
    ModelSpec spec = gpuLlama();
    spec.weightType = type;
    return RankGroup(makeTinyModel(spec, seed), {{4, 0, 0}}, gpuOptions()).engine(0).report();
  };
  EXPECT_EQ(report(DataType::kF16, 1).fingerprint, report(DataType::kF16, 2).fingerprint);
  EXPECT_NE(report(DataType::kF16, 1).fingerprint, report(DataType::kBf16, 1).fingerprint);
  EXPECT_EQ(report(DataType::kF16, 1).fingerprint.rfind("cuda-1/", 0), 0U);
  EXPECT_EQ(report(DataType::kF16, 1).gemmImplementation.rfind("chain/cuda-sm", 0), 0U);
}

TEST(CudaReport, ACorruptedByteChangesTheLogits) {
  const TinyModel model = makeTinyModel(gpuLlama(), 1);
  RankGroup intact(model, {{4, 0, 0}}, gpuOptions());
  EngineOptions options = gpuOptions();
  options.corruption = Corruption{"model.layers.1.self_attn.q_proj.weight", 3};
  RankGroup corrupt(model, {{4, 0, 0}}, options);
  EXPECT_TRUE(corrupt.engine(0).report().corrupted);
  EXPECT_NE(prefillLogits(corrupt, {1, 2, 3, 4}, 4), prefillLogits(intact, {1, 2, 3, 4}, 4));
}

TEST(CudaRandom, MadeUpWeightsGiveLogitsOfAnOrdinarySize) {
  for (ModelSpec spec : {gpuLlama(), gpuOpt()}) {
    spec.weightType = DataType::kBf16;
    const ShardSpec shard{0, 1, {0, spec.headGroups}, {0, spec.ffnColumns}, {0, spec.vocabRows}};
    const auto engine = loadRandomCudaEngine(spec, shard, gpuOptions(), 7);
    check(cudaDeviceSynchronize(), "what other streams have left to do");
    StepBatch batch;
    batch.sequences.push_back(sequenceStep(0, {1, 2, 3}, 0, {0}));
    batch.sequences[0].returnLogits = true;
    const std::vector<float> logits = engine->step(batch).logits;
    double squares = 0.0;
    for (const float logit : logits) squares += static_cast<double>(logit) * static_cast<double>(logit);
    EXPECT_NEAR(std::sqrt(squares / static_cast<double>(logits.size())), 1.0, 0.5);
  }
}

}  // namespace
}  // namespace hels::cuda
#endif
