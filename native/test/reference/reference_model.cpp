#include "reference/reference_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

namespace hels::reference {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

class Reference {
 public:
  explicit Reference(const TinyModel& model) : model_(model), spec_(model.spec) {}

  Rows logits(const std::vector<int32_t>& tokens) const {
    Rows states = embed(tokens);
    for (int64_t layer = 0; layer < spec_.layers; ++layer) {
      const std::string prefix = root() + "layers." + std::to_string(layer) + ".";
      const auto attention = [&](const Rows& input) { return attend(prefix, layer, input); };
      const auto mlp = [&](const Rows& input) { return feedForward(prefix, input); };
      states = residual(states, prefix + (opt() ? "self_attn_layer_norm" : "input_layernorm"), attention);
      states = residual(states, prefix + (opt() ? "final_layer_norm" : "post_attention_layernorm"), mlp);
    }
    if (spec_.finalNorm) states = normalize(states, root() + (opt() ? "final_layer_norm" : "norm"));
    if (spec_.embeddingSize != spec_.hiddenSize) states = linear(states, root() + "project_out", false);
    return product(states, spec_.tiedEmbeddings ? root() + "embed_tokens.weight" : "lm_head.weight");
  }

 private:
  bool opt() const { return spec_.naming == TensorNaming::kOpt; }
  std::string root() const { return opt() ? "model.decoder." : "model."; }
  const std::vector<float>& tensor(const std::string& name) const { return model_.tensors.at(name).values; }

  Row tableRow(const std::string& name, int64_t row) const {
    const TinyTensor& table = model_.tensors.at(name);
    const auto begin = table.values.begin() + row * table.shape[1];
    return Row(begin, begin + table.shape[1]);
  }

  Rows embed(const std::vector<int32_t>& tokens) const {
    Rows states;
    for (const int32_t token : tokens) states.push_back(tableRow(root() + "embed_tokens.weight", token));
    if (spec_.embeddingSize != spec_.hiddenSize) states = linear(states, root() + "project_in", false);
    if (spec_.position != PositionEncoding::kLearned) return states;
    for (size_t position = 0; position < states.size(); ++position) {
      const Row row =
          tableRow(root() + "embed_positions.weight", static_cast<int64_t>(position) + spec_.learnedPositionOffset);
      for (size_t i = 0; i < row.size(); ++i) states[position][i] += row[i];
    }
    return states;
  }

  /// x + f(norm(x)), or norm(x + f(x)).
  template <typename Block>
  Rows residual(const Rows& states, const std::string& norm, const Block& block) const {
    Rows result = block(spec_.normBeforeBlock ? normalize(states, norm) : states);
    for (size_t position = 0; position < states.size(); ++position) {
      for (size_t i = 0; i < states[position].size(); ++i) result[position][i] += states[position][i];
    }
    return spec_.normBeforeBlock ? result : normalize(result, norm);
  }

  Rows normalize(const Rows& states, const std::string& name) const {
    Rows result;
    for (const Row& row : states) result.push_back(normalizeRow(row, name));
    return result;
  }

  Row normalizeRow(const Row& row, const std::string& name) const {
    const auto count = static_cast<double>(row.size());
    double mean = 0.0;
    if (spec_.normalization == Normalization::kLayer) {
      for (const double value : row) mean += value / count;
    }
    double variance = 0.0;
    for (const double value : row) variance += (value - mean) * (value - mean) / count;
    const std::vector<float>& weight = tensor(name + ".weight");
    Row result(row.size());
    for (size_t i = 0; i < row.size(); ++i) {
      result[i] = (row[i] - mean) / std::sqrt(variance + spec_.normEpsilon) * static_cast<double>(weight[i]);
      if (spec_.normalization == Normalization::kLayer) result[i] += static_cast<double>(tensor(name + ".bias")[i]);
    }
    return result;
  }

  // What is part of the arithmetic is no error of it: KV is kept in the weights' type, and products with bf16 weights
  // take their inputs in bf16 unless they feed attention or change the embedding's size.
  double productInput(double value, const std::string& name) const {
    const bool narrow = spec_.weightType == DataType::kBf16 && !name.ends_with("q_proj.weight") &&
                        !name.ends_with("k_proj.weight") && !name.ends_with("v_proj.weight") &&
                        !name.ends_with("project_in.weight") && !name.ends_with("project_out.weight");
    return narrow ? cached(value) : value;
  }
  double cached(double value) const {
    const auto narrow = static_cast<float>(value);
    if (spec_.weightType == DataType::kBf16) return static_cast<double>(bf16ToF32(f32ToBf16(narrow)));
    if (spec_.weightType == DataType::kF16) return static_cast<double>(f16ToF32(f32ToF16(narrow)));
    return value;
  }

  Rows product(const Rows& states, const std::string& name) const {
    const TinyTensor& weight = model_.tensors.at(name);
    Rows result;
    for (const Row& row : states) {
      Row out(static_cast<size_t>(weight.shape[0]), 0.0);
      for (size_t n = 0; n < out.size(); ++n) {
        for (size_t k = 0; k < row.size(); ++k)
          out[n] += productInput(row[k], name) * static_cast<double>(weight.values[n * row.size() + k]);
      }
      result.push_back(std::move(out));
    }
    return result;
  }

