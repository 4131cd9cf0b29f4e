// Products with quantised weights: bit for bit the chains that chain_tile.h defines, however they are cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "model/quantize.h"

namespace hels {
namespace {

std::vector<float> randomValues(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<Isa> isas() {
  std::vector<Isa> supported;
  for (const Isa isa : kIsas) {
    if (isaSupported(isa)) supported.push_back(isa);
  }
  return supported;
}

struct Packed {
  std::vector<std::byte> data;
  WeightMatrix matrix;
};

/// W(columns, depth) in integers and scales.
struct Weights {
  Quantization quantization;
  int64_t columns, depth, granule, groups;
  std::vector<int8_t> values;
  std::vector<uint16_t> scales;

  Weights(Quantization kind, int64_t n, int64_t k, int64_t g)
      : quantization(kind), columns(n), depth(k), granule(g), groups(groupCount(k, g)) {
    const std::vector<float> exact = randomValues(n * k, 5);
    values.resize(static_cast<size_t>(n * k));
    scales.resize(static_cast<size_t>(n * groups));
    for (int64_t row = 0; row < n; ++row) {
      EXPECT_EQ(quantizeRow(kind, std::span(exact).subspan(static_cast<size_t>(row * k), static_cast<size_t>(k)), g,
                            values.data() + row * k, scales.data() + row * groups),
                -1);
    }
  }

  /// Columns [begin, end), inputs [depthBegin, depthEnd), which are ends of granules, packed in uneven batches.
  Packed pack(const Gemm& gemm, Inputs inputs, int64_t begin, int64_t end, int64_t depthBegin, int64_t depthEnd) const {
    Packed packed;
    const int64_t inner = depthEnd - depthBegin;
    packed.matrix = {DataType::kBf16, end - begin, inner, nullptr, inputs, quantization, granule};
    packed.data.resize(gemm.packedBytes(packed.matrix));
    packed.matrix.data = packed.data.data();
    const int64_t firstGroup = groupCount(depthBegin, granule);
    const int64_t sliceGroups = groupCount(inner, granule);
    for (int64_t column = begin; column < end;) {
      const int64_t count = std::min<int64_t>(1 + column % 23, end - column);
      std::vector<int8_t> sliceValues;
      std::vector<uint16_t> sliceScales;
      for (int64_t row = column; row < column + count; ++row) {
        const auto value = values.begin() + row * depth + depthBegin;
        sliceValues.insert(sliceValues.end(), value, value + inner);
        const auto scale = scales.begin() + row * groups + firstGroup;
        sliceScales.insert(sliceScales.end(), scale, scale + sliceGroups);
      }
      gemm.packQuantized(packed.matrix, column - begin, count, sliceValues.data(), sliceScales.data());
      column += count;
    }
    return packed;
  }

  /// The chain of one column over the groups of [begin, end), which begins at a granule; `terms` of inputs(depth).
  float chain(const std::vector<const float*>& terms, int64_t column, int64_t begin, int64_t end) const {
    const uint16_t* scale = scales.data() + column * groups + groupCount(begin, granule);
    float chain = 0;
    for (int64_t k = begin; k < end; ++scale) {
      const int64_t count = groupInputs(k, depth, granule);
      const int8_t* integers = values.data() + column * depth + k;
      for (const float* inputs : terms) {
        float sums[2] = {};
        for (int64_t i = 0; i < count; ++i) {
          sums[i & 1] += inputs[k + i] * static_cast<float>(integers[i]);  // 8 by 8 bits: exact, so rounded once
        }
        chain = std::fma(f16ToF32(*scale), sums[0] + sums[1], chain);
      }
      k += count;
    }
    return chain;
  }
};

/// Rows of inputs as the bf16 terms that products take.
class Terms {
 public:
  Terms(Inputs inputs, const std::vector<float>& x, int64_t depth) : depth_(depth) {
    std::vector<float> rest = x;
    for (int term = 0; term < (inputs == Inputs::kTwoBf16 ? 2 : 1); ++term) {
      std::vector<float>& values = terms_.emplace_back();
      for (float& value : rest) {
        values.push_back(bf16ToF32(f32ToBf16(value)));
        value -= values.back();
      }
    }
  }
  std::vector<const float*> ofRow(int64_t row) const {
    std::vector<const float*> rows;
    for (const std::vector<float>& term : terms_) rows.push_back(term.data() + row * depth_);
    return rows;
  }

 private:
  int64_t depth_;
  std::vector<std::vector<float>> terms_;
};

std::vector<float> multiply(Gemm& gemm, const Packed& packed, const std::vector<float>& x, int64_t rows) {
  const WeightMatrix& matrix = packed.matrix;
  const int64_t stride = roundUp(matrix.columns, kColumnPadding);
  std::vector<float> y(static_cast<size_t>(rows * stride));
  gemm.multiply(matrix, x.data(), matrix.depth, rows, y.data(), stride);
  std::vector<float> dense;
  for (int64_t row = 0; row < rows; ++row) {
    dense.insert(dense.end(), y.begin() + row * stride, y.begin() + row * stride + matrix.columns);
  }
  return dense;
}

struct Form {
  Quantization quantization;
  Inputs inputs;
};

class QuantizedGemms : public testing::TestWithParam<Form> {};

TEST_P(QuantizedGemms, EqualsPlainChains) {
  const auto [quantization, inputs] = GetParam();
  struct Shape {
    int64_t depth, granule;
  };
  for (const auto& [depth, granule] : {Shape{1, 1}, {37, 37}, {96, 32}, {704, 352}, {54, 54}, {300, 300}}) {
    const Weights weights(quantization, 150, depth, granule);
    const std::vector<float> x = randomValues(35 * depth, 3);
    const Terms terms(inputs, x, depth);
    std::vector<float> expected;
    for (int64_t row = 0; row < 35; ++row) {
      for (int64_t column = 0; column < 150; ++column) {
        expected.push_back(weights.chain(terms.ofRow(row), column, 0, depth));
      }
    }
    for (const Isa isa : isas()) {
      const auto gemm = makeChainGemm(2, isa);
      const Packed packed = weights.pack(*gemm, inputs, 0, 150, 0, depth);
      for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 35}) {
        if (isa == Isa::kPortable && rows > 3) continue;  // its tiles are one row high: weights as they are, or widened
        const std::vector<float> y = multiply(*gemm, packed, x, rows);
        ASSERT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0)
            << isaName(isa) << " rows " << rows << " depth " << depth << " granule " << granule;
      }
    }
  }
}

