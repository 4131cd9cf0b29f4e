#include "engine/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <set>
#include <vector>

#include "base/error.h"
#include "engine/gumbel.h"
#include "kernels/cpu/activation.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/exponential.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/rope.h"
#include "kv/kv_cache.h"
#include "model/quantize.h"
#include "shard/shard_spec.h"

namespace hels {
namespace {

/// Raised whenever any bit of the exact mode changes; the number of the fixed point's scale and the chunk size are part
/// of it.
constexpr const char* kNumericsVersion = "chain-5";

constexpr int64_t kRows = 64;
constexpr int64_t kColumns = 256;

/// FNV-1a.
class Hash {
 public:
  void add(const void* data, size_t sizeBytes) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < sizeBytes; ++i) value_ = (value_ ^ bytes[i]) * 0x100000001b3ULL;
  }
  template <typename Element>
  void add(const std::vector<Element>& values) {
    add(values.data(), values.size() * sizeof(Element));
  }
  std::string hex() const {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[(value_ >> shift) & 15];
    return text;
  }

 private:
  uint64_t value_ = 0xcbf29ce484222325ULL;
};

/// Fixed values in [-1, 1).
std::vector<float> knownValues(int64_t count, uint64_t seed) {
  const GumbelNoise noise(seed, 0);
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(static_cast<double>(noise.bits(static_cast<int32_t>(i))) * 0x1p-52 - 1.0));
  }
  return values;
}

/// Values in the weights' type, row-major.
std::vector<std::byte> narrowed(const std::vector<float>& values, DataType type) {
  std::vector<std::byte> bytes(values.size() * bytesOf(type));
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == DataType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    } else {
      const uint16_t bits = type == DataType::kBf16 ? f32ToBf16(values[i]) : f32ToF16(values[i]);
      std::memcpy(bytes.data() + 2 * i, &bits, 2);
    }
  }
  return bytes;
}

/// Products with one depth, checked against each other.
class GemmCheck {
 public:
  GemmCheck(DataType type, Inputs inputs, int64_t depth, Gemm& gemm)
      : type_(type),
        inputs_(inputs),
        depth_(depth),
        gemm_(gemm),
        x_(knownValues(kRows * depth, 1)),
        weights_(narrowed(knownValues(kColumns * depth, 2), type)) {}

  void run(bool exact, Hash& hash) {
    const Product whole = product(gemm_, {0, kColumns}, kRows);
    hash.add(whole.values);
    const std::vector<int64_t> sums = fixedPoint(0, depth_);
    if (!exact) return;
    hash.add(sums);
    for (const int64_t rows : {1, 2, 3, 16, 17}) {
      requireSame(whole, product(gemm_, {0, kColumns}, rows), "products of " + std::to_string(rows) + " rows");
    }
    requireSame(whole, product(gemm_, {40, 100}, kRows), "products of a slice of columns");
    requireSame(whole, product(*makeChainGemm(1), {0, kColumns}, kRows), "products of one thread");
    requireSame(whole, product(*makeChainGemm(1, Isa::kPortable), {0, 16}, 2), "products of the portable kernels");
    if (depth_ % (2 * granuleMultiple()) == 0) {
      std::vector<int64_t> halves = fixedPoint(0, depth_ / 2);
      const std::vector<int64_t> second = fixedPoint(depth_ / 2, depth_);
      for (size_t i = 0; i < halves.size(); ++i) halves[i] += second[i];
      require(halves == sums, ErrorCode::kInternal, failure("fixed-point sums over two halves"));
    }
  }

 private:
  struct Packed {
    std::vector<std::byte> data;
    WeightMatrix matrix;
  };

  /// Columns [begin, end), inputs [depthBegin, depthEnd).
  Packed pack(const Gemm& gemm, int64_t begin, int64_t end, int64_t depthBegin, int64_t depthEnd) const {
    Packed packed;
    packed.matrix = {type_, end - begin, depthEnd - depthBegin, nullptr, inputs_};
    packed.data.resize(gemm.packedBytes(packed.matrix));
    packed.matrix.data = packed.data.data();
    for (int64_t column = begin; column < end; ++column) {
      const auto offset = static_cast<size_t>(column * depth_ + depthBegin) * bytesOf(type_);
      gemm.pack(packed.matrix, column - begin, 1, weights_.data() + offset);
    }
    return packed;
  }

  int64_t granuleMultiple() const { return inputs_ == Inputs::kF32 ? 1 : 4; }

  struct Product {
    Range columns;
    int64_t rows = 0;
    int64_t stride = 0;
    std::vector<float> values;
  };

