#include "check/model_files.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "base/mapped_file.h"

namespace hels::check {
namespace {

int64_t integerOr(const Json& config, const char* name, int64_t otherwise) {
  const Json& value = config.at(name);
  return value.isNull() ? otherwise : value.integer();
}
double numberOr(const Json& config, const char* name, double otherwise) {
  const Json& value = config.at(name);
  return value.isNull() ? otherwise : value.number();
}
bool booleanOr(const Json& config, const char* name, bool otherwise) {
  const Json& value = config.at(name);
  return value.isNull() ? otherwise : value.boolean();
}

/// A sixteenth of the columns, rounded up to a multiple of 8, as everywhere in Hels.
int64_t granuleOf(int64_t columns) { return ((columns + 15) / 16 + 7) / 8 * 8; }

void readRope(const Json& config, ModelSpec& model) {
  model.ropeTheta = numberOr(config, "rope_theta", 10000.0);
  const Json& scaling = config.at("rope_scaling");
  if (scaling.isNull()) return;
  const std::string kind =
      scaling.at("rope_type").isNull() ? scaling.at("type").string() : scaling.at("rope_type").string();
  require(kind == "linear" || kind == "llama3" || kind == "default", ErrorCode::kModelInvalid,
          "rope_type is '" + kind + "'; it must be default, linear or llama3");
  if (kind == "default") return;
  model.ropeFactor = scaling.at("factor").number();
  model.ropeScaling = kind == "linear" ? RopeScaling::kLinear : RopeScaling::kLlama3;
  if (kind == "linear") return;
  model.ropeLowFrequencyFactor = scaling.at("low_freq_factor").number();
  model.ropeHighFrequencyFactor = scaling.at("high_freq_factor").number();
  model.ropeOriginalMaxPositions = scaling.at("original_max_position_embeddings").integer();
}

void readOpt(const Json& config, ModelSpec& model) {
  model.naming = TensorNaming::kOpt;
  model.ffnColumns = config.at("ffn_dim").integer();
  model.gatedMlp = false;
  model.embeddingSize = integerOr(config, "word_embed_proj_dim", model.hiddenSize);
  model.normalization = Normalization::kLayer;
  model.normEpsilon = 1e-5;
  model.normBeforeBlock = booleanOr(config, "do_layer_norm_before", true);
  model.finalNorm = model.normBeforeBlock && !booleanOr(config, "_remove_final_layer_norm", false);
  model.activation = Activation::kRelu;
  model.position = PositionEncoding::kLearned;
  model.learnedPositionOffset = 2;
  model.qkvBias = model.attentionOutputBias = model.mlpBias = booleanOr(config, "enable_bias", true);
  model.tiedEmbeddings = booleanOr(config, "tie_word_embeddings", true);
}

void readRotary(const Json& config, const std::string& family, ModelSpec& model) {
  model.ffnColumns = config.at("intermediate_size").integer();
  model.embeddingSize = model.hiddenSize;
  model.normEpsilon = numberOr(config, "rms_norm_eps", 1e-6);
  model.tiedEmbeddings = booleanOr(config, "tie_word_embeddings", false);
  readRope(config, model);
  if (family == "qwen2") {
    model.qkvBias = true;
    require(!booleanOr(config, "use_sliding_window", false), ErrorCode::kModelInvalid,
            "use_sliding_window is not read here");
  } else if (family == "llama") {
    model.qkvBias = model.attentionOutputBias = booleanOr(config, "attention_bias", false);
    model.mlpBias = booleanOr(config, "mlp_bias", false);
  } else {
    model.slidingWindows.assign(static_cast<size_t>(model.layers), integerOr(config, "sliding_window", 0));
  }
}

class OneFile final : public WeightSource {
 public:
  explicit OneFile(const std::filesystem::path& path) : file_(path.string()) {
    const std::span<const std::byte> bytes = file_.bytes();
    uint64_t headerBytes = 0;
    require(bytes.size() >= sizeof headerBytes, ErrorCode::kModelInvalid, path.string() + " is too short");
    std::memcpy(&headerBytes, bytes.data(), sizeof headerBytes);
    const size_t room = bytes.size() - sizeof headerBytes;
    require(headerBytes <= room, ErrorCode::kModelInvalid, path.string() + ": the header is longer than the file");
    const auto* text = reinterpret_cast<const char*>(bytes.data() + sizeof headerBytes);
    const Json header = parseJson({text, static_cast<size_t>(headerBytes)}, path.string());
    const std::span<const std::byte> data = bytes.subspan(sizeof headerBytes + static_cast<size_t>(headerBytes));
    for (const auto& [name, entry] : header.members()) {
      if (name != "__metadata__") add(path.string(), name, entry, data);
    }
  }

  const TensorView* find(const std::string& name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }
  const TensorView& get(const std::string& name, const std::vector<int64_t>& shape) const override {
    const TensorView* tensor = find(name);
    require(tensor != nullptr && tensor->shape == shape && tensor->readable, ErrorCode::kModelInvalid,
            "tensor " + name + " is missing, or of another shape or type");
    return *tensor;
  }
  const TensorView& getStored(const std::string& name, const std::vector<int64_t>& shape,
                              const std::string& storedType) const override {
    const TensorView* tensor = find(name);
    require(tensor != nullptr && tensor->shape == shape && tensor->storedType == storedType, ErrorCode::kModelInvalid,
            "tensor " + name + " is missing, or of another shape or type");
    return *tensor;
  }
  const std::map<std::string, TensorView>& tensors() const override { return tensors_; }

