#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "base/error.h"
#include "model/model_spec.h"
#include "shard/shard_spec.h"

namespace hels {
namespace {

ModelSpec smallModel() {
  ModelSpec model;
  model.layers = 2;
  model.hiddenSize = 64;
  model.headGroups = 4;
  model.queryHeadsPerGroup = 2;
  model.headDim = 8;
  model.ffnColumns = 100;
  model.ffnGranule = 16;
  model.vocabRows = 50;
  model.embeddingSize = 64;
  model.maxPositions = 128;
  model.slidingWindows = {0, 32};
  return model;
}

ShardSpec wholeShard() {
  return {.rank = 0, .ranks = 1, .headGroups = {0, 4}, .ffnColumns = {0, 100}, .vocabRows = {0, 50}};
}

std::string refusal(const std::function<void()>& check) {
  try {
    check();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid);
    return error.what();
  }
  return "accepted";
}

TEST(ValidateModelSpec, AcceptsASmallModel) { EXPECT_NO_THROW(validateModelSpec(smallModel())); }

TEST(ValidateModelSpec, NamesTheField) {
  const auto with = [](const std::function<void(ModelSpec&)>& change) {
    ModelSpec model = smallModel();
    change(model);
    return refusal([&] { validateModelSpec(model); });
  };
  EXPECT_EQ(with([](ModelSpec& m) { m.layers = 0; }), "layers is 0; it must lie from 1 to 4096");
  EXPECT_EQ(with([](ModelSpec& m) { m.ffnGranule = 101; }), "ffnGranule is 101; it must lie from 1 to 100");
  EXPECT_TRUE(with([](ModelSpec& m) { m.hiddenSize = -1; }).starts_with("hiddenSize is -1"));
  EXPECT_TRUE(with([](ModelSpec& m) {
                m.vocabRows = std::numeric_limits<int64_t>::max();
              }).starts_with("vocabRows is 9223372036854775807"));
  EXPECT_TRUE(with([](ModelSpec& m) {
                m.headDim = m.queryHeadsPerGroup = m.headGroups = 1 << 24;
              }).starts_with("headGroups * query"));
  EXPECT_TRUE(with([](ModelSpec& m) { m.headDim = 7; }).starts_with("headDim is 7; it must be even"));
  EXPECT_TRUE(with([](ModelSpec& m) {
                m.normEpsilon = std::numeric_limits<double>::quiet_NaN();
              }).starts_with("normEpsilon is nan"));
  EXPECT_TRUE(with([](ModelSpec& m) { m.ropeTheta = 0; }).starts_with("ropeTheta is 0"));
  EXPECT_TRUE(with([](ModelSpec& m) { m.slidingWindows = {0}; }).starts_with("slidingWindows has 1 entries"));
  EXPECT_TRUE(with([](ModelSpec& m) { m.slidingWindows = {0, -1}; }).starts_with("slidingWindows is -1"));
  EXPECT_TRUE(with([](ModelSpec& m) {
                m.ropeScaling = RopeScaling::kLlama3;
                m.ropeLowFrequencyFactor = 4;
              }).starts_with("ropeHighFrequencyFactor is 1"));
}

TEST(ValidateModelSpec, GranulesOfBf16AreWholeFours) {
  ModelSpec model = smallModel();
  model.weightType = DataType::kBf16;
  model.headGroups = 2;
  model.queryHeadsPerGroup = 1;
  model.headDim = 6;
  try {
    validateModelSpec(model);
    ADD_FAILURE() << "a granule of 6 inputs was accepted";
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("queryHeadsPerGroup * headDim is 6; it must be a multiple of 4"));
  }
  model.headGroups = 1;  // nothing to be summed apart
  EXPECT_NO_THROW(validateModelSpec(model));
}

TEST(ValidateModelSpec, OddHeadsAreFineWithoutRotation) {
  ModelSpec model = smallModel();
  model.position = PositionEncoding::kLearned;
  model.headDim = 7;
  EXPECT_NO_THROW(validateModelSpec(model));
}

TEST(ValidateShardSpec, AcceptsSplits) {
  const ModelSpec model = smallModel();
  EXPECT_NO_THROW(validateShardSpec(model, wholeShard()));
  ShardSpec shard{.rank = 2, .ranks = 3, .headGroups = {4, 4}, .ffnColumns = {96, 100}, .vocabRows = {0, 0}};
  EXPECT_NO_THROW(validateShardSpec(model, shard));
  shard.ffnColumns = {100, 100};
  EXPECT_NO_THROW(validateShardSpec(model, shard));
}

TEST(ValidateShardSpec, NamesTheField) {
  const auto with = [](const std::function<void(ShardSpec&)>& change) {
    ShardSpec shard = wholeShard();
    change(shard);
    return refusal([&] { validateShardSpec(smallModel(), shard); });
  };
  EXPECT_EQ(with([](ShardSpec& s) { s.rank = 1; }), "rank is 1; it must lie within [0, 1)");
  EXPECT_TRUE(with([](ShardSpec& s) { s.ranks = 0; }).starts_with("ranks is 0"));
  EXPECT_TRUE(with([](ShardSpec& s) {
                s.headGroups = {0, 5};
              }).starts_with("headGroups is [0, 5); it must lie within [0, 4)"));
  EXPECT_TRUE(with([](ShardSpec& s) { s.headGroups = {3, 2}; }).starts_with("headGroups is [3, 2)"));
  EXPECT_TRUE(with([](ShardSpec& s) { s.vocabRows = {-1, 5}; }).starts_with("vocabRows is [-1, 5)"));
  EXPECT_EQ(with([](ShardSpec& s) {
              s.ffnColumns = {0, 99};
            }),
            "ffnColumns.end is 99; it must be a multiple of ffnGranule 16 or ffnColumns 100");
  EXPECT_TRUE(with([](ShardSpec& s) { s.ffnColumns = {8, 100}; }).starts_with("ffnColumns.begin is 8"));
}

}  // namespace
}  // namespace hels
