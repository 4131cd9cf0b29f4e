#include "model/model_spec.h"

#include <cmath>

#include "base/error.h"

namespace hels {
namespace {

// Far above every known model, and low enough that no product of two sizes overflows.
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kSizeMax = int64_t{1} << 24;
constexpr int64_t kPositionsMax = int64_t{1} << 31;

void inRange(const char* field, int64_t value, int64_t least, int64_t most) {
  require(least <= value && value <= most, ErrorCode::kShapeInvalid,
          std::string(field) + " is " + std::to_string(value) + "; it must lie from " + std::to_string(least) + " to " +
              std::to_string(most));
}

void positive(const char* field, double value) {
  require(std::isfinite(value) && value > 0, ErrorCode::kShapeInvalid,
          std::string(field) + " is " + std::to_string(value) + "; it must be a finite number above 0");
}

void validateSizes(const ModelSpec& model) {
  inRange("layers", model.layers, 1, kLayersMax);
  inRange("hiddenSize", model.hiddenSize, 1, kSizeMax);
  inRange("headGroups", model.headGroups, 1, kSizeMax);
  inRange("queryHeadsPerGroup", model.queryHeadsPerGroup, 1, kSizeMax);
  inRange("headDim", model.headDim, 1, kSizeMax);
  inRange("headGroups * queryHeadsPerGroup", model.headGroups * model.queryHeadsPerGroup, 1, kSizeMax);
  inRange("headGroups * queryHeadsPerGroup * headDim", model.headGroups * model.queryHeadsPerGroup * model.headDim, 1,
          kSizeMax);
  inRange("ffnColumns", model.ffnColumns, 1, kSizeMax);
  inRange("ffnGranule", model.ffnGranule, 1, model.ffnColumns);
  inRange("vocabRows", model.vocabRows, 1, kSizeMax);
  inRange("embeddingSize", model.embeddingSize, 1, kSizeMax);
  inRange("maxPositions", model.maxPositions, 1, kPositionsMax);
}

void validateRope(const ModelSpec& model) {
  require(model.headDim % 2 == 0, ErrorCode::kShapeInvalid,
          "headDim is " + std::to_string(model.headDim) + "; it must be even with rotary positions");
  positive("ropeTheta", model.ropeTheta);
  if (model.ropeScaling == RopeScaling::kNone) return;
  positive("ropeFactor", model.ropeFactor);
  if (model.ropeScaling == RopeScaling::kLinear) return;
  positive("ropeLowFrequencyFactor", model.ropeLowFrequencyFactor);
  positive("ropeHighFrequencyFactor", model.ropeHighFrequencyFactor);
  require(model.ropeHighFrequencyFactor > model.ropeLowFrequencyFactor, ErrorCode::kShapeInvalid,
          "ropeHighFrequencyFactor is " + std::to_string(model.ropeHighFrequencyFactor) +
              "; it must be above ropeLowFrequencyFactor " + std::to_string(model.ropeLowFrequencyFactor));
  inRange("ropeOriginalMaxPositions", model.ropeOriginalMaxPositions, 1, kPositionsMax);
}

/// Products take bf16 inputs four at a time; what is summed by itself begins with a whole four.
void validateGranule(const char* name, int64_t granule, int64_t inputs) {
  require(granule % 4 == 0 || granule >= inputs, ErrorCode::kShapeInvalid,
          std::string(name) + " is " + std::to_string(granule) + "; it must be a multiple of 4 with bf16 weights");
}

void validateWindows(const ModelSpec& model) {
  require(model.slidingWindows.size() == static_cast<size_t>(model.layers), ErrorCode::kShapeInvalid,
          "slidingWindows has " + std::to_string(model.slidingWindows.size()) +
              " entries; it must have one for each of the " + std::to_string(model.layers) + " layers");
  for (const int64_t window : model.slidingWindows) inRange("slidingWindows", window, 0, kPositionsMax);
}

}  // namespace

void validateModelSpec(const ModelSpec& model) {
  validateSizes(model);
  positive("normEpsilon", model.normEpsilon);
  if (model.position == PositionEncoding::kRope) validateRope(model);
  inRange("learnedPositionOffset", model.learnedPositionOffset, 0, kPositionsMax);
  validateWindows(model);
  if (model.weightType == DataType::kBf16) {
    const int64_t groupInputs = model.queryHeadsPerGroup * model.headDim;
    validateGranule("queryHeadsPerGroup * headDim", groupInputs, model.headGroups * groupInputs);
    validateGranule("ffnGranule", model.ffnGranule, model.ffnColumns);
  }
  require(model.quantization == Quantization::kNone || model.weightType == DataType::kBf16, ErrorCode::kShapeInvalid,
          std::string("weightType is ") + dataTypeName(model.weightType) + "; it must be bf16 with quantization " +
              quantizationName(model.quantization));
}

}  // namespace hels
