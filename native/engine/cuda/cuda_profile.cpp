#include "engine/cuda/cuda_profile.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>
#include <vector>

#include "base/cuda/check.h"
#include "base/cuda/device_list.h"
#include "base/cuda/event.h"
#include "base/error.h"
#include "engine/cuda/cuda_forward.h"
#include "engine/cuda/cuda_memory.h"
#include "engine/cuda/cuda_sampler.h"
#include "engine/cuda/cuda_weights.h"
#include "engine/cuda/graph_cache.h"
#include "engine/device_name.h"
#include "engine/profile_point.h"
#include "kernels/cuda/elementwise.h"

namespace hels::cuda {
namespace {

/// Made-up weights and KV, each: well beyond the caches of the largest devices, and several layers of a large model.
constexpr size_t kMadeUpBytesMax = size_t{2} << 30;
/// Runs before the first that counts: clocks rise, code is loaded, steps are recorded.
constexpr int kWarmUps = 3;

/// Seconds of a step's parts.
struct StepTimes {
  double layers = 0;
  double head = 0;
  double around = 0;  // the host's share: tables to the device, results back
};

bool ownsAll(const ModelSpec& model, const ProfilePoint& point) {
  return point.headGroups == model.headGroups && point.ffnColumns == model.ffnColumns &&
         point.vocabRows == model.vocabRows;
}

}  // namespace

/// A rank without peers, of some layers.
struct CudaProfiler::Device {
  Device(const PointSetup& setup, bool noHead, bool replay, CudaProducts& products, cudaStream_t stream)
      : setup(setup),
        replay(replay),
        stream(stream),
        weights(setup.model, setup.shard, setup.layers),
        kvBuffer(setup.kv.sizeBytes(), "KV"),
        scratchBuffer(measureCudaMemory(setup.model, setup.shard, setup.options, setup.layers).scratchBytes, "scratch"),
        scratch(layout(setup, scratchBuffer)),
        collective(0, 1),
        metadata(largestStep(setup.model, setup.options), setup.kv.blocks, scratch.metadata),
        forward(setup.model, setup.shard, weights.views(), CudaKv{setup.kv, kvBuffer.data()}, scratch, products,
                collective, nullptr),
        sampler(setup.shard, setup.options, setup.layers, scratch, collective),
        tokens(flattenPoint(setup.batch.step, setup.model.vocabRows)) {
    weights.fillRandom(1, stream);
    const auto kvElements = static_cast<int64_t>(setup.kv.sizeBytes() / bytesOf(setup.kv.type));
    fillRandom(setup.kv.type, kvBuffer.data(), kvElements, 1.0F, 2, stream);
    // Decode samples every sequence, a prefill chunk at most its last token.
    for (size_t i = 0; i < tokens.sequences.size() && !noHead; ++i) {
      const BatchSequence& sequence = tokens.sequences[i];
      if (i > 0 && sequence.tokens > 1) continue;  // the chunk of a mixed point
      rows.push_back({sequence.firstToken + sequence.tokens - 1, static_cast<int32_t>(i), true});
    }
    batch = setup.batch.step;
    for (SequenceStep& sequence : batch.sequences) sequence.sampling = SamplingParameters{};
  }

  static CudaScratch layout(const PointSetup& setup, const DeviceBuffer& buffer) {
    clear(buffer, "scratch");
    Arena arena(buffer.data(), buffer.sizeBytes());
    return layoutCudaScratch(setup.model, setup.shard, setup.options,
                             cudaScratchSizes(setup.model, setup.shard, setup.options, setup.layers), arena);
  }

  void runLayers() {
    check(cudaMemsetAsync(scratch.badRows, 0x7F, static_cast<size_t>(2 * setup.layers) * sizeof(int32_t), stream),
          "clearing of bad rows");
    forward.run(metadata, stream);
  }
  void runHead() {
    if (rows.empty()) return;
    forward.logits(metadata, 0, static_cast<int64_t>(rows.size()), stream);
    sampler.enqueue(metadata, false, stream);
  }

