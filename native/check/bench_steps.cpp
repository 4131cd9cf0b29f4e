// Whole steps of an engine with made-up weights: decode and prefill at several batches, against what the device can do.
#include <algorithm>
#include <memory>
#include <vector>

#include "base/error.h"
#include "check/sections.h"
#include "check/shapes.h"
#include "check/step_batches.h"
#include "engine/cuda/cuda_engine.h"

namespace hels::check {
namespace {

struct Bench {
  const ModelSpec& model;
  const DeviceLimits& limits;
  bool quick;
};

EngineOptions optionsOf(const Options& options, const ModelSpec& model, Numerics numerics,
                        const std::vector<int64_t>& batches, int64_t context) {
  EngineOptions engine;
  engine.device = options.device;
  engine.numerics = numerics;
  engine.kvBlockTokens = kBenchBlockTokens;
  engine.sequencesMax = batches.back();
  engine.stepTokensMax = options.quick ? 32 : 2048;
  for (const int64_t batch : batches) {
    const int64_t tokens = std::max(batch * (contextThatFits(model, batch, context) + kBenchBlockTokens),
                                    engine.stepTokensMax + batch * kBenchBlockTokens);
    engine.kvBlocks = std::max(engine.kvBlocks, tokens / kBenchBlockTokens + 1);
  }
  return engine;
}

void describe(double seconds, double tokens, double least, Item& item) {
  item.figure("seconds", seconds);
  item.figure("tokensPerSecond", tokens / seconds);
  if (least > 0) item.figure("shareOfLimit", least / seconds);
}

void measureDecode(const Bench& bench, Engine& engine, int64_t batch, int64_t context, Item& item) {
  const std::vector<double> steps =
      timeDecode({&engine}, batch, context, bench.quick ? 3 : 24, bench.quick ? 1e-3 : 1.0);
  const double bytes =
      weightBytesRead(bench.model) + static_cast<double>(batch * context) * kvBytesPerToken(bench.model);
  const double flop = static_cast<double>(batch) *
                      (flopPerToken(bench.model) + headFlop(bench.model) + attentionFlop(bench.model, context));
  item.figure("batch", batch);
  item.figure("context", context);
  item.figure("steps", static_cast<int64_t>(steps.size()));
  item.figure("slowestSeconds", *std::max_element(steps.begin(), steps.end()));
  item.figure("bytesPerSecond", bytes / median(steps));
  describe(median(steps), static_cast<double>(batch), bench.limits.leastSeconds(bytes, flop), item);
}

void measurePrefill(const Bench& bench, Engine& engine, int64_t batch, int64_t promptTokens, int64_t stepTokens,
                    Item& item) {
  const double seconds = timePrefill({&engine}, batch, promptTokens, stepTokens, bench.quick ? 1 : 3);
  const auto tokens = static_cast<double>(batch * promptTokens);
  const double flop = tokens * (flopPerToken(bench.model) + attentionFlop(bench.model, (promptTokens + 1) / 2)) +
                      static_cast<double>(batch) * headFlop(bench.model);
  item.figure("batch", batch);
  item.figure("promptTokens", promptTokens);
  item.figure("flopPerSecond", flop / seconds);
  describe(seconds, tokens, bench.limits.leastSeconds(weightBytesRead(bench.model), flop), item);
}

void benchShape(const Options& options, const Bench& bench, Numerics numerics, Report& report) {
  const std::vector<int64_t> batches =
      options.quick ? std::vector<int64_t>{1, 3} : std::vector<int64_t>{1, 16, 64, 256};
  const int64_t context = options.quick ? 40 : 1024;
  const int64_t prompt = options.quick ? 20 : 2048;
  const EngineOptions engineOptions = optionsOf(options, bench.model, numerics, batches, context);
  const ShardSpec whole{0, 1, {0, bench.model.headGroups}, {0, bench.model.ffnColumns}, {0, bench.model.vocabRows}};
  std::unique_ptr<cuda::CudaEngine> engine;
  const bool loaded = report.item("weights", [&](Item& item) {
    engine = cuda::loadRandomCudaEngine(bench.model, whole, engineOptions, 51);
    const EngineReport facts = engine->report();
    item.figure("weightBytes", facts.weightBytesResident);
    item.figure("kvBytes", facts.kvBytes);
    item.figure("scratchBytes", facts.scratchBytes);
    item.figure("implementation", facts.gemmImplementation);
  });
  if (!loaded) return;
  for (const int64_t batch : batches) {
    const int64_t tokens = contextThatFits(bench.model, batch, context);
    report.item("decode " + std::to_string(batch) + " x " + std::to_string(tokens),
                [&](Item& item) { measureDecode(bench, *engine, batch, tokens, item); });
  }
  for (const int64_t batch : batches) {
    const int64_t tokens = std::max<int64_t>(1, prompt / promptShare(batch));
    report.item("prefill " + std::to_string(batch) + " x " + std::to_string(tokens),
                [&](Item& item) { measurePrefill(bench, *engine, batch, tokens, engineOptions.stepTokensMax, item); });
  }
}

}  // namespace

void benchSteps(const Options& options, const DeviceLimits& limits, Report& report) {
  const std::vector<std::string> shapes = options.quick ? std::vector<std::string>{"tiny"} : options.shapes;
  for (const std::string& name : shapes) {
    const ModelSpec model = shapeNamed(name);
    for (const Numerics numerics : {Numerics::kExact, Numerics::kFast}) {
      const bool exact = numerics == Numerics::kExact;
      report.section("steps of " + name + (exact ? ", exact" : ", fast"), [&] {
        if (!exact && limits.matrixFlopPerSecond == 0) {
          report.skip("weights", "numerics fast needs cuBLASLt, which is not here");
          return;
        }
        benchShape(options, {model, limits, options.quick}, numerics, report);
      });
    }
  }
}

}  // namespace hels::check
