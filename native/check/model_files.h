// A folder of goldens: config.json, model.safetensors and golden.json, read without the libraries that the engine's own
// reader of model directories uses.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "check/json.h"
#include "model/model_spec.h"
#include "model/weight_source.h"

namespace hels::check {

struct Golden {
  std::vector<int32_t> inputIds;
  int64_t logitsFromPosition = 0;
  std::vector<std::vector<float>> logits;  // [position - logitsFromPosition][token]
  std::vector<int32_t> greedyPrompt;
  std::vector<int32_t> greedyTokens;
  std::vector<double> greedyMargins;  // of the best two logits at each step; may be empty
};

struct GoldenModel {
  std::string name;
  ModelSpec spec;
  std::shared_ptr<WeightSource> source;
  Golden golden;
};

/// Of config.json as Hugging Face writes it. Families Llama, Mistral, Qwen 2 and OPT; what else a configuration may ask
/// for is refused by the engine's own reader, and goldens are trusted not to. Throws kModelInvalid.
ModelSpec specOfConfig(const Json& config);

/// One file of tensors. Throws kModelInvalid naming the file and what is wrong.
std::shared_ptr<WeightSource> openTensors(const std::filesystem::path& file);

/// Throws kModelInvalid.
GoldenModel readGoldenModel(const std::filesystem::path& folder);

/// Of `paths`, the folders with a golden.json: themselves or directly in them, sorted by name.
std::vector<std::filesystem::path> goldenFolders(const std::vector<std::filesystem::path>& paths);

}  // namespace hels::check
