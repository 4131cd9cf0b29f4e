#include "engine/weight_loader.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace hels {
namespace {

/// Tensor names of a family, without ".weight" and ".bias".
struct TensorNames {
  std::string embedding, positions, projectIn, projectOut, layers, finalNorm, head;
  std::string query, key, value, attentionOutput, attentionNorm, mlpNorm, gate, up, mlpOutput;
};

TensorNames namesOf(TensorNaming naming) {
  if (naming == TensorNaming::kLlama) {
    return {"model.embed_tokens",
            "",
            "",
            "",
            "model.layers.",
            "model.norm",
            "lm_head",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "input_layernorm",
            "post_attention_layernorm",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj"};
  }
  const std::string decoder = "model.decoder.";
  return {decoder + "embed_tokens",
          decoder + "embed_positions",
          decoder + "project_in",
          decoder + "project_out",
          decoder + "layers.",
          decoder + "final_layer_norm",
          "lm_head",
          "self_attn.q_proj",
          "self_attn.k_proj",
          "self_attn.v_proj",
          "self_attn.out_proj",
          "self_attn_layer_norm",
          "final_layer_norm",
          "",
          "fc1",
          "fc2"};
}

constexpr const char* kIntegers = ".qweight";
constexpr const char* kScales = ".scales";

/// The first tensor that is part of a quantised matrix; null when the files hold none.
const TensorView* firstQuantized(const WeightSource& source) {
  for (const auto& [name, tensor] : source.tensors()) {
    if (name.ends_with(kIntegers) || name.ends_with(kScales)) return &tensor;
  }
  return nullptr;
}

std::byte* bytesAt(float* values) { return reinterpret_cast<std::byte*>(values); }

class Loader {
 public:
  Loader(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer, WeightReader& reader,
         const ByWeightPart<bool>& wanted)
      : model_(model), shard_(shard), packer_(packer), reader_(reader), wanted_(wanted), names_(namesOf(model.naming)) {
    const TensorView* quantized = firstQuantized(reader.source());
    filesQuantized_ = quantized != nullptr;
    if (filesQuantized_ && model.quantization == Quantization::kNone) {
      throw Error(ErrorCode::kModelInvalid, quantized->file + ": tensor " + nameText(quantized->name) +
                                                " is quantised; config.json must say so in quantization_config");
    }
  }

  ByWeightPart<LoadAccounting> load(const ModelWeights& weights) {
    // Read where the embedding is, so that the first thing that is wrong is the same one either way.
    const bool headHoldsEmbedding = weights.embedding == nullptr;
    if (headHoldsEmbedding) {
      inPart(WeightPart::kHead, [&] { head(weights); });
    } else {
      table(WeightPart::kEmbedding, names_.embedding, model_.vocabRows, model_.embeddingSize, weights.embedding);
    }
    if (weights.positions != nullptr) {
      const int64_t rows = model_.learnedPositionOffset + model_.maxPositions;
      table(WeightPart::kReplicated, names_.positions, rows, model_.hiddenSize, weights.positions);
    }
    if (hasEmbeddingProjection(model_)) {
      replicated(weights.projectIn.matrix, names_.projectIn);
      replicated(weights.projectOut.matrix, names_.projectOut);
    }
    for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
      const std::string prefix = names_.layers + std::to_string(layer) + ".";
      attention(prefix, weights.layers[layer]);
      mlp(prefix, weights.layers[layer]);
    }
    if (model_.finalNorm) norm(names_.finalNorm, weights.finalNorm);
    if (!headHoldsEmbedding) inPart(WeightPart::kHead, [&] { head(weights); });
    const bool all = std::ranges::all_of(wanted_, [](bool wanted) { return wanted; });
    if (filesQuantized_ && all) refuseUnread();
    return accounting_;
  }

 private:
  /// Runs `body`, which reads something of `part`, if the part is wanted.
  template <typename Body>
  void inPart(WeightPart part, const Body& body) {
    if (!wanted_[indexOf(part)]) return;
    const LoadAccounting before = reader_.accounting();
    body();
    const LoadAccounting& after = reader_.accounting();
    LoadAccounting& own = accounting_[indexOf(part)];
    own.bytesLoaded += after.bytesLoaded - before.bytesLoaded;
    own.bytesReplicated += after.bytesReplicated - before.bytesReplicated;
    own.corrupted = own.corrupted || (after.corrupted && !before.corrupted);
  }

  void attention(const std::string& prefix, const LayerWeights& layer) {
    const int64_t groupQueries = model_.queryHeadsPerGroup * model_.headDim;
    const Range groups = shard_.headGroups;
    const Range queries{groups.begin * groupQueries, groups.end * groupQueries};
    const Range keys{groups.begin * model_.headDim, groups.end * model_.headDim};
    const int64_t allQueries = model_.headGroups * groupQueries;
    const int64_t allKeys = model_.headGroups * model_.headDim;
    norm(prefix + names_.attentionNorm, layer.attentionNorm);
    const Linear& linear = layer.queryKeyValue;
    inPart(WeightPart::kAttention, [&] {
      columns(linear, model_.qkvBias, 0, prefix + names_.query, allQueries, queries);
      columns(linear, model_.qkvBias, queries.size(), prefix + names_.key, allKeys, keys);
      columns(linear, model_.qkvBias, queries.size() + keys.size(), prefix + names_.value, allKeys, keys);
    });
    if (model_.queryKeyNorm) {
      vector(prefix + "self_attn.q_norm.weight", model_.headDim, layer.queryNorm);
      vector(prefix + "self_attn.k_norm.weight", model_.headDim, layer.keyNorm);
    }
    rows(WeightPart::kAttention, layer.attentionOutput, prefix + names_.attentionOutput, allQueries, queries);
  }

  void mlp(const std::string& prefix, const LayerWeights& layer) {
    const Range ffn = shard_.ffnColumns;
    norm(prefix + names_.mlpNorm, layer.mlpNorm);
    inPart(WeightPart::kMlp, [&] {
      if (model_.gatedMlp) columns(layer.mlpInput, model_.mlpBias, 0, prefix + names_.gate, model_.ffnColumns, ffn);
      columns(layer.mlpInput, model_.mlpBias, model_.gatedMlp ? ffn.size() : 0, prefix + names_.up, model_.ffnColumns,
              ffn);
    });
    rows(WeightPart::kMlp, layer.mlpOutput, prefix + names_.mlpOutput, model_.ffnColumns, ffn);
  }

  /// The embedding is replicated, so a tied head takes its rows from memory, unless it is the embedding itself.
  void head(const ModelWeights& weights) {
    const Range vocabulary = shard_.vocabRows;
    if (weights.embedding == nullptr) {
      pack(weights.head.matrix, 0, names_.embedding, {model_.vocabRows, model_.embeddingSize}, vocabulary,
           {0, model_.embeddingSize}, Ownership::kReplicated);
    } else if (model_.tiedEmbeddings) {
      const size_t rowBytes = static_cast<size_t>(model_.embeddingSize) * bytesOf(model_.weightType);
      const std::byte* rows = weights.embedding + static_cast<size_t>(vocabulary.begin) * rowBytes;
      if (model_.quantization == Quantization::kNone) {
        packer_.pack(weights.head.matrix, 0, vocabulary.size(), rows);
      } else {
        packTiedHead(weights.head.matrix, rows);
      }
    } else {
      pack(weights.head.matrix, 0, names_.head, {model_.vocabRows, model_.embeddingSize}, vocabulary,
           {0, model_.embeddingSize}, Ownership::kSliced);
    }
  }

  void norm(const std::string& name, const NormWeights& target) {
    vector(name + ".weight", model_.hiddenSize, target.weight);
    if (target.bias != nullptr) vector(name + ".bias", model_.hiddenSize, target.bias);
  }

  void vector(const std::string& name, int64_t length, float* target) {
    inPart(WeightPart::kReplicated, [&] {
      reader_.readVector(name, length, {0, length}, DataType::kF32, bytesAt(target), Ownership::kReplicated);
    });
  }

  void table(WeightPart part, const std::string& name, int64_t rows, int64_t columns, std::byte* target) {
    inPart(part, [&] {
      reader_.readMatrix(name + ".weight", {rows, columns}, {0, rows}, {0, columns}, model_.weightType, target,
                         Ownership::kReplicated);
    });
  }

  void replicated(const WeightMatrix& matrix, const std::string& name) {
    inPart(WeightPart::kReplicated, [&] {
      pack(matrix, 0, name, {matrix.columns, matrix.depth}, {0, matrix.columns}, {0, matrix.depth},
           Ownership::kReplicated);
    });
  }

  /// Column-parallel: this rank's rows of the tensor, with its bias, become columns of the result from `firstColumn`
  /// on. An empty slice has no bias in memory, and what the files say of it is checked all the same.
  void columns(const Linear& linear, bool bias, int64_t firstColumn, const std::string& name, int64_t allRows,
               Range slice) {
    pack(linear.matrix, firstColumn, name, {allRows, model_.hiddenSize}, slice, {0, model_.hiddenSize},
         Ownership::kSliced);
    if (!bias) return;
    reader_.readVector(name + ".bias", allRows, slice, DataType::kF32, bytesAt(linear.bias + firstColumn),
                       Ownership::kSliced);
  }

  /// Row-parallel: this rank's columns of the tensor; the bias is added once, after the sum over ranks, so every rank
  /// holds it.
  void rows(WeightPart part, const Linear& linear, const std::string& name, int64_t allColumns, Range slice) {
    inPart(part, [&] {
      pack(linear.matrix, 0, name, {model_.hiddenSize, allColumns}, {0, model_.hiddenSize}, slice, Ownership::kSliced);
    });
    if (linear.bias != nullptr) vector(name + ".bias", model_.hiddenSize, linear.bias);
  }

  void pack(const WeightMatrix& matrix, int64_t firstColumn, const std::string& name, const std::vector<int64_t>& shape,
            Range rows, Range columns, Ownership ownership) {
    const bool quantized = matrix.quantization != Quantization::kNone;
    // A quantised row passes through as f32, as integers and as scales.
    const auto rowBytes =
        static_cast<int64_t>(quantized ? sizeof(float) + 2 : bytesOf(model_.weightType)) * columns.size();
    const int64_t batch =
        std::max<int64_t>(1, static_cast<int64_t>(kLoadStagingBytes) / std::max<int64_t>(1, rowBytes));
    int64_t row = rows.begin;
    do {  // once even for an empty slice: the tensor's shape is checked all the same
      const Range part{row, std::min(rows.end, row + batch)};
      const int64_t column = firstColumn + row - rows.begin;
      if (quantized) {
        readQuantized(matrix, name, shape, part, columns, ownership);
        packer_.packQuantized(matrix, column, part.size(), quantized_.values.data(), quantized_.scales.data());
      } else {
        staging_.resize(static_cast<size_t>(part.size() * rowBytes));
        reader_.readMatrix(name + ".weight", shape, part, columns, matrix.type, staging_.data(), ownership);
        packer_.pack(matrix, column, part.size(), staging_.data());
      }
      row = part.end;
    } while (row < rows.end);
  }

  /// A block of a matrix as integers and scales: as the files have them, or chosen now.
  void readQuantized(const WeightMatrix& matrix, const std::string& name, const std::vector<int64_t>& shape, Range rows,
                     Range columns, Ownership ownership) {
    if (filesQuantized_) {
      const TensorView* whole = reader_.source().find(name + ".weight");
      if (whole != nullptr) {
        throw Error(ErrorCode::kModelInvalid, whole->file + ": tensor " + nameText(whole->name) + " is there beside " +
                                                  nameText(name + kIntegers) + "; a matrix is quantised or not");
      }
      reader_.readQuantized(name, shape, rows, columns, matrix.quantization, matrix.granule, quantized_, ownership);
      read_.insert({name + kIntegers, name + kScales});
      return;
    }
    floats_.resize(static_cast<size_t>(rows.size() * columns.size()));
    reader_.readMatrix(name + ".weight", shape, rows, columns, DataType::kF32, bytesAt(floats_.data()), ownership);
    quantize(matrix, name + ".weight", rows, columns);
  }

  /// floats_, which are `rows` and `columns` of a tensor, as integers and scales.
  void quantize(const WeightMatrix& matrix, const std::string& tensor, Range rows, Range columns) {
    const int64_t groups = groupCount(columns.size(), matrix.granule);
    quantized_.values.resize(floats_.size());
    quantized_.scales.resize(static_cast<size_t>(rows.size() * groups));
    for (int64_t row = 0; row < rows.size(); ++row) {
      const std::span<const float> values(floats_.data() + row * columns.size(), static_cast<size_t>(columns.size()));
      const int64_t bad =
          quantizeRow(matrix.quantization, values, matrix.granule, quantized_.values.data() + row * columns.size(),
                      quantized_.scales.data() + row * groups);
      require(bad < 0, ErrorCode::kModelInvalid,
              "tensor " + nameText(tensor) + ": the value of row " + std::to_string(rows.begin + row) + ", column " +
                  std::to_string(columns.begin + bad) + " cannot be quantised: it is NaN, infinite or too large");
    }
  }

  void packTiedHead(const WeightMatrix& matrix, const std::byte* rows) {
    const auto rowBytes = static_cast<int64_t>(bytesOf(model_.weightType)) * matrix.depth;
    const int64_t batch = std::max<int64_t>(1, static_cast<int64_t>(kLoadStagingBytes) / (3 * rowBytes));
    for (int64_t row = 0; row < matrix.columns; row += batch) {
      const int64_t count = std::min(batch, matrix.columns - row);
      floats_.resize(static_cast<size_t>(count * matrix.depth));
      convertElements(model_.weightType, rows + row * rowBytes, DataType::kF32, bytesAt(floats_.data()),
                      floats_.size());
      const int64_t firstRow = shard_.vocabRows.begin + row;
      quantize(matrix, names_.embedding + ".weight", {firstRow, firstRow + count}, {0, matrix.depth});
      packer_.packQuantized(matrix, row, count, quantized_.values.data(), quantized_.scales.data());
    }
  }

  void refuseUnread() const {
    for (const auto& [name, tensor] : reader_.source().tensors()) {
      const bool part = name.ends_with(kIntegers) || name.ends_with(kScales);
      require(!part || read_.contains(name), ErrorCode::kModelInvalid,
              tensor.file + ": tensor " + nameText(name) + " belongs to no matrix of the model that is quantised");
    }
  }

  const ModelSpec& model_;
  const ShardSpec& shard_;
  const WeightPacker& packer_;
  WeightReader& reader_;
  const ByWeightPart<bool> wanted_;
  ByWeightPart<LoadAccounting> accounting_;
  const TensorNames names_;
  bool filesQuantized_ = false;
  std::set<std::string> read_;  // parts of quantised matrices
  std::vector<std::byte> staging_;
  std::vector<float> floats_;
  QuantizedRows quantized_;
};

}  // namespace

ByWeightPart<LoadAccounting> loadWeightParts(const ModelSpec& model, const ShardSpec& shard, const WeightPacker& packer,
                                             WeightReader& reader, const ModelWeights& weights,
                                             const ByWeightPart<bool>& wanted) {
  return Loader(model, shard, packer, reader, wanted).load(weights);
}

}  // namespace hels
