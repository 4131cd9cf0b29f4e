// What an engine refuses, reports and measures: batches, budgets, accounting, corruption, emulation, profiling, its
// thread.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <future>
#include <thread>

#include "base/error.h"
#include "comm/local_communicator.h"
#include "engine/engine_thread.h"
#include "engine/profile.h"
#include "kv/kv_store.h"
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

TEST(StepBatchCheck, RefusesWhatCouldReachForeignMemory) {
  const TinyModel model = makeTinyModel(tinyLlama(), 1);
  RankGroup group(model, {{4, 0, 0}});
  const std::pair<const char*, std::function<void(StepBatch&)>> cases[] = {
      {"no sequences", [](StepBatch& b) { b.sequences.clear(); }},
      {"slot is -1", [](StepBatch& b) { b.sequences[0].slot = -1; }},
      {"slot is 32", [](StepBatch& b) { b.sequences[0].slot = 32; }},
      {"slot 0 is used twice", [](StepBatch& b) { b.sequences[1].slot = 0; }},
      {"token is 101", [](StepBatch& b) { b.sequences[0].tokens[1] = 101; }},
      {"token is -1", [](StepBatch& b) { b.sequences[0].tokens[1] = -1; }},
      {"no tokens", [](StepBatch& b) { b.sequences[0].tokens.clear(); }},
      {"exclude each other", [](StepBatch& b) { b.sequences[0].takeSampled = true; }},
      {"nothing was sampled", [](StepBatch& b) { b.sequences[0].takeSampled = true, b.sequences[0].tokens.clear(); }},
      {"startPosition is -1", [](StepBatch& b) { b.sequences[0].startPosition = -1; }},
      {"startPosition is 255", [](StepBatch& b) { b.sequences[0].startPosition = 255; }},
      {"startPosition is 9223372036854775807", [](StepBatch& b) { b.sequences[0].startPosition = INT64_MAX; }},
      {"blockTable has 1 blocks; 17 positions need 2", [](StepBatch& b) { b.sequences[0].startPosition = 14; }},
      {"block is 64", [](StepBatch& b) { b.sequences[0].blockTable[0] = 64; }},
      {"block is -5", [](StepBatch& b) { b.sequences[0].blockTable[0] = -5; }},
      {"block 1 is used twice", [](StepBatch& b) { b.sequences[0].blockTable[0] = 1; }},
      {"block 1 is used twice",
       [](StepBatch& b) {
         b.sequences[0].startPosition = 16;
         b.sequences[0].blockTable = {1, 2};
       }},
      {"more than stepTokensMax",
       [](StepBatch& b) {
         b.sequences[0].tokens.assign(126, 1);
         b.sequences[0].blockTable = {2, 3, 4, 5, 6, 7, 8, 9};
       }},
      {"tokens is 129", [](StepBatch& b) { b.sequences[0].tokens.assign(129, 1); }},
      {"temperature is -1",
       [](StepBatch& b) {
         b.sequences[0].sampling = SamplingParameters{-1.0F, 1, 0, 0, -1};
       }},
      {"temperature is nan",
       [](StepBatch& b) {
         b.sequences[0].sampling = SamplingParameters{NAN, 1, 0, 0, -1};
       }},
      {"topP is 0",
       [](StepBatch& b) {
         b.sequences[0].sampling = SamplingParameters{1, 0.0F, 0, 0, -1};
       }},
      {"topK is -2",
       [](StepBatch& b) {
         b.sequences[0].sampling = SamplingParameters{1, 1, -2, 0, -1};
       }},
      {"logprobs is 102",
       [](StepBatch& b) {
         b.sequences[0].sampling = SamplingParameters{1, 1, 0, 0, 102};
       }},
      {"banned token is 101",
       [](StepBatch& b) {
         b.sequences[0].sampling = SamplingParameters{};
         b.sequences[0].bannedTokens = {3, 101};
       }},
      {"bannedTokens is 101; allowed is [0, 101)",
       [](StepBatch& b) {
         b.sequences[0].sampling = SamplingParameters{};
         b.sequences[0].bannedTokens.assign(101, 3);
       }},
  };
  StepBatch good;
  good.sequences.push_back(sequenceStep(0, {1, 2, 3}, 0, {0}));
  good.sequences.push_back(sequenceStep(1, {1, 2, 3}, 0, {1}));
  for (const auto& [message, change] : cases) {
    StepBatch bad = good;
    change(bad);
    expectError(ErrorCode::kShapeInvalid, message, [&] { group.step(bad); });
  }
  EXPECT_NO_THROW(group.step(good)) << "the engine stays usable";
}