TEST_P(QuantizedGemms, SlicesOfColumnsAndGranulesKeepTheBits) {
  const auto [quantization, inputs] = GetParam();
  const int64_t granule = 40;
  const int64_t depth = 3 * granule + 26;  // the last granule is shorter
  const Weights weights(quantization, 77, depth, granule);
  const Weights one(quantization, 77, depth, depth);
  const std::vector<float> x = randomValues(70 * depth, 6);
  const Terms terms(inputs, x, depth);
  std::vector<int64_t> sumsOfGranules;
  for (int64_t row = 0; row < 70; ++row) {
    for (int64_t column = 0; column < 77; ++column) {
      int64_t sum = 0;
      for (int64_t k = 0; k < depth; k += granule) {
        const float partial = weights.chain(terms.ofRow(row), column, k, std::min(depth, k + granule));
        sum += static_cast<int64_t>(std::nearbyint(static_cast<double>(partial) * 0x1p32));
      }
      sumsOfGranules.push_back(sum);
    }
  }
  for (const Isa isa : isas()) {
    const auto gemm = makeChainGemm(2, isa);
    for (const int64_t rows : {1, 2, 3, 8, 9, 16, 17, 66, 70}) {
      const std::vector<int64_t> expected(sumsOfGranules.begin(), sumsOfGranules.begin() + rows * 77);
      std::vector<int64_t> sums(expected.size());
      for (const auto& [begin, end] :
           {std::pair<int64_t, int64_t>{0, 2 * granule}, {2 * granule, 2 * granule}, {2 * granule, depth}}) {
        const Packed packed = weights.pack(*gemm, inputs, 0, 77, begin, end);
        std::vector<int64_t> part(sums.size(), 5);
        ASSERT_EQ(gemm->multiplyFixedPoint(packed.matrix, x.data() + begin, depth, rows, granule, part.data(), 77), -1);
        std::ranges::transform(sums, part, sums.begin(), std::plus());
      }
      ASSERT_EQ(sums, expected) << isaName(isa) << " rows " << rows;
      const std::vector<float> all = multiply(*gemm, one.pack(*gemm, inputs, 0, 77, 0, depth), x, rows);
      const std::vector<float> part = multiply(*gemm, one.pack(*gemm, inputs, 21, 60, 0, depth), x, rows);
      for (int64_t row = 0; row < rows; ++row) {
        ASSERT_EQ(std::memcmp(&all[static_cast<size_t>(row * 77 + 21)], &part[static_cast<size_t>(row * 39)],
                              39 * sizeof(float)),
                  0);
      }
    }
  }
}

/// Products and sums around the smallest normal number, zeros of both signs: subnormals count as zero, a block's -0 as
/// +0, whatever the kernels and the rows.
TEST_P(QuantizedGemms, TinyInputsHaveOneSetOfBits) {
  const auto [quantization, inputs] = GetParam();
  const int64_t depth = 108;
  const Weights weights(quantization, 70, depth, depth);
  std::vector<float> x = randomValues(20 * depth, 8);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= i % 7 == 0 ? 0.0F : std::ldexp(1.0F, -133 + static_cast<int>(i % 16));
  const auto portable = makeChainGemm(1, Isa::kPortable);
  const std::vector<float> expected = multiply(*portable, weights.pack(*portable, inputs, 0, 70, 0, depth), x, 20);
  EXPECT_TRUE(std::any_of(expected.begin(), expected.end(), [](float value) { return value != 0; }));
  EXPECT_TRUE(std::any_of(expected.begin(), expected.end(), [](float value) { return value == 0; }));
  for (const Isa isa : isas()) {
    const auto gemm = makeChainGemm(2, isa);
    const Packed packed = weights.pack(*gemm, inputs, 0, 70, 0, depth);
    for (const int64_t rows : {1, 2, 3, 8, 12, 16, 20}) {
      const std::vector<float> y = multiply(*gemm, packed, x, rows);
      ASSERT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0)
          << isaName(isa) << " rows " << rows;
    }
  }
}