  Product product(Gemm& gemm, Range columns, int64_t rows) const {
    const Packed packed = pack(gemm, columns.begin, columns.end, 0, depth_);
    Product result{columns, rows, roundUp(columns.size(), kColumnPadding), {}};
    result.values.resize(static_cast<size_t>(rows * result.stride));
    gemm.multiply(packed.matrix, x_.data(), depth_, rows, result.values.data(), result.stride);
    return result;
  }

  /// Of inputs [begin, end), in granules of half the depth.
  std::vector<int64_t> fixedPoint(int64_t begin, int64_t end) const {
    const Packed packed = pack(gemm_, 0, kColumns, begin, end);
    std::vector<int64_t> sums(static_cast<size_t>(kRows * kColumns));
    gemm_.multiplyFixedPoint(packed.matrix, x_.data() + begin, depth_, kRows,
                             roundUp(depth_, 2 * granuleMultiple()) / 2, sums.data(), kColumns);
    return sums;
  }

  void requireSame(const Product& whole, const Product& part, const std::string& what) const {
    for (int64_t row = 0; row < part.rows; ++row) {
      const bool same = std::memcmp(whole.values.data() + row * whole.stride + part.columns.begin,
                                    part.values.data() + row * part.stride,
                                    static_cast<size_t>(part.columns.size()) * sizeof(float)) == 0;
      require(same, ErrorCode::kInternal, failure(what));
    }
  }

  std::string failure(const std::string& what) const {
    return "self-check of exact numerics: " + what + " differ from the whole (" + gemm_.implementation() + ", " +
           dataTypeName(type_) + ", depth " + std::to_string(depth_) + "); use numerics: fast on this processor";
  }

  const DataType type_;
  const Inputs inputs_;
  const int64_t depth_;
  Gemm& gemm_;
  const std::vector<float> x_;
  const std::vector<std::byte> weights_;
};

/// Products with quantised weights have the bits of the portable kernels.
void checkQuantized(Quantization quantization, Inputs inputs, int64_t depth, Gemm& gemm, Hash& hash) {
  constexpr int64_t kPanel = 16;
  constexpr int64_t kCopies = 5;  // of a panel side by side: for kernels that take several, and those that take one
  const std::vector<float> x = knownValues(kRows * depth, 1);
  const std::vector<float> exact = knownValues(kPanel * depth, 2);
  std::vector<int8_t> values(exact.size());
  std::vector<uint16_t> scales(static_cast<size_t>(kPanel * groupCount(depth, depth)));
  for (int64_t column = 0; column < kPanel; ++column) {
    const size_t first = static_cast<size_t>(column * depth);
    quantizeRow(quantization, std::span(exact).subspan(first, static_cast<size_t>(depth)), depth, &values[first],
                scales.data() + column * groupCount(depth, depth));
  }
  const auto product = [&](Gemm& by, int64_t copies, std::initializer_list<int64_t> batches) {
    const int64_t columns = copies * kPanel;
    WeightMatrix matrix{DataType::kBf16, columns, depth, nullptr, inputs, quantization, depth};
    std::vector<std::byte> data(by.packedBytes(matrix));
    matrix.data = data.data();
    for (int64_t copy = 0; copy < copies; ++copy) {
      by.packQuantized(matrix, copy * kPanel, kPanel, values.data(), scales.data());
    }
    std::vector<float> y(static_cast<size_t>(kRows * columns));
    for (const int64_t rows : batches) by.multiply(matrix, x.data(), depth, rows, y.data(), columns);
    return y;
  };
  // Fewer rows have other kernels, and leave the rows above them as they are.
  const std::vector<float> y = product(gemm, kCopies, {kRows, 16, 8, 4, 2, 1});
  const std::vector<float> expected = product(*makeChainGemm(1, Isa::kPortable), 1, {kRows});
  for (int64_t panel = 0; panel < kRows * kCopies; ++panel) {
    require(std::equal(y.begin() + panel * kPanel, y.begin() + (panel + 1) * kPanel,
                       expected.begin() + panel / kCopies * kPanel),
            ErrorCode::kInternal,
            std::string("self-check of exact numerics: products with ") + quantizationName(quantization) +
                " weights differ from those in plain C++ (" + gemm.implementation() + ", depth " +
                std::to_string(depth) + ")");
  }
  hash.add(expected);
}