  StepTimes run() {
    const auto begin = std::chrono::steady_clock::now();
    metadata.write(batch, tokens, rows, shapeOf(tokens, rows, setup.options.kvBlockTokens));
    metadata.upload(stream);
    start.record(stream);
    const GraphKey key{metadata.shape().sequences, metadata.shape().contextMax, false};
    if (replay) {
      layerGraphs.run(key, stream, [this] { runLayers(); });
      middle.record(stream);
      headGraphs.run(key, stream, [this] { runHead(); });
    } else {
      runLayers();
      middle.record(stream);
      runHead();
    }
    end.record(stream);
    sampler.download(static_cast<int64_t>(rows.size()), stream);
    collective.beginStep(std::chrono::minutes(1));
    collective.synchronize(stream);
    const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;
    StepTimes times{middle.secondsSince(start), end.secondsSince(middle), 0};
    times.around = std::max(0.0, whole.count() - times.layers - times.head);
    return times;
  }

  const PointSetup& setup;
  const bool replay;
  cudaStream_t stream;
  CudaWeights weights;
  DeviceBuffer kvBuffer, scratchBuffer;
  CudaScratch scratch;
  CudaCollective collective;
  StepMetadata metadata;
  CudaForward forward;
  CudaSampler sampler;
  TokenBatch tokens;
  StepBatch batch;
  std::vector<LogitRow> rows;
  GraphCache layerGraphs, headGraphs;
  Event start, middle, end;
};

CudaProfiler::CudaProfiler(const ModelSpec& model, const EngineOptions& options)
    : model_(model),
      options_(options),
      device_([&] {
        const int device = cudaDeviceOf(options.device).value_or(0);
        EngineOptions checked = options;
        checked.kvBlocks = 1;
        validateCudaOptions(model, checked);
        useDevice(device);
        return device;
      }()),
      products_(options.numerics) {}

CudaProfiler::~CudaProfiler() { (void)cudaSetDevice(device_); }

double CudaProfiler::measure(const ProfilePoint& point, int repetitions, double secondsMax) {
  check(cudaSetDevice(device_), options_.device);
  if (point.headGroups > 0) requireAttentionFits(model_.weightType, model_.headDim);
  const PointSetup setup = makePointSetup(
      model_, options_, point, kMadeUpBytesMax,
      [](const ModelSpec& model, const ShardSpec& shard) { return CudaWeights::measure(model, shard, 1); });
  CudaMemory memory = measureCudaMemory(setup.model, setup.shard, setup.options, setup.layers);
  memory.kvBytes = setup.kv.sizeBytes();
  EngineOptions unlimited = setup.options;
  unlimited.memoryBytes = 0;  // it bounds weights and KV already
  requireCudaMemory(memory, {}, setup.shard, unlimited);

  // A device that owns all of the model has no peers, and its decode steps are replayed.
  const bool replay = !point.prefill && point.chunkTokens == 0 && ownsAll(model_, point);
  Device device(setup, point.vocabRows == 0, replay, products_, stream_.get());
  const auto begin = std::chrono::steady_clock::now();
  const auto spent = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  for (int i = 0; i < kWarmUps && (i == 0 || spent() < secondsMax); ++i) device.run();
  std::vector<double> layers;
  std::vector<double> head;
  std::vector<double> around;
  for (int i = 0; i < repetitions && (i == 0 || spent() < secondsMax); ++i) {
    const StepTimes times = device.run();
    layers.push_back(times.layers);
    head.push_back(times.head);
    around.push_back(times.around);
  }
  const double layerScale = static_cast<double>(model_.layers) / static_cast<double>(setup.layers);
  const double headScale =
      point.vocabRows == 0 ? 0.0
                           : static_cast<double>(point.vocabRows) / static_cast<double>(setup.shard.vocabRows.size());
  return lowerQuartile(layers) * layerScale + lowerQuartile(head) * headScale + lowerQuartile(around);
}

}  // namespace hels::cuda
