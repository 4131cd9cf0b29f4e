// One GPU as several unequal ones: ranks on parts of its multiprocessors give the bits of one rank, and the split by
// what the parts can do is faster than equal halves.
#include <algorithm>
#include <memory>
#include <optional>

#include "base/cuda/device_partition.h"
#include "base/error.h"
#include "check/sections.h"
#include "check/shapes.h"
#include "check/splits.h"
#include "check/step_batches.h"
#include "comm/cuda/local_device_communicator.h"
#include "engine/cuda/cuda_engine.h"

namespace hels::check {
namespace {

/// Logits of all positions, whole rows, of a group that is fed in chunks of 16 tokens.
std::vector<float> splitLogits(const std::vector<Engine*>& ranks, const std::vector<ShardSpec>& shards,
                               int64_t vocabRows, const std::vector<int32_t>& tokens) {
  constexpr size_t kChunk = 16;
  std::vector<int32_t> blocks(64);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i);
  std::vector<float> logits(tokens.size() * static_cast<size_t>(vocabRows));
  for (size_t begin = 0; begin < tokens.size(); begin += kChunk) {
    const size_t end = std::min(tokens.size(), begin + kChunk);
    const std::vector<int32_t> part(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                    tokens.begin() + static_cast<std::ptrdiff_t>(end));
    StepBatch batch;
    batch.sequences.push_back(reference::sequenceStep(0, part, static_cast<int64_t>(begin), blocks));
    batch.sequences.back().returnLogits = true;
    const std::vector<StepResult> results = stepAll(ranks, batch);
    for (size_t rank = 0; rank < results.size(); ++rank) {
      const auto columns = static_cast<size_t>(shards[rank].vocabRows.size());
      for (size_t row = 0; row < part.size(); ++row) {
        std::copy_n(results[rank].logits.begin() + static_cast<std::ptrdiff_t>(row * columns), columns,
                    logits.begin() + static_cast<std::ptrdiff_t>((begin + row) * static_cast<size_t>(vocabRows)) +
                        shards[rank].vocabRows.begin);
      }
    }
  }
  return logits;
}

/// Multiprocessors in parts as 3 : 1 (or 2 : 1 : 1), whole units.
std::vector<int> partsOf(const Options& options, int ranks) {
  const auto pool = cuda::PartitionPool::of(options.deviceIndex);
  cudaDeviceProp properties;
  cuda::check(cudaGetDeviceProperties(&properties, options.deviceIndex), "device properties");
  const int quarter = properties.multiProcessorCount / 4 / pool->unit() * pool->unit();
  require(quarter > 0, ErrorCode::kShapeInvalid,
          "the device has " + std::to_string(properties.multiProcessorCount) + " multiprocessors in units of " +
              std::to_string(pool->unit()) + "; no quarter of them can be given away");
  return ranks == 2 ? std::vector<int>{3 * quarter, quarter} : std::vector<int>{2 * quarter, quarter, quarter};
}

void checkBits(const Options& options, int ranks, Item& item) {
  ModelSpec spec = reference::tinyLlama();
  spec.headDim = 16;
  spec.weightType = DataType::kBf16;
  const reference::TinyModel model = reference::makeTinyModel(spec, 61);
  const std::vector<int32_t> tokens = reference::randomTokens(40, spec.vocabRows, 9);
  const std::vector<Split> splits = splitsOf(spec);
  reference::RankGroup whole(model, splits[0].shares, smallOptions(options.device));
  const std::vector<float> expected = reference::prefillLogits(whole, tokens, 40);
  item.figure("logitsHash", hashOf(expected));

  const std::vector<int> parts = partsOf(options, ranks);
  const std::vector<ShardSpec> shards = reference::shardsOf(spec, splits[static_cast<size_t>(ranks - 1)].shares);
  const auto group = cuda::LocalDeviceGroup::create(ranks);
  std::vector<std::unique_ptr<Engine>> engines;
  for (size_t rank = 0; rank < shards.size(); ++rank) {
    EngineOptions engine = smallOptions(options.device);
    engine.multiprocessors = parts[rank];
    engines.push_back(Engine::load(spec, shards[rank], model.source, engine));
    engines.back()->connectDevice(group->communicator(static_cast<int>(rank)));
  }
  std::vector<Engine*> pointers;
  for (const auto& engine : engines) pointers.push_back(engine.get());
  const std::vector<float> logits = splitLogits(pointers, shards, spec.vocabRows, tokens);
  item.expect(logits == expected, "other bits on partitions: " + hashOf(logits) + " instead of " + hashOf(expected));
}

struct Speed {
  double decodeSeconds = 0;
  double prefillSeconds = 0;
};

/// Two ranks of `model` on parts of the device; rank 0 has `share` of heads, FFN granules and vocabulary rows.
Speed measureSplit(const Options& options, const ModelSpec& model, const std::vector<int>& parts, double share,
                   Item& item, const std::string& name) {
  const int64_t granules = model.ffnColumns / model.ffnGranule;
  const auto part = [&](int64_t whole) { return static_cast<int64_t>(static_cast<double>(whole) * share + 0.5); };
  const int64_t heads = part(model.headGroups);
  const std::vector<ShardSpec> shards =
      reference::shardsOf(model, {{heads, part(granules), part(model.vocabRows)}, {model.headGroups - heads, 0, 0}});
  const int64_t prompt = options.quick ? 20 : 2048;
  const int64_t batch = options.quick ? 2 : 16;
  const int64_t context = options.quick ? 40 : 1024;
  const auto group = cuda::LocalDeviceGroup::create(2);
  std::vector<std::unique_ptr<Engine>> engines;
  std::vector<Engine*> pointers;
  for (size_t rank = 0; rank < 2; ++rank) {
    EngineOptions engine;
    engine.device = options.device;
    engine.multiprocessors = parts[rank];
    engine.kvBlockTokens = kBenchBlockTokens;
    engine.kvBlocks = batch * (context / kBenchBlockTokens + 1) + prompt / kBenchBlockTokens + 1;
    engine.sequencesMax = batch;
    engine.stepTokensMax = prompt;
    engines.push_back(cuda::loadRandomCudaEngine(model, shards[rank], engine, 71 + rank));
    engines.back()->connectDevice(group->communicator(static_cast<int>(rank)));
    pointers.push_back(engines.back().get());
  }
  Speed speed;
  speed.prefillSeconds = timePrefill(pointers, 1, prompt, prompt, options.quick ? 1 : 5);
  speed.decodeSeconds = median(timeDecode(pointers, batch, context, options.quick ? 2 : 16, 1.0));
  item.figure(name + "Heads", heads);
  item.figure(name + "PrefillSeconds", speed.prefillSeconds);
  item.figure(name + "DecodeSeconds", speed.decodeSeconds);
  return speed;
}

void compareSplits(const Options& options, const ModelSpec& model, Item& item) {
  const std::vector<int> parts = partsOf(options, 2);
  item.figure("multiprocessors", Json(Json::Array{Json(parts[0]), Json(parts[1])}));
  const double share = static_cast<double>(parts[0]) / (parts[0] + parts[1]);
  const Speed equal = measureSplit(options, model, parts, 0.5, item, "equal");
  const Speed hels = measureSplit(options, model, parts, share, item, "hels");
  item.figure("prefillGain", equal.prefillSeconds / hels.prefillSeconds);
  item.figure("decodeGain", equal.decodeSeconds / hels.decodeSeconds);
}

}  // namespace

