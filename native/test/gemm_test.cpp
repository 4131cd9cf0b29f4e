// The chain GEMM: right, and the same bits however it is cut. oneDNN is the oracle for magnitude, a plain chain for
// bits.
#include "kernels/cpu/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/fixed_point.h"

namespace hels {
namespace {

struct Form {
  DataType type;
  Inputs inputs = Inputs::kF32;
};

constexpr Form kForms[] = {{DataType::kF32},
                           {DataType::kBf16},
                           {DataType::kBf16, Inputs::kBf16},
                           {DataType::kBf16, Inputs::kTwoBf16},
                           {DataType::kF16}};

std::vector<float> randomValues(int64_t count, uint64_t seed, float scale = 1.0F) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// W(columns, depth) in `type`, with its widened values.
struct Weights {
  DataType type;
  Inputs inputs;
  int64_t columns, depth;
  std::vector<float> values;
  std::vector<std::byte> bytes;

  Weights(Form form, int64_t n, int64_t k)
      : type(form.type), inputs(form.inputs), columns(n), depth(k), values(randomValues(n * k, 7)) {
    bytes.resize(values.size() * bytesOf(type));
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t bits = type == DataType::kF16 ? f32ToF16(values[i]) : f32ToBf16(values[i]);
      if (type != DataType::kF32) values[i] = type == DataType::kF16 ? f16ToF32(bits) : bf16ToF32(bits);
      std::memcpy(bytes.data() + i * bytesOf(type),
                  type == DataType::kF32 ? static_cast<const void*>(&values[i]) : &bits, bytesOf(type));
    }
  }
};

struct Packed {
  std::vector<std::byte> data;
  WeightMatrix matrix;
};

/// Columns [begin, end), inputs [depthBegin, depthEnd), packed in uneven batches.
Packed pack(const Gemm& gemm, const Weights& weights, int64_t begin, int64_t end, int64_t depthBegin,
            int64_t depthEnd) {
  Packed packed;
  packed.matrix = {weights.type, end - begin, depthEnd - depthBegin, nullptr, weights.inputs};
  packed.data.resize(gemm.packedBytes(packed.matrix));
  packed.matrix.data = packed.data.data();
  const size_t element = bytesOf(weights.type);
  for (int64_t column = begin; column < end;) {
    const int64_t count = std::min<int64_t>(1 + column % 23, end - column);
    std::vector<std::byte> rows;
    for (int64_t row = column; row < column + count; ++row) {
      const std::byte* source = weights.bytes.data() + static_cast<size_t>(row * weights.depth) * element;
      rows.insert(rows.end(), source + static_cast<size_t>(depthBegin) * element,
                  source + static_cast<size_t>(depthEnd) * element);
    }
    gemm.pack(packed.matrix, column - begin, count, rows.data());
    column += count;
  }
  return packed;
}

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

std::vector<float> multiply(Gemm& gemm, const Weights& weights, int64_t begin, int64_t end, const std::vector<float>& x,
                            int64_t rows) {
  return multiply(gemm, pack(gemm, weights, begin, end, 0, weights.depth), x, rows);
}

float narrow(float value) { return bf16ToF32(f32ToBf16(value)); }

/// Inputs as chains take them: as they are, narrowed, or narrowed and then what narrowing has left of them.
std::vector<std::vector<float>> termsOf(Inputs inputs, const std::vector<float>& x) {
  std::vector<std::vector<float>> terms{x};
  if (inputs != Inputs::kF32) {
    for (float& value : terms[0]) value = narrow(value);
  }
  if (inputs == Inputs::kTwoBf16) {
    terms.emplace_back(x.size());
    for (size_t i = 0; i < x.size(); ++i) terms[1][i] = narrow(x[i] - terms[0][i]);
  }
  return terms;
}

/// Of inputs in bf16, as chain_tile.h defines it; no value of these tests is subnormal.
float blockChain(const std::vector<std::vector<float>>& terms, const float* w, int64_t row, int64_t begin,
                 int64_t end) {
  float sum = 0.0F;
  for (; begin < end; begin += 32) {
    for (const std::vector<float>& term : terms) {
      const float* x = term.data() + row;
      float halves[2] = {};
      for (int64_t k = begin; k < std::min(begin + 32, end); ++k) {
        halves[(k - begin) % 2] = std::fma(x[k], w[k], halves[(k - begin) % 2]);
      }
      sum += halves[0] + halves[1];
    }
  }
  return sum;
}

/// Inputs [begin, end) of the row that begins at element `row` of each of `terms`.
float chain(const Weights& weights, int64_t column, const std::vector<std::vector<float>>& terms, int64_t row,
            int64_t begin, int64_t end) {
  const float* w = weights.values.data() + column * weights.depth;
  if (weights.inputs != Inputs::kF32) return blockChain(terms, w, row, begin, end);
  const float* x = terms[0].data() + row;
  float sum = 0.0F;
  for (int64_t k = begin; k < end; ++k) sum = std::fma(x[k], w[k], sum);
  return sum;
}

std::vector<Isa> isas() {
  std::vector<Isa> supported;
  for (const Isa isa : kIsas) {
    if (isaSupported(isa)) supported.push_back(isa);
  }
  return supported;
}

class GemmForms : public testing::TestWithParam<Form> {};

TEST_P(GemmForms, EveryElementIsItsOwnChain) {
  for (const int64_t depth : {1, 37, 520, 544}) {  // two or three depth blocks; the last of whole blocks of 32
    const Weights weights(GetParam(), 150, depth);
    const std::vector<float> x = randomValues(70 * depth, 3);
    const std::vector<std::vector<float>> terms = termsOf(GetParam().inputs, x);
    std::vector<float> expected;
    for (int64_t row = 0; row < 70; ++row) {
      for (int64_t column = 0; column < 150; ++column) {
        expected.push_back(chain(weights, column, terms, row * depth, 0, depth));
      }
    }
    for (const Isa isa : isas()) {
      for (const int threads : {1, 2}) {
        const auto gemm = makeChainGemm(threads, isa);
        const Packed packed = pack(*gemm, weights, 0, 150, 0, depth);
        for (const int64_t rows : {1, 2, 3, 5, 7, 8, 13, 14, 15, 16, 17, 33, 70}) {
          if (threads == 2 && rows != 16 && rows != 70) continue;  // they share columns, not rows
          if (isa == Isa::kPortable && rows > 3) continue;  // its tiles are one row high: few rows, and more than few
          const std::vector<float> y = multiply(*gemm, packed, x, rows);
          const auto differs = std::ranges::mismatch(y, expected).in1;
          const auto i = differs - y.begin();
          ASSERT_EQ(differs, y.end()) << isaName(isa) << " rows " << rows << " row " << i / 150 << " column " << i % 150
                                      << " depth " << depth << ": " << *differs << " for "
                                      << expected[static_cast<size_t>(i)];
        }
      }
    }
  }
}

TEST(Gemm, ColumnsOfOneTermHaveTheBitsOfBf16InputsAndAllOthersOfTwo) {
  constexpr int64_t kColumns = 150, kOneTerm = 48, kDepth = 200;
  const std::vector<float> x = randomValues(70 * kDepth, 3);
  const Weights weights({DataType::kBf16, Inputs::kTwoBf16}, kColumns, kDepth);
  const Weights narrowed({DataType::kBf16, Inputs::kBf16}, kColumns, kDepth);
  for (const Isa isa : isas()) {
    for (const int64_t rows : {1, 3, 16, 70}) {
      const auto gemm = makeChainGemm(2, isa);
      const std::vector<float> two = multiply(*gemm, weights, 0, kColumns, x, rows);
      const std::vector<float> one = multiply(*gemm, narrowed, 0, kColumns, x, rows);
      ASSERT_NE(one, two);
      Packed packed = pack(*gemm, weights, 0, kColumns, 0, kDepth);
      packed.matrix.oneTermColumns = kOneTerm;
      std::vector<float> expected = two;
      for (int64_t row = 0; row < rows; ++row) {
        std::copy_n(one.begin() + row * kColumns, kOneTerm, expected.begin() + row * kColumns);
      }
      EXPECT_EQ(multiply(*gemm, packed, x, rows), expected) << isaName(isa) << " rows " << rows;
    }
  }
}

TEST(Gemm, SubnormalsCountAsZeroWithBf16InputsOnEveryInstructionSet) {
  constexpr int64_t depth = 64;
  Weights weights({DataType::kBf16, Inputs::kBf16}, 32, depth);
  std::mt19937_64 random(11);
  const auto tiny = [&] {  // products and sums around the smallest normal number
    return static_cast<uint16_t>((random() & 0x807FU) | ((random() % 70) << 7U));
  };
  for (size_t i = 0; i < weights.values.size(); ++i) {
    const uint16_t bits = tiny();
    std::memcpy(weights.bytes.data() + 2 * i, &bits, 2);
  }
  std::vector<float> x(20 * depth);
  for (float& value : x) value = bf16ToF32(tiny()) * 0x1p50F;
  const std::vector<float> expected = multiply(*makeChainGemm(1, Isa::kPortable), weights, 0, 32, x, 20);
  EXPECT_TRUE(std::ranges::any_of(expected, [](float value) { return value != 0.0F; }));
  for (const Isa isa : isas()) {
    const std::vector<float> y = multiply(*makeChainGemm(1, isa), weights, 0, 32, x, 20);
    EXPECT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0) << isaName(isa);
  }
}