/// A table may name a block that is only read many times, so its length bounds no position.
TEST(StepBatchCheck, RefusesPositionsThatThePoolHasNoRoomFor) {
  const TinyModel model = makeTinyModel(tinyLlama(), 1);
  EngineOptions options = tinyOptions();
  options.kvBlocks = 2;
  RankGroup group(model, {{4, 0, 0}}, options);
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, {1}, 100, {0, 0, 0, 0, 0, 0, 1}));
  expectError(ErrorCode::kShapeInvalid, "startPosition is 100; allowed is [0, 32)", [&] { group.step(batch); });
  batch.sequences[0] = sequenceStep(0, {1, 2}, 31, {0, 0, 1});
  expectError(ErrorCode::kShapeInvalid, "startPosition is 31; allowed is [0, 31)", [&] { group.step(batch); });
  batch.sequences[0] = sequenceStep(0, {1, 2}, 30, {0, 1});
  EXPECT_NO_THROW(group.step(batch));
}

TEST(SharedPrefix, IsReadBySeveralSequencesOfAStep) {
  const TinyModel model = makeTinyModel(tinyLlama(), 1);
  const std::vector<int32_t> tokens = randomTokens(36, 101, 5);
  RankGroup alone(model, {{4, 0, 0}});
  const std::vector<float> expected = prefillLogits(alone, tokens, 36);

  RankGroup group(model, {{2, 1, 30}, {2, 0, 0}});
  StepBatch prefix;
  prefix.sequences.push_back(sequenceStep(0, {tokens.begin(), tokens.begin() + 32}, 0, {5, 3}));
  group.step(prefix);
  StepBatch shared;
  for (const int32_t slot : {0, 1, 2}) {
    shared.sequences.push_back(sequenceStep(slot, {tokens.begin() + 32, tokens.end()}, 32, {5, 3, 10 + slot}));
    shared.sequences.back().returnLogits = true;
  }
  const std::vector<float> logits = group.step(shared).logits;
  const auto rows = static_cast<size_t>(4 * 101);
  ASSERT_EQ(logits.size(), 3 * rows);
  for (size_t i = 0; i < logits.size(); ++i) ASSERT_EQ(logits[i], expected[(32 * 101) + (i % rows)]) << i;
}

TEST(EngineOptionsCheck, NamesTheField) {
  const TinyModel model = makeTinyModel(tinyLlama(), 1);
  const std::pair<const char*, std::function<void(EngineOptions&)>> cases[] = {
      {"threads is 0", [](EngineOptions& o) { o.threads = 0; }},
      {"speed is 0", [](EngineOptions& o) { o.speed = 0; }},
      {"speed is 1.5", [](EngineOptions& o) { o.speed = 1.5; }},
      {"kvBlockTokens is 24", [](EngineOptions& o) { o.kvBlockTokens = 24; }},
      {"kvBlockTokens is 4160; allowed are 16, 32 and multiples of 64 up to 4096",
       [](EngineOptions& o) { o.kvBlockTokens = 4160; }},
      {"kvBlocks is 0", [](EngineOptions& o) { o.kvBlocks = 0; }},
      {"stepTokensMax is 0", [](EngineOptions& o) { o.stepTokensMax = 0; }},
      {"sequencesMax is -1", [](EngineOptions& o) { o.sequencesMax = -1; }},
  };
  for (const auto& [message, change] : cases) {
    EngineOptions options = tinyOptions();
    change(options);
    expectError(ErrorCode::kShapeInvalid, message, [&] { RankGroup(model, {{4, 0, 0}}, options); });
  }
}