std::vector<float> attentionAnswer(const ModelSpec& model, Isa isa) {
  constexpr int64_t kPositions = 100;  // two chunks, the second in part
  const KvShape kvShape{model.weightType, 1, 1, model.headDim, 16, 7};
  std::vector<std::byte> data(kvShape.sizeBytes());
  KvCache kv(kvShape, data.data());
  const std::vector<int32_t> table{3, 1, 0, 6, 2, 5, 4};
  const std::vector<float> keys = knownValues(kPositions * model.headDim, 3);
  const std::vector<float> values = knownValues(kPositions * model.headDim, 4);
  for (int64_t position = 0; position < kPositions; ++position) {
    kv.store(0, 0, table[static_cast<size_t>(position / 16)], position % 16, keys.data() + position * model.headDim,
             values.data() + position * model.headDim);
  }
  const std::vector<float> queries = knownValues(kAttentionRowsMax * model.headDim, 5);
  std::vector<float> outputs(queries.size());
  std::vector<float> workspace(attentionWorkspaceFloats(model.headDim));
  AttentionRows rows;
  rows.count = kAttentionRowsMax;
  for (int row = 0; row < rows.count; ++row) {
    rows.queries[row] = queries.data() + row * model.headDim;
    rows.outputs[row] = outputs.data() + row * model.headDim;
    rows.positions[row] = 40 + 8 * row;
  }
  AttentionShape shape;
  shape.headDim = model.headDim;
  shape.window = 50;
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(model.headDim)));
  attend(shape, kv.blocks(0, 0, table.data()), rows, workspace.data(), isa);
  return outputs;
}

void addOtherKernels(const ModelSpec& model, bool exact, Hash& hash) {
  const std::vector<float> attention = attentionAnswer(model, bestIsa());
  require(!exact || attention == attentionAnswer(model, Isa::kPortable), ErrorCode::kInternal,
          "self-check of exact numerics: attention differs from the portable kernels");
  hash.add(attention);
  std::vector<float> values = knownValues(1000, 6);
  for (float& value : values) value *= 90.0F;
  for (const float value : values) {
    const float result = expF32(value);
    hash.add(&result, sizeof(result));
  }
  silu(values.data(), nullptr, static_cast<int64_t>(values.size()), bestIsa());
  hash.add(values);
  const std::vector<float> ones(values.size(), 1.0F);
  rmsNorm(values.data(), ones.data(), static_cast<int64_t>(values.size()), model.normEpsilon, values.data());
  layerNorm(values.data(), ones.data(), ones.data(), static_cast<int64_t>(values.size()), model.normEpsilon,
            values.data());
  hash.add(values);
  if (model.position == PositionEncoding::kRope) {  // cosines come from the C library
    const std::vector<float> frequencies = ropeFrequencies(model);
    std::vector<float> row(static_cast<size_t>(model.headDim));
    for (int64_t position = 0; position < model.maxPositions; position += 1 + model.maxPositions / 1024) {
      fillRopeRow(frequencies, position, row.data());
      hash.add(row);
    }
  }
  for (int64_t position = 0; position < 1000; ++position) {
    const double noise = GumbelNoise::value(GumbelNoise(7, position).bits(11));
    hash.add(&noise, sizeof(noise));
  }
}

}  // namespace

std::string selfCheck(const ModelSpec& model, const EngineOptions& options, Gemm& gemm) {
  const bool exact = options.numerics == Numerics::kExact;
  std::set<int64_t> depths{model.hiddenSize, model.queryHeadsPerGroup * model.headDim, model.ffnGranule,
                           model.embeddingSize};
  Hash hash;
  for (const int64_t depth : depths) {
    GemmCheck(model.weightType, Inputs::kF32, depth, gemm).run(exact, hash);
    if (model.weightType != DataType::kBf16) continue;
    GemmCheck(model.weightType, Inputs::kBf16, depth, gemm).run(exact, hash);
    GemmCheck(model.weightType, Inputs::kTwoBf16, depth, gemm).run(exact, hash);
  }
  if (model.quantization != Quantization::kNone) {
    for (const int64_t depth : depths) {
      for (const Inputs inputs : {Inputs::kTwoBf16, Inputs::kBf16}) {
        for (const Quantization quantization : std::set{model.quantization, Quantization::kInt8}) {  // int8: the head
          checkQuantized(quantization, inputs, depth, gemm, hash);
        }
      }
    }
  }
  addOtherKernels(model, exact, hash);
  const std::string numerics = exact ? std::string(kNumericsVersion) : "fast-1/" + gemm.implementation();
  const std::string weights =
      model.quantization == Quantization::kNone ? dataTypeName(model.weightType) : quantizationName(model.quantization);
  return numerics + "/" + weights + ":" + hash.hex();
}

}  // namespace hels
