#include "engine/profile.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <numeric>
#include <string>

#include "base/error.h"
#include "engine/cpu_engine.h"

namespace hels {
namespace {

/// Made-up weights and KV, each: well beyond a last-level cache, so that a large model is measured from memory as it
/// will run.
constexpr size_t kMadeUpBytesMax = size_t{256} << 20;
constexpr int64_t kEmbeddingRows = 256;

/// 0.002 in each type: no partial sum leaves the fixed point's range, nothing is denormal.
uint32_t weightPattern(DataType type) {
  if (type == DataType::kF32) return 0x3b03126f;
  return type == DataType::kBf16 ? 0x3b033b03 : 0x18181818;
}

void requirePoint(bool good, const char* field, int64_t value, const std::string& allowed) {
  require(good, ErrorCode::kShapeInvalid,
          "profile point: " + std::string(field) + " is " + std::to_string(value) + "; allowed is " + allowed);
}

void requireShare(const char* field, int64_t value, int64_t whole) {
  requirePoint(value >= 0 && value <= whole, field, value, "0 to " + std::to_string(whole));
}

/// The sequences of a point: decode spreads the context evenly over one-token sequences, prefill is one chunk.
struct PointBatch {
  StepBatch step;
  int64_t blocks = 0;  // of the pool
};

double medianSeconds(int repetitions, const std::function<void()>& body) {
  body();  // page faults and cold caches are not the device's speed
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

/// Start position of each sequence such that its tokens attend to `context` positions in sum.
int64_t startOf(int64_t tokens, int64_t context) {
  return std::max<int64_t>(0, (context - tokens * (tokens + 1) / 2) / tokens);
}

/// Sequences write into blocks of their own; what they only read is taken from the rest of the pool in turn.
PointBatch batchOf(const ProfilePoint& point, int64_t blockTokens, int64_t readBlocksMax) {
  const int64_t sequences = point.prefill ? 1 : point.tokens;
  const int64_t tokens = point.tokens / sequences;
  const int64_t start = startOf(tokens, point.contextTokens / sequences);
  const int64_t firstWritten = start / blockTokens;
  const int64_t tableBlocks = divCeil(start + tokens, blockTokens);
  const int64_t written = tableBlocks - firstWritten;
  const int64_t readBlocks = std::clamp<int64_t>(firstWritten * sequences, 1, std::max<int64_t>(1, readBlocksMax));
  PointBatch batch;
  batch.blocks = written * sequences + readBlocks;
  int64_t nextRead = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    SequenceStep sequence;
    sequence.slot = static_cast<int32_t>(i);
    sequence.startPosition = start;
    sequence.tokens.assign(static_cast<size_t>(tokens), 0);
    for (int64_t block = 0; block < tableBlocks; ++block) {
      const int64_t id =
          block < firstWritten ? written * sequences + nextRead++ % readBlocks : i * written + block - firstWritten;
      sequence.blockTable.push_back(static_cast<int32_t>(id));
    }
    batch.step.sequences.push_back(std::move(sequence));
  }
  return batch;
}

TokenBatch flatten(const StepBatch& step, int64_t vocabRows) {
  TokenBatch batch;
  for (const SequenceStep& sequence : step.sequences) {
    const auto tokens = static_cast<int64_t>(sequence.tokens.size());
    batch.sequences.push_back({batch.tokens(), tokens, sequence.startPosition, sequence.blockTable.data()});
    for (int64_t i = 0; i < tokens; ++i) {
      batch.tokenIds.push_back(static_cast<int32_t>((batch.tokens() * 37) % vocabRows));
      batch.positions.push_back(sequence.startPosition + i);
      batch.sequenceOf.push_back(static_cast<int32_t>(batch.sequences.size() - 1));
    }
  }
  return batch;
}

/// Logits and choice of a point's tokens: decode samples every sequence, a prefill chunk at most its last token.
void sampleAll(const ProfilePoint& point, const ShardSpec& shard, ForwardPass& forward, const Scratch& scratch) {
  std::vector<int64_t> sampled(static_cast<size_t>(point.prefill ? 1 : point.tokens));
  std::iota(sampled.begin(), sampled.end(), point.prefill ? point.tokens - 1 : 0);
  for (size_t begin = 0; begin < sampled.size(); begin += static_cast<size_t>(kLogitRowsMax)) {
    const size_t rows = std::min(sampled.size() - begin, static_cast<size_t>(kLogitRowsMax));
    const float* logits = forward.logits(std::span(sampled).subspan(begin, rows));
    for (size_t row = 0; row < rows; ++row, logits += scratch.logitsStride) {
      bestCandidate(logits, shard.vocabRows.size(), 0, {}, 0);
    }
  }
}

void setNorms(const ModelSpec& model, const ModelWeights& weights) {
  const auto set = [&](const NormWeights& norm) {
    if (norm.weight != nullptr) std::fill_n(norm.weight, model.hiddenSize, 1.0F);
    if (norm.bias != nullptr) std::fill_n(norm.bias, model.hiddenSize, 0.0F);
  };
  for (const LayerWeights& layer : weights.layers) {
    set(layer.attentionNorm);
    set(layer.mlpNorm);
    if (layer.queryNorm != nullptr) std::fill_n(layer.queryNorm, model.headDim, 1.0F);
    if (layer.keyNorm != nullptr) std::fill_n(layer.keyNorm, model.headDim, 1.0F);
  }
  set(weights.finalNorm);
}

}  // namespace

Profiler::Profiler(const ModelSpec& model, const EngineOptions& options)
    : model_(model), options_(options), gemm_(makeGemm(options)) {
  validateModelSpec(model);
  EngineOptions checked = options;
  checked.kvBlocks = 1;
  validateEngineOptions(model, checked);
}

Profiler::~Profiler() = default;

Arena& Profiler::arena(std::unique_ptr<Arena>& arena, size_t& capacity, size_t sizeBytes, bool weights) {
  if (!arena || capacity < sizeBytes) {
    arena.reset();
    arena = std::make_unique<Arena>(sizeBytes, "profiling");
    capacity = sizeBytes;
    if (weights) {
      std::fill_n(reinterpret_cast<uint32_t*>(arena->takeBytes(sizeBytes)), sizeBytes / 4,
                  weightPattern(model_.weightType));
    }
  }
  arena->rewind();
  return *arena;
}

/// What stands for the device at a point: `layers` of the model's layers, a head of at most kMadeUpBytesMax, a pool of
/// KV blocks.
struct Profiler::Setup {
  ModelSpec model;
  ShardSpec shard;
  EngineOptions options;
  KvShape kv;
  int64_t layers = 1;
  PointBatch batch;
};

Profiler::Setup Profiler::makeSetup(const ProfilePoint& point) {
  const size_t bytesMax =
      options_.memoryBytes == 0 ? kMadeUpBytesMax : std::min<size_t>(kMadeUpBytesMax, options_.memoryBytes / 4);
  Setup setup{model_, {0, 1, {0, point.headGroups}, {0, point.ffnColumns}, {0, point.vocabRows}}, options_, {}, 1, {}};
  ModelSpec& model = setup.model;
  model.vocabRows = std::min(model_.vocabRows, kEmbeddingRows);
  const size_t headRowBytes = static_cast<size_t>(model.embeddingSize) * bytesOf(model.weightType);
  setup.shard.vocabRows.end =
      std::min<int64_t>(point.vocabRows, std::max<int64_t>(1, static_cast<int64_t>(bytesMax / headRowBytes)));

  Arena oneLayer;
  layoutWeights(model, setup.shard, 1, *gemm_, oneLayer);
  setup.layers = std::clamp<int64_t>(static_cast<int64_t>(bytesMax / oneLayer.usedBytes()), 1, model.layers);
  setup.kv = {model.weightType, setup.layers, point.headGroups, model.headDim, options_.kvBlockTokens, 1};
  const size_t blockBytes = std::max<size_t>(1, setup.kv.sizeBytes());
  setup.batch = batchOf(point, options_.kvBlockTokens, static_cast<int64_t>(bytesMax / blockBytes));
  setup.kv.blocks = setup.batch.blocks;

  const SequenceStep& sequence = setup.batch.step.sequences.front();
  const int64_t positions = sequence.startPosition + static_cast<int64_t>(sequence.tokens.size());
  requirePoint(positions <= model.maxPositions, "contextTokens", point.contextTokens,
               "such that no sequence exceeds " + std::to_string(model.maxPositions) + " positions");
  setup.options.stepTokensMax = point.tokens;
  setup.options.sequencesMax = static_cast<int64_t>(setup.batch.step.sequences.size());
  setup.options.kvBlocks = static_cast<int64_t>(sequence.blockTable.size());  // sizes the table of positions
  return setup;
}

double Profiler::measure(const ProfilePoint& point, int repetitions) {
  requireShare("headGroups", point.headGroups, model_.headGroups);
  requireShare("ffnColumns", point.ffnColumns, model_.ffnColumns);
  requireShare("vocabRows", point.vocabRows, model_.vocabRows);
  requirePoint(point.tokens >= 1 && point.tokens <= int64_t{1} << 16, "tokens", point.tokens, "1 to 65536");
  requirePoint(point.contextTokens >= 1, "contextTokens", point.contextTokens, "1 and above");
  require(repetitions >= 1, ErrorCode::kShapeInvalid,
          "repetitions is " + std::to_string(repetitions) + "; allowed is 1 and above");

  const Setup setup = makeSetup(point);
  Arena weightCount;
  layoutWeights(setup.model, setup.shard, setup.layers, *gemm_, weightCount);
  Arena scratchCount;
  layoutScratch(setup.model, setup.shard, setup.options, scratchCount);
  const ModelWeights weights = layoutWeights(setup.model, setup.shard, setup.layers, *gemm_,
                                             arena(weightArena_, weightCapacity_, weightCount.usedBytes(), true));
  setNorms(setup.model, weights);
  const Scratch scratch = layoutScratch(setup.model, setup.shard, setup.options,
                                        arena(scratchArena_, scratchCapacity_, scratchCount.usedBytes(), false));
  std::byte* kvData = arena(kvArena_, kvCapacity_, setup.kv.sizeBytes(), false).takeBytes(setup.kv.sizeBytes());

  DeviceClock clock(1.0);  // the stretch is computed, not waited for
  Collective collective(0, 1, clock);
  ForwardPass forward(setup.model, setup.shard, setup.options, *gemm_, weights, KvCache(setup.kv, kvData), scratch,
                      collective);
  const TokenBatch tokens = flatten(setup.batch.step, setup.model.vocabRows);
  const double layerSeconds = medianSeconds(repetitions, [&] { forward.run(tokens); });
  const double layerScale = static_cast<double>(setup.model.layers) / static_cast<double>(setup.layers);
  if (point.vocabRows == 0) return layerSeconds * layerScale / options_.speed;
  const double headSeconds = medianSeconds(repetitions, [&] { sampleAll(point, setup.shard, forward, scratch); });
  const double headScale = static_cast<double>(point.vocabRows) / static_cast<double>(setup.shard.vocabRows.size());
  return (layerSeconds * layerScale + headSeconds * headScale) / options_.speed;
}

double profileStep(const ModelSpec& model, const EngineOptions& options, const ProfilePoint& point, int repetitions) {
  return Profiler(model, options).measure(point, repetitions);
}

}  // namespace hels