TEST(Memory, IsCheckedBeforeItIsTaken) {
  const TinyModel model = makeTinyModel(tinyLlama(), 1);
  EngineOptions options = tinyOptions();
  const EngineReport report = RankGroup(model, {{4, 0, 0}}, options).engine(0).report();
  const uint64_t total = report.weightBytesResident + report.kvBytes + report.scratchBytes;
  EXPECT_EQ(report.kvBytes, 2U * 3 * 4 * 12 * 4 * 64 * 16);  // keys and values, layers, groups, headDim, f32, blocks
  options.memoryBytes = total;
  EXPECT_NO_THROW(RankGroup(model, {{4, 0, 0}}, options));
  options.memoryBytes = total - 1;
  expectError(ErrorCode::kMemoryExceeded, "GiB", [&] { RankGroup(model, {{4, 0, 0}}, options); });
  options.memoryBytes = 0;
  options.kvBlocks = int64_t{1} << 31;  // refused by the system or the budget, never half taken
  options.memoryBytes = uint64_t{1} << 30;
  expectError(ErrorCode::kMemoryExceeded, "KV ", [&] { RankGroup(model, {{4, 0, 0}}, options); });
}

TEST(Memory, SizesOfKvDoNotWrap) {
  const KvShape shape{DataType::kF32, 64, 0, 128, 4096, 0};
  const int64_t headGroups = 64;  // a block of all of them takes 2^34 bytes
  KvHomes homes;
  homes.headGroups = {0, headGroups};
  homes.blocks = 1 << 30;
  homes.deviceBlocks = 1 << 26;
  homes.loans = {{0, 1, {1 << 26, 1 << 30}, homes.headGroups}};
  EXPECT_EQ(kvBytesOf(homes, shape).device, size_t{1} << 60);
  homes.deviceBlocks = 1 << 30;  // 2^64 bytes
  expectError(ErrorCode::kMemoryExceeded,
              "kvDeviceBlocks is 1073741824; allowed are up to 67108864 with 17179869184 bytes of KV in each",
              [&] { kvBytesOf(homes, shape); });
  homes.deviceBlocks = 0;
  homes.parkedBlocks = (1 << 26) + 1;
  expectError(ErrorCode::kMemoryExceeded, "kvParkedBlocks in host memory is 67108865; allowed are up to 67108864",
              [&] { kvBytesOf(homes, shape); });
  homes.parkedBlocks = 0;
  homes.headGroups = {0, 0};
  homes.loans = {{1, 0, {0, 1 << 25}, {0, headGroups}}, {1, 0, {1 << 25, 1 << 30}, {0, headGroups}}};
  expectError(ErrorCode::kMemoryExceeded, "kvLoans.blocks is 1040187392; allowed are up to 33554432",
              [&] { kvBytesOf(homes, shape); });
}

TEST(Accounting, LoadedBytesAddUpToTheModel) {
  for (const bool tied : {false, true}) {
    ModelSpec spec = tinyLlama();
    spec.tiedEmbeddings = tied;
    spec.qkvBias = spec.attentionOutputBias = spec.mlpBias = true;
    const TinyModel model = makeTinyModel(spec, 1);
    uint64_t modelBytes = 0;
    for (const auto& [name, tensor] : model.source->tensors()) modelBytes += tensor.sizeBytes;
    RankGroup group(model, {{0, 2, 20}, {1, 0, 30}, {3, 0, 0}});
    uint64_t sliced = 0;
    for (size_t rank = 0; rank < 3; ++rank) {
      const EngineReport report = group.engine(rank).report();
      sliced += report.weightBytesLoaded - report.weightBytesReplicated;
      EXPECT_EQ(report.weightBytesReplicated, group.engine(0).report().weightBytesReplicated);
    }
    EXPECT_EQ(sliced + group.engine(0).report().weightBytesReplicated, modelBytes);
  }
}

