// What the engine must know of a model: the arithmetic, without the Hugging Face vocabulary it was read from
// (that translation is proto/domain/model-spec.ts; field names are equal on both sides of the bridge).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/data_type.h"
#include "base/quantization.h"

namespace hels {

enum class TensorNaming : uint8_t { kLlama, kOpt };
enum class Normalization : uint8_t { kRms, kLayer };
enum class Activation : uint8_t { kSilu, kRelu };
enum class PositionEncoding : uint8_t { kRope, kLearned };
enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3 };

struct ModelSpec {
  TensorNaming naming = TensorNaming::kLlama;
  int64_t layers = 0;
  int64_t hiddenSize = 0;
  int64_t headGroups = 0;          // KV heads
  int64_t queryHeadsPerGroup = 0;  // query heads that share one KV head
  int64_t headDim = 0;
  int64_t ffnColumns = 0;
  int64_t ffnGranule = 0;  // columns whose down_proj partial is summed in f32 before it enters the fixed-point sum
  bool gatedMlp = true;    // gate and up (SwiGLU); false: one input matrix (OPT)
  int64_t vocabRows = 0;
  int64_t embeddingSize = 0;  // width of the token embedding; differs from hiddenSize with word_embed_proj_dim
  int64_t maxPositions = 0;

  Normalization normalization = Normalization::kRms;
  double normEpsilon = 1e-5;
  bool normBeforeBlock = true;  // false: OPT-350m, norm after the residual sum
  bool finalNorm = true;
  Activation activation = Activation::kSilu;

  PositionEncoding position = PositionEncoding::kRope;
  int64_t learnedPositionOffset = 0;  // OPT: 2
  double ropeTheta = 10000.0;
  RopeScaling ropeScaling = RopeScaling::kNone;
  double ropeFactor = 1.0;
  double ropeLowFrequencyFactor = 1.0;
  double ropeHighFrequencyFactor = 1.0;
  int64_t ropeOriginalMaxPositions = 0;

  bool qkvBias = false;
  bool attentionOutputBias = false;
  bool mlpBias = false;
  bool queryKeyNorm = false;            // Qwen3: RMS norm over headDim of each q and k head before RoPE
  std::vector<int64_t> slidingWindows;  // per layer; positions a token sees, itself included; 0 = all
  bool tiedEmbeddings = false;
  DataType weightType = DataType::kF32;  // how weights are kept in memory; files of another type are converted at load
  /// Of the layers' matrices, and whether the head has 8 bits; needs weightType kBf16.
  Quantization quantization = Quantization::kNone;

  bool operator==(const ModelSpec&) const = default;
};

/// Throws kShapeInvalid naming the first field out of range.
void validateModelSpec(const ModelSpec& model);

}  // namespace hels
