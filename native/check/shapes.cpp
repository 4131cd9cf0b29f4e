#include "check/shapes.h"

#include "base/error.h"

namespace hels::check {
namespace {

ModelSpec llama(int64_t layers, int64_t hiddenSize, int64_t headGroups, int64_t queryHeadsPerGroup, int64_t headDim,
                int64_t ffnColumns, int64_t ffnGranule, int64_t vocabRows, double ropeTheta, int64_t maxPositions) {
  ModelSpec model;
  model.layers = layers;
  model.hiddenSize = model.embeddingSize = hiddenSize;
  model.headGroups = headGroups;
  model.queryHeadsPerGroup = queryHeadsPerGroup;
  model.headDim = headDim;
  model.ffnColumns = ffnColumns;
  model.ffnGranule = ffnGranule;
  model.vocabRows = vocabRows;
  model.ropeTheta = ropeTheta;
  model.maxPositions = maxPositions;
  model.slidingWindows.assign(static_cast<size_t>(layers), 0);
  model.weightType = DataType::kBf16;
  return model;
}

}  // namespace

ModelSpec shapeNamed(const std::string& name) {
  if (name == "8b") return llama(32, 4096, 8, 4, 128, 14336, 896, 128256, 500000.0, 8192);
  if (name == "13b") return llama(40, 5120, 40, 1, 128, 13824, 864, 32000, 10000.0, 4096);
  if (name == "tiny") return llama(2, 64, 2, 2, 16, 128, 16, 100, 10000.0, 512);
  throw Error(ErrorCode::kShapeInvalid, "shape '" + name + "' is not known; known are 8b, 13b and tiny");
}

std::vector<MatrixShape> matricesOf(const ModelSpec& model) {
  const int64_t queryWidth = model.headGroups * model.queryHeadsPerGroup * model.headDim;
  const int64_t keyWidth = model.headGroups * model.headDim;
  return {{"qkv", queryWidth + 2 * keyWidth, model.hiddenSize, 0},
          {"o", model.hiddenSize, queryWidth, model.queryHeadsPerGroup * model.headDim},
          {"gate_up", (model.gatedMlp ? 2 : 1) * model.ffnColumns, model.hiddenSize, 0},
          {"down", model.hiddenSize, model.ffnColumns, model.ffnGranule},
          {"head", model.vocabRows, model.hiddenSize, 0}};
}

}  // namespace hels::check