  Rows linear(const Rows& states, const std::string& name, bool bias) const {
    Rows result = product(states, name + ".weight");
    if (!bias) return result;
    for (Row& row : result) {
      for (size_t i = 0; i < row.size(); ++i) row[i] += static_cast<double>(tensor(name + ".bias")[i]);
    }
    return result;
  }

  double frequency(int64_t i) const {
    const double base =
        1.0 / std::pow(spec_.ropeTheta, 2.0 * static_cast<double>(i) / static_cast<double>(spec_.headDim));
    if (spec_.ropeScaling == RopeScaling::kNone) return base;
    if (spec_.ropeScaling == RopeScaling::kLinear) return base / spec_.ropeFactor;
    const double turns = static_cast<double>(spec_.ropeOriginalMaxPositions) * base / (2.0 * std::numbers::pi);
    if (turns < spec_.ropeLowFrequencyFactor) return base / spec_.ropeFactor;
    if (turns > spec_.ropeHighFrequencyFactor) return base;
    const double blend =
        (turns - spec_.ropeLowFrequencyFactor) / (spec_.ropeHighFrequencyFactor - spec_.ropeLowFrequencyFactor);
    return base * (blend + (1.0 - blend) / spec_.ropeFactor);
  }

  /// The head's values, normed and rotated as the model asks.
  Row head(const Row& row, int64_t index, size_t position, const std::string& norm) const {
    const auto begin = row.begin() + index * spec_.headDim;
    Row values(begin, begin + spec_.headDim);
    if (spec_.queryKeyNorm) values = normalizeRow(values, norm);
    if (spec_.position != PositionEncoding::kRope) return values;
    const auto half = static_cast<size_t>(spec_.headDim / 2);
    Row turned(values.size());
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequency(static_cast<int64_t>(i));
      turned[i] = values[i] * std::cos(angle) - values[i + half] * std::sin(angle);
      turned[i + half] = values[i + half] * std::cos(angle) + values[i] * std::sin(angle);
    }
    return turned;
  }

  Rows attend(const std::string& prefix, int64_t layer, const Rows& input) const {
    const Rows queries = linear(input, prefix + "self_attn.q_proj", spec_.qkvBias);
    const Rows keys = linear(input, prefix + "self_attn.k_proj", spec_.qkvBias);
    const Rows values = linear(input, prefix + "self_attn.v_proj", spec_.qkvBias);
    const int64_t window = spec_.slidingWindows[static_cast<size_t>(layer)];
    Rows mixed(input.size(),
               Row(static_cast<size_t>(spec_.headGroups * spec_.queryHeadsPerGroup * spec_.headDim), 0.0));
    for (size_t position = 0; position < input.size(); ++position) {
      const size_t first =
          window == 0 || static_cast<int64_t>(position) < window ? 0 : position + 1 - static_cast<size_t>(window);
      for (int64_t h = 0; h < spec_.headGroups * spec_.queryHeadsPerGroup; ++h) {
        const int64_t group = h / spec_.queryHeadsPerGroup;
        const Row query = head(queries[position], h, position, prefix + "self_attn.q_norm");
        Row weights;
        for (size_t seen = first; seen <= position; ++seen) {
          const Row key = head(keys[seen], group, seen, prefix + "self_attn.k_norm");
          double score = 0.0;
          for (size_t d = 0; d < key.size(); ++d) score += query[d] * cached(key[d]);
          weights.push_back(score / std::sqrt(static_cast<double>(spec_.headDim)));
        }
        softmax(weights);
        for (size_t seen = first; seen <= position; ++seen) {
          for (int64_t d = 0; d < spec_.headDim; ++d) {
            mixed[position][static_cast<size_t>(h * spec_.headDim + d)] +=
                weights[seen - first] * cached(values[seen][static_cast<size_t>(group * spec_.headDim + d)]);
          }
        }
      }
    }
    return linear(mixed, prefix + (opt() ? "self_attn.out_proj" : "self_attn.o_proj"), spec_.attentionOutputBias);
  }

  static void softmax(Row& values) {
    const double highest = *std::max_element(values.begin(), values.end());
    double sum = 0.0;
    for (double& value : values) sum += value = std::exp(value - highest);
    for (double& value : values) value /= sum;
  }

  double activate(double value) const {
    return spec_.activation == Activation::kRelu ? std::max(0.0, value) : value / (1.0 + std::exp(-value));
  }

  Rows feedForward(const std::string& prefix, const Rows& input) const {
    Rows inner = linear(input,
                        prefix + (opt()            ? "fc1"
                                  : spec_.gatedMlp ? "mlp.gate_proj"
                                                   : "mlp.up_proj"),
                        spec_.mlpBias);
    for (Row& row : inner) {
      for (double& value : row) value = activate(value);
    }
    if (spec_.gatedMlp) {
      const Rows up = linear(input, prefix + "mlp.up_proj", spec_.mlpBias);
      for (size_t position = 0; position < inner.size(); ++position) {
        for (size_t i = 0; i < inner[position].size(); ++i) inner[position][i] *= up[position][i];
      }
    }
    return linear(inner, prefix + (opt() ? "fc2" : "mlp.down_proj"), spec_.mlpBias);
  }

  const TinyModel& model_;
  const ModelSpec& spec_;
};

}  // namespace

std::vector<std::vector<double>> referenceLogits(const TinyModel& model, const std::vector<int32_t>& tokens) {
  return Reference(model).logits(tokens);
}

}  // namespace hels::reference
