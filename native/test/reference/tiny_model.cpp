#include "reference/tiny_model.h"

#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>

namespace hels::reference {
namespace {

class MemoryWeightSource final : public WeightSource {
 public:
  MemoryWeightSource(const std::map<std::string, TinyTensor>& tensors, DataType type) {
    for (const auto& [name, tensor] : tensors) {
      std::vector<std::byte>& bytes = bytes_[name];
      bytes.resize(tensor.values.size() * bytesOf(type));
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        const float value = tensor.values[i];
        const uint16_t bits = type == DataType::kF16 ? f32ToF16(value) : f32ToBf16(value);
        const void* source = type == DataType::kF32 ? static_cast<const void*>(&value) : &bits;
        std::memcpy(bytes.data() + i * bytesOf(type), source, bytesOf(type));
      }
      TensorView& view = views_[name];
      view.name = name;
      view.file = "memory";
      view.storedType = type == DataType::kF32 ? "F32" : type == DataType::kBf16 ? "BF16" : "F16";
      view.readable = true;
      view.type = type;
      view.shape = tensor.shape;
      view.data = bytes.data();
      view.sizeBytes = bytes.size();
    }
  }

  const TensorView* find(const std::string& name) const override {
    const auto found = views_.find(name);
    return found == views_.end() ? nullptr : &found->second;
  }
  const TensorView& get(const std::string& name, const std::vector<int64_t>& shape) const override {
    const TensorView* view = find(name);
    if (view == nullptr || view->shape != shape) throw std::runtime_error("no tensor " + name + " of that shape");
    return *view;
  }
  const TensorView& getStored(const std::string& name, const std::vector<int64_t>& shape,
                              const std::string& storedType) const override {
    const TensorView& view = get(name, shape);
    if (view.storedType != storedType) throw std::runtime_error(name + " is " + view.storedType);
    return view;
  }
  const std::map<std::string, TensorView>& tensors() const override { return views_; }

 private:
  std::map<std::string, std::vector<std::byte>> bytes_;
  std::map<std::string, TensorView> views_;
};

class Builder {
 public:
  Builder(const ModelSpec& spec, uint64_t seed) : spec_(spec), random_(seed) {}

  std::map<std::string, TinyTensor> build() {
    const bool opt = spec_.naming == TensorNaming::kOpt;
    const std::string root = opt ? "model.decoder." : "model.";
    random(root + "embed_tokens.weight", {spec_.vocabRows, spec_.embeddingSize}, 1.0);
    if (!spec_.tiedEmbeddings) matrix("lm_head", spec_.vocabRows, spec_.embeddingSize, false);
    if (spec_.position == PositionEncoding::kLearned) {
      random(root + "embed_positions.weight", {spec_.maxPositions + spec_.learnedPositionOffset, spec_.hiddenSize},
             0.5);
    }
    if (spec_.embeddingSize != spec_.hiddenSize) {
      matrix(root + "project_in", spec_.hiddenSize, spec_.embeddingSize, false);
      matrix(root + "project_out", spec_.embeddingSize, spec_.hiddenSize, false);
    }
    for (int64_t i = 0; i < spec_.layers; ++i) layer(root + "layers." + std::to_string(i) + ".", opt);
    if (spec_.finalNorm) norm(root + (opt ? "final_layer_norm" : "norm"));
    return std::move(tensors_);
  }

