// The engine against an independent forward pass in f64, for every family, flag and weight type.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/engine.h"
#include "reference/rank_group.h"
#include "reference/reference_model.h"

namespace hels {
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
    variant("llama", tinyLlama, [](ModelSpec&) {}),
    variant("llamaTiedMha", tinyLlama, [](ModelSpec& s) { s.tiedEmbeddings = true, s.queryHeadsPerGroup = 1; }),
    variant("llamaBiases", tinyLlama, [](ModelSpec& s) { s.qkvBias = s.attentionOutputBias = s.mlpBias = true; }),
    variant("llamaMultiQuery", tinyLlama, [](ModelSpec& s) { s.headGroups = 1, s.queryHeadsPerGroup = 11; }),
    variant("ropeLinear", tinyLlama, [](ModelSpec& s) { s.ropeScaling = RopeScaling::kLinear, s.ropeFactor = 4.0; }),
    variant("ropeLlama3", tinyLlama,
            [](ModelSpec& s) {
              s.ropeScaling = RopeScaling::kLlama3;
              s.ropeFactor = 8.0;
              s.ropeLowFrequencyFactor = 1.0;
              s.ropeHighFrequencyFactor = 4.0;
              s.ropeOriginalMaxPositions = 32;
              s.ropeTheta = 500.0;
            }),
    variant("mistralWindow", tinyLlama,
            [](ModelSpec& s) {
              s.slidingWindows = {8, 8, 8};
            }),
    variant("windowOnOneLayer", tinyLlama,
            [](ModelSpec& s) {
              s.slidingWindows = {0, 20, 0};
            }),
    variant("qwen2", tinyLlama, [](ModelSpec& s) { s.qkvBias = s.tiedEmbeddings = true; }),
    variant("qwen3", tinyLlama, [](ModelSpec& s) { s.queryKeyNorm = true; }),
    variant("raggedGranule", tinyLlama, [](ModelSpec& s) { s.ffnColumns = 53; }),
    variant("optPre", tinyOpt, [](ModelSpec&) {}),
    variant("opt350mPost", tinyOpt,
            [](ModelSpec& s) { s.normBeforeBlock = s.finalNorm = false, s.embeddingSize = 20; }),
    variant("optNoBias", tinyOpt, [](ModelSpec& s) { s.qkvBias = s.attentionOutputBias = s.mlpBias = false; }),
};

class EngineReference : public testing::TestWithParam<std::tuple<size_t, DataType>> {
 protected:
  /// Largest difference of the logits over the largest logit.
  double relativeDifference(const std::vector<RankShare>& shares, Numerics numerics) {
    ModelSpec spec = kFamilies[std::get<0>(GetParam())].spec();
    spec.weightType = std::get<1>(GetParam());
    const TinyModel model = makeTinyModel(spec, 11);
    const std::vector<int32_t> tokens = randomTokens(90, spec.vocabRows, 5);
    EngineOptions options = tinyOptions();
    options.numerics = numerics;
    RankGroup group(model, shares, options);
    const std::vector<float> logits = prefillLogits(group, tokens, 90);
    const std::vector<std::vector<double>> expected = referenceLogits(model, tokens);
    const auto columns = static_cast<size_t>(spec.vocabRows);
    EXPECT_EQ(logits.size(), tokens.size() * columns);
    double largest = 0.0;
    double difference = 0.0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double reference = expected[i / columns][i % columns];
      largest = std::max(largest, std::abs(reference));
      difference = std::max(difference, std::abs(reference - static_cast<double>(logits[i])));
    }
    EXPECT_GT(largest, 0.5);
    return difference / largest;
  }
  int64_t headGroups() const { return kFamilies[std::get<0>(GetParam())].spec().headGroups; }
  double tolerance() const {
    const DataType type = std::get<1>(GetParam());
    return type == DataType::kF32 ? 5e-5 : type == DataType::kF16 ? 1e-3 : 1e-2;
  }
};

TEST_P(EngineReference, LogitsAgree) {
  EXPECT_LT(relativeDifference({{headGroups(), 0, 0}}, Numerics::kExact), tolerance());
}

TEST_P(EngineReference, FastNumericsAgreeToo) {
  const int64_t half = headGroups() / 2;
  EXPECT_LT(relativeDifference({{half, 1, 9}, {headGroups() - half, 0, 0}}, Numerics::kFast), tolerance());
}

INSTANTIATE_TEST_SUITE_P(Families, EngineReference,
                         testing::Combine(testing::Range(size_t{0}, std::size(kFamilies)),
                                          testing::Values(DataType::kF32, DataType::kBf16, DataType::kF16)),
                         [](const auto& info) {
                           return std::string(kFamilies[std::get<0>(info.param)].name) + "_" +
                                  dataTypeName(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace hels