TEST_P(GemmForms, LargeProductsOnTwoThreadsKeepTheBits) {
  const Weights weights(GetParam(), 300, 700);
  const std::vector<float> x = randomValues(65 * 700, 4);
  const auto one = makeChainGemm(1);
  const auto two = makeChainGemm(2);
  for (const int64_t rows : {1, 2, 65}) {
    EXPECT_EQ(multiply(*one, weights, 0, 300, x, rows), multiply(*two, weights, 0, 300, x, rows));
  }
  const std::vector<float> whole = multiply(*one, weights, 0, 300, x, 65);
  const std::vector<float> slice = multiply(*two, weights, 33, 250, x, 65);
  for (int64_t row = 0; row < 65; ++row) {
    EXPECT_EQ(std::memcmp(&whole[static_cast<size_t>(row * 300 + 33)], &slice[static_cast<size_t>(row * 217)],
                          217 * sizeof(float)),
              0);
  }
}

/// oneDNN's layout of the weights depends on the columns, and how it is reached on the distance of the rows.
TEST_P(GemmForms, OneDnnAgreesInMagnitude) {
  const double tolerance = GetParam().inputs == Inputs::kBf16 ? 0.5 : 1e-3;
  for (const int64_t columns : {90, 96, 128, 176}) {
    const Weights weights(GetParam(), columns, 200);
    for (const int64_t rows : {1, 9}) {
      for (const int64_t padding : {0, 16}) {
        const int64_t xStride = weights.depth + padding;
        const int64_t yStride = roundUp(columns, kColumnPadding) + padding;
        const std::vector<float> x = randomValues(rows * xStride, 5);
        std::vector<float> ours(static_cast<size_t>(rows * yStride));
        std::vector<float> theirs = ours;
        const auto chains = makeChainGemm(1);
        const auto oneDnn = makeOneDnnGemm(2);
        chains->multiply(pack(*chains, weights, 0, columns, 0, weights.depth).matrix, x.data(), xStride, rows,
                         ours.data(), yStride);
        oneDnn->multiply(pack(*oneDnn, weights, 0, columns, 0, weights.depth).matrix, x.data(), xStride, rows,
                         theirs.data(), yStride);
        for (int64_t i = 0; i < rows * yStride; ++i) {
          if (i % yStride >= columns) continue;
          ASSERT_NEAR(ours[static_cast<size_t>(i)], theirs[static_cast<size_t>(i)], tolerance)
              << columns << " columns, " << rows << " rows, padding " << padding << ", element " << i;
        }
      }
    }
  }
}