 private:
  void layer(const std::string& prefix, bool opt) {
    const int64_t keys = spec_.headGroups * spec_.headDim;
    const int64_t queries = keys * spec_.queryHeadsPerGroup;
    norm(prefix + (opt ? "self_attn_layer_norm" : "input_layernorm"));
    norm(prefix + (opt ? "final_layer_norm" : "post_attention_layernorm"));
    matrix(prefix + "self_attn.q_proj", queries, spec_.hiddenSize, spec_.qkvBias, 2.0);
    matrix(prefix + "self_attn.k_proj", keys, spec_.hiddenSize, spec_.qkvBias, 2.0);
    matrix(prefix + "self_attn.v_proj", keys, spec_.hiddenSize, spec_.qkvBias);
    matrix(prefix + (opt ? "self_attn.out_proj" : "self_attn.o_proj"), spec_.hiddenSize, queries,
           spec_.attentionOutputBias);
    if (spec_.queryKeyNorm) {
      random(prefix + "self_attn.q_norm.weight", {spec_.headDim}, 0.3, 1.0);
      random(prefix + "self_attn.k_norm.weight", {spec_.headDim}, 0.3, 1.0);
    }
    if (spec_.gatedMlp) matrix(prefix + "mlp.gate_proj", spec_.ffnColumns, spec_.hiddenSize, spec_.mlpBias);
    matrix(prefix + (opt ? "fc1" : "mlp.up_proj"), spec_.ffnColumns, spec_.hiddenSize, spec_.mlpBias);
    matrix(prefix + (opt ? "fc2" : "mlp.down_proj"), spec_.hiddenSize, spec_.ffnColumns, spec_.mlpBias);
  }

  void norm(const std::string& name) {
    random(name + ".weight", {spec_.hiddenSize}, 0.2, 1.0);
    if (spec_.normalization == Normalization::kLayer) random(name + ".bias", {spec_.hiddenSize}, 0.2);
  }

  void matrix(const std::string& name, int64_t rows, int64_t columns, bool bias, double gain = 1.0) {
    random(name + ".weight", {rows, columns}, gain / std::sqrt(static_cast<double>(columns)));
    if (bias) random(name + ".bias", {rows}, 0.3);
  }

  void random(const std::string& name, const std::vector<int64_t>& shape, double deviation, double mean = 0.0) {
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    std::normal_distribution<double> normal(mean, deviation);
    TinyTensor tensor{shape, std::vector<float>(count)};
    for (float& value : tensor.values) value = rounded(static_cast<float>(normal(random_)));
    tensors_[name] = std::move(tensor);
  }

  float rounded(float value) const {
    if (spec_.weightType == DataType::kBf16) return bf16ToF32(f32ToBf16(value));
    return spec_.weightType == DataType::kF16 ? f16ToF32(f32ToF16(value)) : value;
  }

  const ModelSpec& spec_;
  std::mt19937_64 random_;
  std::map<std::string, TinyTensor> tensors_;
};

}  // namespace

TinyModel makeTinyModel(const ModelSpec& spec, uint64_t seed) {
  TinyModel model{spec, Builder(spec, seed).build(), nullptr};
  model.source = std::make_shared<MemoryWeightSource>(model.tensors, spec.weightType);
  return model;
}

ModelSpec tinyLlama() {
  ModelSpec spec;
  spec.layers = 3;
  spec.hiddenSize = 40;
  spec.headGroups = 4;
  spec.queryHeadsPerGroup = 2;
  spec.headDim = 12;
  spec.ffnColumns = 56;
  spec.ffnGranule = 8;
  spec.vocabRows = 101;
  spec.embeddingSize = 40;
  spec.maxPositions = 256;
  spec.normEpsilon = 1e-5;
  spec.slidingWindows.assign(3, 0);
  return spec;
}

ModelSpec tinyOpt() {
  ModelSpec spec;
  spec.naming = TensorNaming::kOpt;
  spec.layers = 2;
  spec.hiddenSize = 32;
  spec.headGroups = 4;
  spec.queryHeadsPerGroup = 1;
  spec.headDim = 8;
  spec.ffnColumns = 48;
  spec.ffnGranule = 16;
  spec.gatedMlp = false;
  spec.vocabRows = 67;
  spec.embeddingSize = 32;
  spec.maxPositions = 128;
  spec.normalization = Normalization::kLayer;
  spec.activation = Activation::kRelu;
  spec.position = PositionEncoding::kLearned;
  spec.learnedPositionOffset = 2;
  spec.qkvBias = spec.attentionOutputBias = spec.mlpBias = true;
  spec.tiedEmbeddings = true;
  spec.slidingWindows.assign(2, 0);
  return spec;
}

std::vector<int32_t> randomTokens(int64_t count, int64_t vocabRows, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocabRows - 1));
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& value : tokens) value = token(random);
  return tokens;
}

}  // namespace hels::reference
