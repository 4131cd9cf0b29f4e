#include "engine/profile.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <thread>

#include "base/error.h"
#include "engine/cpu_engine.h"
#include "engine/device_name.h"
#include "engine/profile_point.h"
#ifdef HELS_HAS_CUDA
#include "engine/cuda/cuda_profile.h"
#include "engine/cuda/host_link.h"
#endif

namespace hels {
namespace {

/// Made-up weights and KV, each: well beyond a last-level cache, so that a large model is measured from memory as it
/// will run.
constexpr size_t kMadeUpBytesMax = size_t{256} << 20;

/// So much went through a last-level cache of usual size, and what was there before is not any more.
constexpr size_t kBeyondCachesBytes = size_t{64} << 20;

/// 0.002 in each type: no partial sum leaves the fixed point's range, nothing is denormal.
uint32_t weightPattern(DataType type) {
  if (type == DataType::kF32) return 0x3b03126f;
  return type == DataType::kBf16 ? 0x3b033b03 : 0x18181818;
}
/// Integers of 8 or 4 bits and their scales: weights of 0 to 0.008.
constexpr uint32_t kQuantizedPattern = 0x10101010;

/// Of one thread its processor time: what other processes take from a shared core is not the device's. Several threads
/// wait for each other, so only the clock on the wall tells their time.
double clockSeconds(int threads) {
  timespec now = {};
  ::clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// A rank sleeps between two steps while its daemon works. Run after run without a pause finds warm caches that no step
/// finds: a step of one token took 0.15 ms like that, 0.29 ms in service, and 0.25 ms after a pause.
constexpr std::chrono::milliseconds kPause{1};

/// Seconds of a step's parts.
struct StepSeconds {
  double layers = 0;
  double head = 0;
};

/// The lower quartile of `repetitions` runs, or of as many as `secondsMax` allows: what else the host does only adds
/// time. `before` is not timed.
StepSeconds quickStep(int threads, int repetitions, double secondsMax, const std::function<void()>& before,
                      const std::function<void()>& layers, const std::function<void()>& head) {
  const auto run = [&] {
    before();
    std::this_thread::sleep_for(kPause);
    const double start = clockSeconds(threads);
    layers();
    const double middle = clockSeconds(threads);
    head();
    return StepSeconds{middle - start, clockSeconds(threads) - middle};
  };
  // Page faults and cold caches are not the device's speed, unless the run is so long that they do not matter.
  const double start = clockSeconds(0);
  const StepSeconds first = run();
  const auto spent = [&] { return clockSeconds(0) - start; };
  if (first.layers + first.head > secondsMax) return first;
  std::vector<double> layerSeconds;
  std::vector<double> headSeconds;
  for (int i = 0; i < repetitions && (i == 0 || spent() < secondsMax); ++i) {
    const StepSeconds seconds = run();
    layerSeconds.push_back(seconds.layers);
    headSeconds.push_back(seconds.head);
  }
  return {lowerQuartile(std::move(layerSeconds)), lowerQuartile(std::move(headSeconds))};
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

/// Of a quantised model all made-up weights are kQuantizedPattern: tables, which are not quantised, need values of
/// their own.
void setTables(const ModelSpec& model, const ModelWeights& weights) {
  const auto set = [&](std::byte* table, int64_t elements) {
    std::fill_n(reinterpret_cast<uint32_t*>(table), elements / 2, weightPattern(DataType::kBf16));
  };
  if (weights.embedding != nullptr) set(weights.embedding, model.vocabRows * model.embeddingSize);
  if (weights.positions == nullptr) return;
  set(weights.positions, (model.learnedPositionOffset + model.maxPositions) * model.hiddenSize);
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

Profiler::Profiler(const ModelSpec& model, const EngineOptions& options) : model_(model), options_(options) {
  validateModelSpec(model);
  EngineOptions checked = options;
  checked.kvBlocks = 1;
  validateEngineOptions(model, checked);
  if (!cudaDeviceOf(options.device)) {
    gemm_ = makeGemm(options);
    // What a step reads: of the embedding a few rows.
    const ShardSpec everything{0, 1, {0, model.headGroups}, {0, model.ffnColumns}, {0, model.vocabRows}};
    ModelSpec read = model;
    read.vocabRows = 1;
    Arena count;
    layoutWeights(read, everything, read.layers, *gemm_, count);
    modelBytes_ = count.usedBytes();
    return;
  }
#ifdef HELS_HAS_CUDA
  device_ = std::make_unique<cuda::CudaProfiler>(model, options);
#else
  throw Error(ErrorCode::kDeviceMissing, "device is " + options.device + ": this build has no CUDA backend");
#endif
}

Profiler::~Profiler() = default;

Arena& Profiler::arena(std::unique_ptr<Arena>& arena, size_t& capacity, size_t sizeBytes, bool weights) {
  if (!arena || capacity < sizeBytes) {
    arena.reset();
    arena = std::make_unique<Arena>(sizeBytes, "profiling");
    capacity = sizeBytes;
    // All of it is written here: the pages must be there before a run is timed.
    std::fill_n(reinterpret_cast<uint32_t*>(arena->takeBytes(sizeBytes)), sizeBytes / 4,
                weights ? weightPattern(model_.weightType) : 0);
  }
  arena->rewind();
  if (weights && model_.quantization != Quantization::kNone) {
    // Each time: what were norms may be scales now, and one large scale is enough to leave the fixed point's range.
    std::fill_n(reinterpret_cast<uint32_t*>(arena->takeBytes(sizeBytes)), sizeBytes / 4, kQuantizedPattern);
    arena->rewind();
  }
  return *arena;
}

/// Between two steps of a rank, others read the rest of the model: those at the same machine through the same
/// last-level cache. A share that fits there would be found in it by itself, step after step, but not in service.
void Profiler::readOthers(size_t ownBytes) {
  if (ownBytes >= std::min(kBeyondCachesBytes, modelBytes_)) return;
  const size_t allowed = options_.memoryBytes == 0 ? kBeyondCachesBytes : options_.memoryBytes / 4;
  others_.resize(std::min({modelBytes_ - ownBytes, kBeyondCachesBytes, allowed}), 1);
  constexpr size_t kCacheLine = 64;
  uint64_t sum = 0;
  for (size_t at = 0; at < others_.size(); at += kCacheLine) sum += others_[at];
  volatile uint64_t sink = sum;  // what is not used would not be read
  static_cast<void>(sink);
}

double Profiler::measure(const ProfilePoint& point, int repetitions, double secondsMax) {
  validatePoint(model_, point);
  require(repetitions >= 1, ErrorCode::kShapeInvalid,
          "repetitions is " + std::to_string(repetitions) + "; allowed is 1 and above");
  if (device_ != nullptr) return device_->measure(point, repetitions, secondsMax);

  const PointSetup setup =
      makePointSetup(model_, options_, point, kMadeUpBytesMax, [this](const ModelSpec& model, const ShardSpec& shard) {
        Arena oneLayer;
        layoutWeights(model, shard, 1, *gemm_, oneLayer);
        return oneLayer.usedBytes();
      });
  Arena weightCount;
  layoutWeights(setup.model, setup.shard, setup.layers, *gemm_, weightCount);
  Arena scratchCount;
  layoutScratch(setup.model, setup.shard, setup.options, scratchCount);
  const ModelWeights weights = layoutWeights(setup.model, setup.shard, setup.layers, *gemm_,
                                             arena(weightArena_, weightCapacity_, weightCount.usedBytes(), true));
  setNorms(setup.model, weights);
  if (setup.model.quantization != Quantization::kNone) setTables(setup.model, weights);
  const Scratch scratch = layoutScratch(setup.model, setup.shard, setup.options,
                                        arena(scratchArena_, scratchCapacity_, scratchCount.usedBytes(), false));
  std::byte* kvData = arena(kvArena_, kvCapacity_, setup.kv.sizeBytes(), false).takeBytes(setup.kv.sizeBytes());

  DeviceClock clock(1.0);  // the stretch is computed, not waited for
  Collective collective(0, 1, clock);
  ForwardPass forward(setup.model, setup.shard, setup.options, *gemm_, weights, KvCache(setup.kv, kvData), scratch,
                      collective);
  const TokenBatch tokens = flattenPoint(setup.batch.step, setup.model.vocabRows);
  const bool hasHead = point.vocabRows > 0;
  // The output matrix comes after the layers, which is not where a warm cache would find it.
  const StepSeconds seconds = quickStep(
      options_.threads, repetitions, secondsMax, [&] { readOthers(weightCount.usedBytes()); },
      [&] { forward.run(tokens); },
      [&] {
        if (hasHead) sampleAll(point, setup.shard, forward, scratch);
      });
  const double layerScale = static_cast<double>(setup.model.layers) / static_cast<double>(setup.layers);
  if (!hasHead) return seconds.layers * layerScale / options_.speed;
  const double headScale = static_cast<double>(point.vocabRows) / static_cast<double>(setup.shard.vocabRows.size());
  return (seconds.layers * layerScale + seconds.head * headScale) / options_.speed;
}

double profileStep(const ModelSpec& model, const EngineOptions& options, const ProfilePoint& point, int repetitions,
                   double secondsMax) {
  return Profiler(model, options).measure(point, repetitions, secondsMax);
}

double copyBandwidth(const std::string& device) {
  if (const std::optional<int> gpu = cudaDeviceOf(device)) {
#ifdef HELS_HAS_CUDA
    return cuda::measureHostLink(*gpu).slower();
#else
    throw Error(ErrorCode::kDeviceMissing, "device is " + device + ": this build has no CUDA backend");
#endif
  }
  constexpr size_t kBytes = kBeyondCachesBytes;
  const std::vector<char> source(kBytes, 1);
  std::vector<char> target(kBytes);
  volatile char sink = 0;
  const StepSeconds seconds = quickStep(
      1, 5, 0.5, [] {},
      [&] {
        std::copy(source.begin(), source.end(), target.begin());
        sink = target[kBytes / 2];
      },
      [] {});
  return static_cast<double>(kBytes) / seconds.layers;
}

}  // namespace hels