TEST_P(GemmForms, FixedPointSumsDoNotDependOnGrouping) {
  const int64_t granule = 24;
  const int64_t depth = 7 * granule + 10;  // the last granule is shorter
  const Weights weights(GetParam(), 45, depth);
  const std::vector<float> x = randomValues(70 * depth, 6);
  const std::vector<std::vector<float>> terms = termsOf(GetParam().inputs, x);
  std::vector<int64_t> all(70 * 45);
  for (int64_t begin = 0; begin < depth; begin += granule) {
    for (int64_t i = 0; i < 70 * 45; ++i) {
      all[static_cast<size_t>(i)] +=
          toFixedPoint(chain(weights, i % 45, terms, i / 45 * depth, begin, std::min(begin + granule, depth)));
    }
  }
  for (const Isa isa : isas()) {
    const auto gemm = makeChainGemm(2, isa);
    for (const int64_t rows : {1, 3, 6, 8, 65, 66, 70}) {
      const std::vector<int64_t> expected(all.begin(), all.begin() + rows * 45);
      std::vector<int64_t> sums(expected.size());
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 3 * granule},
                                       {3 * granule, 3 * granule},
                                       {3 * granule, depth}}) {  // three ranks
        const Packed packed = pack(*gemm, weights, 0, 45, begin, end);
        std::vector<int64_t> part(sums.size(), 5);
        EXPECT_EQ(gemm->multiplyFixedPoint(packed.matrix, x.data() + begin, depth, rows, granule, part.data(), 45), -1);
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += part[i];
      }
      ASSERT_EQ(sums, expected) << isaName(isa) << " rows " << rows;
    }
  }
}

