// Whole models on the device: small ones with random weights against the model in f64, and goldens from files; each in
// several splits and chunkings, which must give the same bits.
#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "base/error.h"
#include "check/model_files.h"
#include "check/sections.h"
#include "check/splits.h"
#include "reference/reference_model.h"

namespace hels::check {
namespace {

using reference::RankGroup;
using reference::TinyModel;

/// Largest difference, as a share of the largest logit of the reference.
struct Agreement {
  double largestLogit = 0;
  double largestDifference = 0;

  void add(double expected, double found) {
    const double difference = std::abs(expected - found);
    largestLogit = std::max(largestLogit, std::abs(expected));
    largestDifference = std::isfinite(difference) ? std::max(largestDifference, difference) : INFINITY;
  }
  double relative() const { return largestDifference / largestLogit; }
};

/// Inputs of products, queries and attention's weights are rounded to the weights' type, on a GPU.
double toleranceOf(DataType type) { return type == DataType::kF32 ? 2e-4 : type == DataType::kF16 ? 4e-3 : 3e-2; }

/// All splits, whole and in chunks, summed by way of the host and on the device: one hash for all of them.
void compareBits(const TinyModel& model, const std::vector<int32_t>& tokens, const std::vector<float>& expected,
                 const EngineOptions& options, bool quick, Item& item) {
  item.figure("logitsHash", hashOf(expected));
  const auto count = static_cast<int64_t>(tokens.size());
  const auto compare = [&](RankGroup& group, int64_t chunk, const std::string& what) {
    const std::vector<float> logits = reference::prefillLogits(group, tokens, chunk);
    item.expect(logits == expected, "other bits with " + what + " in chunks of " + std::to_string(chunk) + " (" +
                                        hashOf(logits) + " instead of " + hashOf(expected) + ")");
  };
  for (const Split& split : splitsOf(model.spec)) {
    if (quick && split.shares.size() == 2) continue;
    RankGroup group(model, split.shares, options);
    if (!quick) compare(group, count, split.name);
    compare(group, quick ? 11 : 13, split.name);
    if (!quick && split.shares.size() == 1) compare(group, 1, split.name);
    if (options.device == "cpu" || split.shares.size() == 1 || quick) continue;
    sumOnDevice(group);
    compare(group, 64, split.name + " that sum on the device");
  }
}

struct Family {
  const char* name;
  std::function<void(ModelSpec&)> change;
  bool opt = false;
};

std::vector<Family> families() {
  return {{"llama", [](ModelSpec&) {}},
          {"llama with biases and tied embeddings",
           [](ModelSpec& s) { s.tiedEmbeddings = s.qkvBias = s.attentionOutputBias = s.mlpBias = true; }},
          {"mistral with a window",
           [](ModelSpec& s) {
             s.slidingWindows = {8, 0};
           }},
          {"llama 3 rope",
           [](ModelSpec& s) {
             s.ropeScaling = RopeScaling::kLlama3;
             s.ropeFactor = 8.0;
             s.ropeLowFrequencyFactor = 1.0;
             s.ropeHighFrequencyFactor = 4.0;
             s.ropeOriginalMaxPositions = 32;
             s.ropeTheta = 500.0;
           }},
          {"qwen 3, ragged granules", [](ModelSpec& s) { s.queryKeyNorm = s.qkvBias = true, s.ffnColumns = 53; }},
          {"opt", [](ModelSpec&) {}, true},
          {"opt with norms behind", [](ModelSpec& s) { s.normBeforeBlock = s.finalNorm = false, s.embeddingSize = 24; },
           true}};
}

void checkFamily(const Family& family, DataType type, const Options& options, Item& item) {
  ModelSpec spec = family.opt ? reference::tinyOpt() : reference::tinyLlama();
  spec.headDim = 16;
  spec.layers = 2;
  spec.slidingWindows.assign(2, 0);
  family.change(spec);
  spec.weightType = type;
  const TinyModel model = reference::makeTinyModel(spec, 11);
  const std::vector<int32_t> tokens = reference::randomTokens(options.quick ? 17 : 37, spec.vocabRows, 5);
  const EngineOptions engine = smallOptions(options.device);
  RankGroup group(model, {{spec.headGroups, 0, 0}}, engine);
  const std::vector<float> logits = reference::prefillLogits(group, tokens, static_cast<int64_t>(tokens.size()));
  const std::vector<std::vector<double>> expected = reference::referenceLogits(model, tokens);
  const auto columns = static_cast<size_t>(spec.vocabRows);
  Agreement agreement;
  for (size_t i = 0; i < logits.size(); ++i) agreement.add(expected[i / columns][i % columns], logits[i]);
  item.figure("relativeDifference", agreement.relative());
  item.expect(agreement.relative() <= toleranceOf(type),
              "difference from f64 is " + std::to_string(agreement.relative()) + " of the largest logit; at most " +
                  std::to_string(toleranceOf(type)));
  compareBits(model, tokens, logits, engine, options.quick, item);
}

/// Tokens chosen greedily after the golden's prompt, fed back on the device.
std::vector<int32_t> greedyTokens(RankGroup& group, const Golden& golden) {
  std::vector<int32_t> blocks(64);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i);
  std::vector<int32_t> tokens;
  const auto prompt = static_cast<int64_t>(golden.greedyPrompt.size());
  for (size_t step = 0; step < golden.greedyTokens.size(); ++step) {
    StepBatch batch;
    if (step == 0) {
      batch.sequences.push_back(reference::sequenceStep(0, golden.greedyPrompt, 0, blocks));
    } else {
      batch.sequences.push_back(reference::sequenceStep(0, {}, prompt + static_cast<int64_t>(step) - 1, blocks));
      batch.sequences.back().takeSampled = true;
    }
    batch.sequences.back().sampling = SamplingParameters{};
    tokens.push_back(group.step(batch).sampled.at(0).tokenId);
  }
  return tokens;
}

/// Equal up to the first difference, which is excused where the reference's two best logits were closer than that.
bool matches(const std::vector<int32_t>& tokens, const Golden& golden, double tolerance) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] == golden.greedyTokens[i]) continue;
    return i < golden.greedyMargins.size() && golden.greedyMargins[i] <= tolerance;
  }
  return true;
}