TEST(Corrupt, ChangesTheLogitsOfTheRankThatOwnsTheByte) {
  const TinyModel model = makeTinyModel(tinyLlama(), 1);
  const std::vector<ShardSpec> shards = shardsOf(model.spec, {{2, 1, 30}, {2, 0, 0}});
  const std::vector<int32_t> tokens{1, 2, 3, 4};
  RankGroup intact(model, {{2, 1, 30}, {2, 0, 0}});
  const std::vector<float> expected = prefillLogits(intact, tokens, 4);
  for (const int rank : {0, 1}) {
    EngineOptions options = tinyOptions();
    options.corruption = Corruption{"model.layers.1.self_attn.q_proj.weight", 3};  // row 0: rank 0's
    const auto communicators = createLocalGroup(2);
    std::vector<std::unique_ptr<Engine>> engines;
    for (int r = 0; r < 2; ++r) {
      engines.push_back(
          Engine::load(model.spec, shards[static_cast<size_t>(r)], model.source, r == rank ? options : tinyOptions()));
      engines.back()->connect(communicators[static_cast<size_t>(r)]);
    }
    StepBatch batch;
    batch.sequences.push_back(sequenceStep(0, tokens, 0, {0}));
    batch.sequences[0].returnLogits = true;
    auto other = std::async(std::launch::async, [&] { return engines[1]->step(batch); });
    const StepResult first = engines[0]->step(batch);
    other.get();
    const bool same = first.logits[5] == expected[5] && first.logits[95] == expected[101 * 3 + 5];
    EXPECT_EQ(same, rank == 1);
  }
}

TEST(Emulation, StretchesComputeBySpeed) {
  ModelSpec spec = tinyLlama();
  spec.hiddenSize = spec.embeddingSize = 256;
  spec.ffnColumns = 1024;
  spec.ffnGranule = 256;
  const TinyModel model = makeTinyModel(spec, 1);
  EngineOptions options = tinyOptions();
  options.threads = 1;
  RankGroup fast(model, {{4, 0, 0}}, options);
  options.speed = 0.1;
  RankGroup slow(model, {{4, 0, 0}}, options);
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, randomTokens(16, 101, 1), 0, {0}));
  // The fast one's seconds are those on the wall: on a busy machine only the best of many is its own. The slow one
  // takes ten times as long, and no machine makes it faster than it is: a few do.
  double fastest = 1e9;
  for (int i = 0; i < 20; ++i) fastest = std::min(fastest, fast.step(batch).computeSeconds);
  for (int i = 0; i < 3; ++i) {
    const StepResult result = slow.step(batch);
    EXPECT_GT(result.computeSeconds, 5 * fastest);
    EXPECT_GE(result.totalSeconds, result.computeSeconds);
  }
}

TEST(Profile, GrowsWithTheShareAndNamesBadFields) {
  ModelSpec spec = tinyLlama();
  spec.hiddenSize = spec.embeddingSize = 256;
  spec.ffnColumns = 1024;
  spec.ffnGranule = 128;
  spec.maxPositions = 1024;
  EngineOptions options;
  options.memoryBytes = 32 << 20;
  Profiler profiler(spec, options);
  const double none = profiler.measure({false, 4, 400, 0, 0, 0}, 5);
  const double whole = profiler.measure({false, 4, 400, 4, 1024, 101}, 5);
  const double prefill = profiler.measure({true, 128, 128 * 200, 4, 1024, 101}, 3);
  EXPECT_GT(none, 0.0);
  EXPECT_GT(whole, none);
  EXPECT_GT(prefill, 2 * whole);
  options.speed = 0.25;
  EXPECT_GT(profileStep(spec, options, {false, 4, 400, 4, 1024, 101}, 5), 1.5 * whole);
  expectError(ErrorCode::kShapeInvalid, "headGroups is 5", [&] { profiler.measure({false, 1, 1, 5, 0, 0}, 1); });
  expectError(ErrorCode::kShapeInvalid, "tokens is 0", [&] { profiler.measure({false, 0, 1, 1, 0, 0}, 1); });
  expectError(ErrorCode::kShapeInvalid, "contextTokens is 5000", [&] {
    profiler.measure({false, 1, 5000, 1, 0, 0}, 1);
  });
  // Refused before there is a table of that many blocks, of which each point would take 64 TiB.
  const int64_t large = int64_t{1} << 48;
  expectError(ErrorCode::kShapeInvalid, "contextTokens is 281474976710656", [&] {
    profiler.measure({false, 1, large, 1, 0, 0}, 1);
  });
  expectError(ErrorCode::kShapeInvalid, "chunkContextTokens is 281474976710656", [&] {
    profiler.measure({false, 1, 1, 1, 0, 0, 16, large}, 1);
  });
}