void checkPartitions(const Options& options, const DeviceLimits& limits, Report& report) {
  report.section("partitions", [&] {
    std::string reason;
    try {
      (void)partsOf(options, 2);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kDeviceMissing && error.code() != ErrorCode::kShapeInvalid) throw;
      reason = error.what();
    }
    if (!reason.empty()) return report.skip("partitions", reason);
    for (const int ranks : {2, 3}) {
      report.item("bits of " + std::to_string(ranks) + " ranks", [&](Item& item) { checkBits(options, ranks, item); });
    }
    for (const int multiprocessors : partsOf(options, 2)) {
      report.item("bandwidth of " + std::to_string(multiprocessors) + " multiprocessors", [&](Item& item) {
        const auto part = cuda::PartitionPool::of(options.deviceIndex)->take(multiprocessors);
        const double rate = measureReadOn(part->addStream(), options.quick, item);
        if (limits.bytesPerSecond() > 0) item.figure("shareOfLimit", rate / limits.bytesPerSecond());
      });
    }
    for (const std::string& name : options.quick ? std::vector<std::string>{"tiny"} : options.shapes) {
      report.item("hels against equal, " + name, [&](Item& item) { compareSplits(options, shapeNamed(name), item); });
    }
  });
}

}  // namespace hels::check