void checkGolden(const GoldenModel& golden, const std::string& device, bool quick, Item& item) {
  const TinyModel model{golden.spec, {}, golden.source};
  const EngineOptions engine = smallOptions(device);
  RankGroup group(model, splitsOf(golden.spec)[0].shares, engine);
  const std::vector<int32_t>& tokens = golden.golden.inputIds;
  const std::vector<float> logits = reference::prefillLogits(group, tokens, static_cast<int64_t>(tokens.size()));
  const auto columns = static_cast<size_t>(golden.spec.vocabRows);
  Agreement agreement;
  for (size_t row = 0; row < golden.golden.logits.size(); ++row) {
    const size_t from = (static_cast<size_t>(golden.golden.logitsFromPosition) + row) * columns;
    for (size_t token = 0; token < columns; ++token)
      agreement.add(golden.golden.logits[row][token], logits[from + token]);
  }
  const double tolerance = toleranceOf(golden.spec.weightType) * agreement.largestLogit;
  item.figure("maxDifference", agreement.largestDifference);
  item.figure("maxLogit", agreement.largestLogit);
  item.figure("tolerance", tolerance);
  item.expect(
      agreement.largestDifference <= tolerance,
      "the logits differ by " + std::to_string(agreement.largestDifference) + "; at most " + std::to_string(tolerance));
  const bool greedy = matches(greedyTokens(group, golden.golden), golden.golden, tolerance);
  item.figure("greedyMatch", greedy);
  item.expect(greedy || golden.spec.weightType != DataType::kF32, "other greedy tokens");
  compareBits(model, tokens, logits, engine, quick, item);
}

}  // namespace

void checkModels(const Options& options, Report& report) {
  report.section("models against f64", [&] {
    const std::vector<DataType> types = options.quick
                                            ? std::vector<DataType>{DataType::kBf16}
                                            : std::vector<DataType>{DataType::kBf16, DataType::kF16, DataType::kF32};
    for (const Family& family : families()) {
      for (const DataType type : types) {
        report.item(std::string(family.name) + ", " + dataTypeName(type),
                    [&](Item& item) { checkFamily(family, type, options, item); });
      }
    }
  });
}

void checkGoldens(const Options& options, Report& report) {
  report.section("goldens", [&] {
    const auto folders = goldenFolders(options.models);
    if (folders.empty()) report.skip("goldens", "no folder given by --models holds a golden.json");
    for (const std::filesystem::path& folder : folders) {
      std::optional<GoldenModel> golden;
      report.item("files of " + folder.filename().string(), [&](Item&) { golden.emplace(readGoldenModel(folder)); });
      if (!golden) continue;
      for (const std::string& device : {std::string("cpu"), options.device}) {
        const std::string name = golden->name + " on " + device;
        // Heads that the kernels of a GPU do not take: a refusal by name, and no failure.
        const bool taken = device == "cpu" || golden->spec.headDim % 16 == 0;
        if (!taken) {
          report.skip(name, "headDim is " + std::to_string(golden->spec.headDim) + "; a GPU takes multiples of 16");
        } else {
          report.item(name, [&](Item& item) { checkGolden(*golden, device, options.quick, item); });
        }
        if (options.device == "cpu") break;
      }
    }
  });
}

}  // namespace hels::check