 private:
  void add(const std::string& file, const std::string& name, const Json& entry, std::span<const std::byte> data) {
    TensorView tensor;
    tensor.name = name;
    tensor.file = file;
    tensor.storedType = entry.at("dtype").string();
    tensor.readable = tensor.storedType == "F32" || tensor.storedType == "BF16" || tensor.storedType == "F16";
    tensor.type = tensor.storedType == "BF16"  ? DataType::kBf16
                  : tensor.storedType == "F16" ? DataType::kF16
                                               : DataType::kF32;
    size_t elements = 1;
    for (const Json& size : entry.at("shape").items()) {
      require(size.integer() >= 0 && size.integer() < int64_t{1} << 24, ErrorCode::kModelInvalid,
              file + ": a bad shape of " + name);
      tensor.shape.push_back(size.integer());
      elements *= static_cast<size_t>(size.integer());
    }
    const Json::Array& offsets = entry.at("data_offsets").items();
    require(offsets.size() == 2, ErrorCode::kModelInvalid, file + ": bad offsets of " + name);
    const auto begin = static_cast<size_t>(offsets[0].integer());
    const auto end = static_cast<size_t>(offsets[1].integer());
    require(begin <= end && end <= data.size() && (!tensor.readable || end - begin == elements * bytesOf(tensor.type)),
            ErrorCode::kModelInvalid, file + ": tensor " + name + " does not lie in the file as its shape says");
    tensor.data = data.data() + begin;
    tensor.sizeBytes = end - begin;
    tensors_[name] = std::move(tensor);
  }

  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
};

std::vector<int32_t> idsOf(const Json& json) {
  std::vector<int32_t> ids;
  for (const Json& id : json.items()) ids.push_back(static_cast<int32_t>(id.integer()));
  return ids;
}

Golden readGolden(const Json& json) {
  Golden golden;
  golden.inputIds = idsOf(json.at("input_ids"));
  golden.logitsFromPosition = integerOr(json, "logits_from_position", 0);
  for (const Json& row : json.at("logits").items()) {
    std::vector<float>& values = golden.logits.emplace_back();
    for (const Json& value : row.items()) values.push_back(static_cast<float>(value.number()));
  }
  golden.greedyPrompt = idsOf(json.at("greedy").at("prompt"));
  golden.greedyTokens = idsOf(json.at("greedy").at("tokens"));
  const Json& margins = json.at("greedy").at("margins");
  if (!margins.isNull()) {
    for (const Json& margin : margins.items()) golden.greedyMargins.push_back(margin.number());
  }
  return golden;
}

}  // namespace

ModelSpec specOfConfig(const Json& config) {
  ModelSpec model;
  const std::string family = config.at("model_type").string();
  require(family == "llama" || family == "mistral" || family == "qwen2" || family == "opt", ErrorCode::kModelInvalid,
          "model_type is '" + family + "'; it must be llama, mistral, qwen2 or opt");
  model.layers = config.at("num_hidden_layers").integer();
  model.hiddenSize = config.at("hidden_size").integer();
  const int64_t queryHeads = config.at("num_attention_heads").integer();
  model.headGroups = integerOr(config, "num_key_value_heads", queryHeads);
  require(model.headGroups > 0 && queryHeads % model.headGroups == 0, ErrorCode::kModelInvalid,
          "num_key_value_heads must divide num_attention_heads");
  model.queryHeadsPerGroup = queryHeads / model.headGroups;
  model.headDim = integerOr(config, "head_dim", model.hiddenSize / queryHeads);
  model.vocabRows = config.at("vocab_size").integer();
  model.maxPositions = config.at("max_position_embeddings").integer();
  model.slidingWindows.assign(static_cast<size_t>(model.layers), 0);
  if (family == "opt") {
    readOpt(config, model);
  } else {
    readRotary(config, family, model);
  }
  model.ffnGranule = granuleOf(model.ffnColumns);
  return model;
}

std::shared_ptr<WeightSource> openTensors(const std::filesystem::path& file) { return std::make_shared<OneFile>(file); }

GoldenModel readGoldenModel(const std::filesystem::path& folder) {
  GoldenModel model;
  model.name = folder.filename().string();
  model.spec = specOfConfig(readJson(folder / "config.json"));
  model.source = openTensors(folder / "model.safetensors");
  require(!model.source->tensors().empty(), ErrorCode::kModelInvalid, folder.string() + " has no tensors");
  model.spec.weightType = model.source->tensors().begin()->second.type;
  validateModelSpec(model.spec);
  model.golden = readGolden(readJson(folder / "golden.json"));
  return model;
}

std::vector<std::filesystem::path> goldenFolders(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::filesystem::path> folders;
  for (const std::filesystem::path& path : paths) {
    if (std::filesystem::exists(path / "golden.json")) {
      folders.push_back(path);
      continue;
    }
    if (!std::filesystem::is_directory(path)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (std::filesystem::exists(entry.path() / "golden.json")) folders.push_back(entry.path());
    }
  }
  std::sort(folders.begin(), folders.end());
  // The same golden from two places is checked once.
  const auto same = [](const auto& a, const auto& b) { return a.filename() == b.filename(); };
  std::stable_sort(folders.begin(), folders.end(),
                   [](const auto& a, const auto& b) { return a.filename() < b.filename(); });
  folders.erase(std::unique(folders.begin(), folders.end(), same), folders.end());
  return folders;
}

}  // namespace hels::check
