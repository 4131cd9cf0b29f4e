// Seconds of whole steps, exact beside fast numerics, for the shapes of Llamas of 1.1B and 110M parameters:
// step_bench [threads] [f32|bf16|int8|int4] [1.1b|110m]. Quantised weights have exact numerics only.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/profile.h"

namespace {

hels::ModelSpec shapeOf(const std::string& name) {
  hels::ModelSpec model;
  const bool large = name == "1.1b";
  model.layers = large ? 22 : 12;
  model.hiddenSize = model.embeddingSize = large ? 2048 : 768;
  model.headGroups = large ? 4 : 12;
  model.queryHeadsPerGroup = large ? 8 : 1;
  model.headDim = 64;
  model.ffnColumns = large ? 5632 : 2048;
  model.ffnGranule = model.ffnColumns / 16;
  model.vocabRows = 32000;
  model.maxPositions = 2048;
  model.slidingWindows.assign(static_cast<size_t>(model.layers), 0);
  return model;
}

hels::ModelSpec modelOf(const std::string& name, const std::string& weights) {
  hels::ModelSpec model = shapeOf(name);
  for (const auto quantization : {hels::Quantization::kInt8, hels::Quantization::kInt4}) {
    if (weights == hels::quantizationName(quantization)) model.quantization = quantization;
  }
  const bool quantized = model.quantization != hels::Quantization::kNone;
  model.weightType = quantized ? hels::DataType::kBf16 : hels::dataTypeFromName(weights);
  return model;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string shape = argc > 3 ? argv[3] : "1.1b";
  if (shape != "1.1b" && shape != "110m") {
    std::fprintf(stderr, "the shape is '%s'; it must be 1.1b or 110m\n", shape.c_str());
    return 2;
  }
  const hels::ModelSpec model = modelOf(shape, argc > 2 ? argv[2] : "bf16");
  hels::EngineOptions options;
  options.threads = argc > 1 ? std::atoi(argv[1]) : 1;
  for (const auto numerics : {hels::Numerics::kExact, hels::Numerics::kFast}) {
    if (numerics == hels::Numerics::kFast && model.quantization != hels::Quantization::kNone) break;
    options.numerics = numerics;
    hels::Profiler profiler(model, options);
    for (const auto& [prefill, tokens] :
         {std::pair<bool, int64_t>{false, 1}, {false, 8}, {false, 32}, {true, 32}, {true, 256}}) {
      const int64_t context = prefill ? tokens * tokens : tokens * 512;
      const auto start = std::chrono::steady_clock::now();
      const double seconds = profiler.measure(
          {prefill, tokens, context, model.headGroups, model.ffnColumns, prefill ? 0 : model.vocabRows}, 3);
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      std::printf("%-5s %-7s %4ld tokens  %8.1f ms  %7.1f tokens/s  (measured in %.1f s)\n",
                  numerics == hels::Numerics::kExact ? "exact" : "fast", prefill ? "prefill" : "decode",
                  static_cast<long>(tokens), seconds * 1e3, static_cast<double>(tokens) / seconds, taken.count());
    }
  }
  return 0;
}