TEST_P(QuantizedGemms, RowOutOfRangeIsNamedAndHarmsNoOther) {
  const auto [quantization, inputs] = GetParam();
  const int64_t depth = 96, granule = 32, rows = 10;
  const Weights weights(quantization, 70, depth, granule);
  const std::vector<float> good = randomValues(rows * depth, 8);
  for (const Isa isa : isas()) {
    const auto gemm = makeChainGemm(1, isa);
    const Packed packed = weights.pack(*gemm, inputs, 0, 70, 0, depth);
    const std::vector<float> expected = multiply(*gemm, packed, good, rows);
    for (const float bad : {NAN, INFINITY}) {
      std::vector<float> x = good;
      x[static_cast<size_t>(7 * depth + 40)] = bad;
      std::vector<int64_t> sums(static_cast<size_t>(rows * 70));
      EXPECT_EQ(gemm->multiplyFixedPoint(packed.matrix, x.data(), depth, rows, granule, sums.data(), 70), 7)
          << isaName(isa) << bad;
      std::vector<float> y = multiply(*gemm, packed, x, rows);
      std::copy_n(expected.begin() + 7 * 70, 70, y.begin() + 7 * 70);
      EXPECT_EQ(y, expected) << isaName(isa) << bad;
    }
  }
}

TEST(QuantizedGemm, ColumnsOfOneTermHaveTheBitsOfBf16Inputs) {
  constexpr int64_t kColumns = 150, kOneTerm = 48, kDepth = 108;
  const std::vector<float> x = randomValues(20 * kDepth, 4);
  for (const Quantization quantization : {Quantization::kInt8, Quantization::kInt4}) {
    const Weights weights(quantization, kColumns, kDepth, kDepth);
    for (const Isa isa : isas()) {
      const auto gemm = makeChainGemm(2, isa);
      const Packed two = weights.pack(*gemm, Inputs::kTwoBf16, 0, kColumns, 0, kDepth);
      const Packed one = weights.pack(*gemm, Inputs::kBf16, 0, kColumns, 0, kDepth);
      Packed mixed = weights.pack(*gemm, Inputs::kTwoBf16, 0, kColumns, 0, kDepth);
      mixed.matrix.oneTermColumns = kOneTerm;
      for (const int64_t rows : {1, 3, 8, 20}) {
        std::vector<float> expected = multiply(*gemm, two, x, rows);
        const std::vector<float> narrowed = multiply(*gemm, one, x, rows);
        ASSERT_NE(narrowed, expected);
        for (int64_t row = 0; row < rows; ++row) {
          std::copy_n(narrowed.begin() + row * kColumns, kOneTerm, expected.begin() + row * kColumns);
        }
        EXPECT_EQ(multiply(*gemm, mixed, x, rows), expected) << isaName(isa) << " rows " << rows;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedGemms,
                         testing::Values(Form{Quantization::kInt8, Inputs::kBf16},
                                         Form{Quantization::kInt8, Inputs::kTwoBf16},
                                         Form{Quantization::kInt4, Inputs::kBf16},
                                         Form{Quantization::kInt4, Inputs::kTwoBf16}),
                         [](const auto& info) {
                           return std::string(quantizationName(info.param.quantization)) +
                                  (info.param.inputs == Inputs::kBf16 ? "_pairs" : "_two_terms");
                         });

TEST(QuantizedGemm, TakesAnEighthOrASixteenthMoreThanItsBits) {
  const auto gemm = makeChainGemm(1);
  const auto bytes = [&](Quantization quantization) {
    return gemm->packedBytes({DataType::kBf16, 4096, 2048, nullptr, Inputs::kBf16, quantization, 2048});
  };
  EXPECT_EQ(bytes(Quantization::kInt8), 4096U * 2048 * 17 / 16);
  EXPECT_EQ(bytes(Quantization::kInt4), 4096U * 2048 * 9 / 16);
}

TEST(QuantizedGemm, OneDnnRefusesThem) {
  const int8_t value = 1;
  const uint16_t scale = 0x3c00;
  const WeightMatrix matrix{DataType::kBf16, 1, 1, nullptr, Inputs::kBf16, Quantization::kInt8, 1};
  EXPECT_ANY_THROW(makeOneDnnGemm(1)->packQuantized(matrix, 0, 1, &value, &scale));
}

}  // namespace
}  // namespace hels
