// Seconds of whole steps, exact beside fast numerics, for the shape of a 1.1B Llama:
// step_bench [threads] [f32|bf16|int8|int4]. Quantised weights have exact numerics only.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/profile.h"

namespace {

hels::ModelSpec llama1b(const std::string& weights) {
  hels::ModelSpec model;
  model.layers = 22;
  model.hiddenSize = model.embeddingSize = 2048;
  model.headGroups = 4;
  model.queryHeadsPerGroup = 8;
  model.headDim = 64;
  model.ffnColumns = 5632;
  model.ffnGranule = 352;
  model.vocabRows = 32000;
  model.maxPositions = 2048;
  model.slidingWindows.assign(22, 0);
  for (const auto quantization : {hels::Quantization::kInt8, hels::Quantization::kInt4}) {
    if (weights == hels::quantizationName(quantization)) model.quantization = quantization;
  }
  const bool quantized = model.quantization != hels::Quantization::kNone;
  model.weightType = quantized ? hels::DataType::kBf16 : hels::dataTypeFromName(weights);
  return model;
}

}  // namespace

int main(int argc, char** argv) {
  const hels::ModelSpec model = llama1b(argc > 2 ? argv[2] : "bf16");
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
