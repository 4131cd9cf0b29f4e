// Small models with random weights, held in memory: the tests' stand-in for a model directory.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/model_spec.h"
#include "model/weight_source.h"

namespace hels::reference {

struct TinyTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;  // already rounded to the model's weight type
};

struct TinyModel {
  ModelSpec spec;
  std::map<std::string, TinyTensor> tensors;
  std::shared_ptr<WeightSource> source;
};

/// Random weights for every tensor that `spec` asks for, named as Hugging Face names them.
TinyModel makeTinyModel(const ModelSpec& spec, uint64_t seed);

/// A Llama of 3 layers, 4 head groups of 2 query heads, 7 granules of FFN columns and an odd vocabulary, for tests to
/// vary.
ModelSpec tinyLlama();
/// An OPT of 2 layers with learned positions, LayerNorm and biases.
ModelSpec tinyOpt();

/// `count` token ids below `vocabRows`.
std::vector<int32_t> randomTokens(int64_t count, int64_t vocabRows, uint64_t seed);

}  // namespace hels::reference