TEST_P(GemmForms, FixedPointNamesTheRowOutOfRange) {
  const int64_t granule = 8;
  const int64_t depth = 2 * granule;
  const Weights weights(GetParam(), 20, depth);
  for (const Isa isa : isas()) {
    const auto gemm = makeChainGemm(1, isa);
    const Packed packed = pack(*gemm, weights, 0, 20, 0, depth);
    for (const float bad : {NAN, INFINITY, -INFINITY, 1e9F}) {
      std::vector<float> x = randomValues(10 * depth, 8);
      x[static_cast<size_t>(7 * depth + 3)] = bad;
      std::vector<int64_t> sums(10 * 20);
      EXPECT_EQ(gemm->multiplyFixedPoint(packed.matrix, x.data(), depth, 10, granule, sums.data(), 20), 7)
          << isaName(isa) << bad;
    }
  }
}

TEST_P(GemmForms, FixedPointNamesTheFirstRowOutOfRange) {
  const int64_t granule = 8;
  const int64_t rows = 150;  // several blocks of rows
  const int64_t columns = 200;
  const Weights weights(GetParam(), columns, 2 * granule);
  std::vector<float> x = randomValues(rows * weights.depth, 8);
  for (const int64_t row : {3, 70, 149}) x[static_cast<size_t>(row * weights.depth)] = NAN;
  x[static_cast<size_t>(2 * weights.depth + granule)] = NAN;  // of the second granule only
  for (const int threads : {1, 2}) {
    std::vector<std::unique_ptr<Gemm>> products;
    for (const Isa isa : isas()) products.push_back(makeChainGemm(threads, isa));
    products.push_back(makeOneDnnGemm(threads));
    for (const auto& gemm : products) {
      const Packed packed = pack(*gemm, weights, 0, columns, 0, weights.depth);
      std::vector<int64_t> sums(static_cast<size_t>(rows * columns));
      EXPECT_EQ(gemm->multiplyFixedPoint(packed.matrix, x.data(), weights.depth, rows, granule, sums.data(), columns),
                2)
          << gemm->implementation() << ", " << threads << " threads";
    }
  }
}

