// Engines of quantised models: one set of bits for every split, chunk and number of threads, less memory, no fast
// numerics.
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/engine.h"
#include "reference/rank_group.h"

namespace hels {
namespace {

using namespace reference;

ModelSpec specOf(const std::string& family, Quantization quantization) {
  ModelSpec spec = family == "opt" ? tinyOpt() : tinyLlama();
  spec.weightType = DataType::kBf16;
  spec.quantization = quantization;
  return spec;
}

class QuantizedEngine : public testing::TestWithParam<std::tuple<std::string, Quantization>> {
 protected:
  void SetUp() override {
    model_ = makeTinyModel(specOf(std::get<0>(GetParam()), std::get<1>(GetParam())), 21);
    tokens_ = randomTokens(70, model_.spec.vocabRows, 9);
  }

  std::vector<float> logits(const std::vector<RankShare>& shares, int64_t chunk, int threads = 1) {
    EngineOptions options = tinyOptions();
    options.threads = threads;
    RankGroup group(model_, shares, options);
    return prefillLogits(group, tokens_, chunk);
  }

  TinyModel model_;
  std::vector<int32_t> tokens_;
};

TEST_P(QuantizedEngine, SplitsChunksAndThreadsKeepTheBits) {
  const std::vector<float> expected = logits({{4, 0, 0}}, 70);
  EXPECT_EQ(logits({{4, 0, 0}}, 1), expected);
  EXPECT_EQ(logits({{4, 0, 0}}, 9, 2), expected);
  EXPECT_EQ(logits({{1, 2, 30}, {3, 0, 0}}, 16), expected);
  EXPECT_EQ(logits({{0, 1, 1}, {4, 0, 0}}, 70), expected);
  EXPECT_EQ(logits({{2, 0, 7}, {0, 1, 0}, {2, 0, 0}}, 3), expected);
}

TEST_P(QuantizedEngine, DiffersFromBf16ByLittleAndTakesLessMemory) {
  const std::vector<float> quantized = logits({{4, 0, 0}}, 70);
  RankGroup group(model_, {{4, 0, 0}});
  const uint64_t bytes = group.engine(0).report().weightBytesResident;
  model_.spec.quantization = Quantization::kNone;
  const std::vector<float> plain = logits({{4, 0, 0}}, 70);
  RankGroup plainGroup(model_, {{4, 0, 0}});
  EXPECT_LT(bytes, plainGroup.engine(0).report().weightBytesResident);
  EXPECT_NE(quantized, plain);
  double error = 0;
  double power = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    error += (quantized[i] - plain[i]) * (quantized[i] - plain[i]);
    power += plain[i] * plain[i];
  }
  EXPECT_LT(error, power * (std::get<1>(GetParam()) == Quantization::kInt8 ? 0.01 : 0.7));
}

TEST_P(QuantizedEngine, IsProfiledOverMadeUpWeights) {
  const ModelSpec& model = model_.spec;
  EngineOptions options = tinyOptions();
  options.kvBlocks = 0;
  for (const bool prefill : {false, true}) {
    const ProfilePoint point{prefill, 16, 160, model.headGroups, model.ffnColumns, prefill ? 0 : model.vocabRows};
    EXPECT_GT(profileStep(model, options, point, 1), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedEngine,
                         testing::Combine(testing::Values("llama", "opt"),
                                          testing::Values(Quantization::kInt8, Quantization::kInt4)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + quantizationName(std::get<1>(info.param));
                         });

void expectRefused(const ModelSpec& spec, const EngineOptions& options, const std::string& message) {
  ModelSpec plain = spec;
  plain.quantization = Quantization::kNone;
  const TinyModel model = makeTinyModel(plain, 1);
  try {
    Engine::load(spec, shardsOf(spec, {{4, 0, 0}}).front(), model.source, options);
    ADD_FAILURE() << "was loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid);
    EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
  }
}

TEST(QuantizedEngine, RefusesFastNumericsAndOtherTypesThanBf16) {
  ModelSpec spec = specOf("llama", Quantization::kInt8);
  EngineOptions options = tinyOptions();
  options.numerics = Numerics::kFast;
  expectRefused(spec, options, "numerics is fast; it must be exact with quantization int8");
  spec.weightType = DataType::kF16;
  expectRefused(spec, tinyOptions(), "weightType is f16; it must be bf16 with quantization int8");
}

}  // namespace
}  // namespace hels