TEST(Profile, RefusesSequencesWhoseTablesWouldBeLarge) {
  ModelSpec spec = tinyLlama();
  spec.maxPositions = int64_t{1} << 20;
  Profiler profiler(spec, EngineOptions{});
  for (const int64_t tokens : {17, 65536}) {
    const int64_t context = tokens * spec.maxPositions;
    expectError(ErrorCode::kShapeInvalid,
                "contextTokens is " + std::to_string(context) +
                    "; allowed is such that all sequences together have at most 16777216 positions",
                [&] {
                  profiler.measure({false, tokens, context, 0, 0, 0}, 1);
                });
  }
  EXPECT_GT(profiler.measure({false, 16, 16 * spec.maxPositions, 0, 0, 0}, 1), 0.0);
}

TEST(Connect, IsNeededForSeveralRanks) {
  const TinyModel model = makeTinyModel(tinyLlama(), 1);
  const auto shards = shardsOf(model.spec, {{2, 1, 30}, {2, 0, 0}});
  const auto engine = Engine::load(model.spec, shards[0], model.source, tinyOptions());
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, {1}, 0, {0}));
  expectError(ErrorCode::kShapeInvalid, "needs connect()", [&] { engine->step(batch); });
  expectError(ErrorCode::kShapeInvalid, "rank 0 of 2", [&] { engine->connect(createLocalGroup(2)[1]); });
}

TEST(Thread, RunsInOrderAbortsAndSettlesEverything) {
  const TinyModel model = makeTinyModel(tinyLlama(), 1);
  const auto shards = shardsOf(model.spec, {{2, 1, 30}, {2, 0, 0}});
  const auto communicators = createLocalGroup(2);
  EngineThread thread(3);
  std::promise<void> loaded;
  thread.post({[&](EngineSlot& slot) {
                 slot.set(Engine::load(model.spec, shards[0], model.source, tinyOptions()));
                 slot.get()->connect(communicators[0]);
               },
               [&](std::exception_ptr failure) { failure ? loaded.set_exception(failure) : loaded.set_value(); }});
  loaded.get_future().get();

  StepBatch batch;
  batch.sequences.push_back(sequenceStep(0, {1}, 0, {0}));
  batch.collectiveDeadline = std::chrono::seconds(60);  // its peer never comes: only abort() can end it
  std::promise<void> stepping;
  std::atomic<int> settled{0};
  std::promise<std::exception_ptr> aborted;
  thread.post({[&](EngineSlot& slot) {
                 stepping.set_value();
                 slot.get()->step(batch);
               },
               [&](std::exception_ptr failure) { aborted.set_value(failure); }});
  stepping.get_future().wait();
  for (int i = 0; i < 3; ++i) thread.post({[](EngineSlot&) {}, [&](std::exception_ptr) { ++settled; }});
  expectError(ErrorCode::kShapeInvalid, "queue is full", [&] { thread.post({[](EngineSlot&) {}, {}}); });
  thread.abort();
  expectError(ErrorCode::kAborted, "", [&] { std::rethrow_exception(aborted.get_future().get()); });
  thread.close();
  EXPECT_EQ(settled, 3);
  expectError(ErrorCode::kAborted, "closed", [&] { thread.post({[](EngineSlot&) {}, {}}); });
  thread.close();
}

}  // namespace
}  // namespace hels