TEST_P(GemmForms, FixedPointWritesItsColumnsOnly) {
  const Weights weights(GetParam(), 20, 16);
  const std::vector<float> x = randomValues(3 * 16, 8);
  for (const auto& [exact, depth] : {std::pair{true, 0}, {true, 16}, {false, 0}, {false, 16}}) {
    const auto gemm = exact ? makeChainGemm(1) : makeOneDnnGemm(1);
    const Packed packed = pack(*gemm, weights, 0, 20, 0, depth);
    std::vector<int64_t> sums(3 * 24, 5), others(3 * 24, 7);
    for (auto* to : {&sums, &others}) gemm->multiplyFixedPoint(packed.matrix, x.data(), 16, 3, 8, to->data(), 24);
    for (size_t i = 0; i < sums.size(); ++i) {
      ASSERT_EQ(sums[i] == others[i], i % 24 < 20) << gemm->implementation() << i;
      ASSERT_TRUE(depth > 0 || i % 24 >= 20 || sums[i] == 0) << gemm->implementation() << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemmForms, testing::ValuesIn(kForms), [](const auto& info) {
  return std::string(dataTypeName(info.param.type)) + (info.param.inputs == Inputs::kBf16      ? "_pairs"
                                                       : info.param.inputs == Inputs::kTwoBf16 ? "_two_terms"
                                                                                               : "");
});

TEST(FixedPoint, RoundsToNearestEvenAndKeepsItsRange) {
  EXPECT_EQ(toFixedPoint(1.0F), int64_t{1} << 32);
  EXPECT_EQ(toFixedPoint(std::ldexp(0.5F, -32)), 0);
  EXPECT_EQ(toFixedPoint(std::ldexp(1.5F, -32)), 2);
  EXPECT_EQ(toFixedPoint(-std::ldexp(2.5F, -32)), -2);
  EXPECT_EQ(fromFixedPoint(toFixedPoint(-0.3F)), -0.3F);
  EXPECT_TRUE(inFixedPointRange(std::nextafter(kFixedPointLimit, 0.0F)));
  EXPECT_FALSE(inFixedPointRange(kFixedPointLimit));
  EXPECT_FALSE(inFixedPointRange(NAN));
}

TEST(FixedPoint, VectorKernelsRoundAsTheDefinition) {
  // Weights of 1 on the diagonal pass chosen values through the whole path.
  std::vector<float> chosen;
  for (int exponent = -45; exponent < 24; ++exponent) {
    for (const float mantissa : {1.0F, 1.5F, 1.25F, 1.9999999F, 1.3333333F}) {
      chosen.push_back(std::ldexp(mantissa, exponent));
      chosen.push_back(-chosen.back());
    }
  }
  for (const Isa isa : isas()) {
    const auto gemm = makeChainGemm(1, isa);
    for (size_t begin = 0; begin + 16 <= chosen.size(); begin += 16) {
      std::vector<float> identity(16 * 16);
      for (size_t i = 0; i < 16; ++i) identity[i * 17] = 1.0F;
      WeightMatrix matrix{DataType::kF32, 16, 16, nullptr};
      std::vector<std::byte> data(gemm->packedBytes(matrix));
      matrix.data = data.data();
      gemm->pack(matrix, 0, 16, reinterpret_cast<const std::byte*>(identity.data()));
      std::vector<int64_t> sums(16);
      ASSERT_EQ(gemm->multiplyFixedPoint(matrix, chosen.data() + begin, 16, 1, 16, sums.data(), 16), -1);
      for (size_t i = 0; i < 16; ++i) EXPECT_EQ(sums[i], toFixedPoint(chosen[begin + i])) << chosen[begin + i];
    }
  }
}

}  // namespace
}  // namespace hels
