// The element-wise CUDA kernels against the CPU's, and sampling on the device against sampling on the host, to the bit.
// Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <bit>
#include <climits>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "engine/sampling.h"
#include "kernels/cpu/activation.h"
#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/norm.h"
#include "kernels/cuda/activation.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/twins/elementwise.h"

namespace hels::cuda {
namespace {

std::vector<float> randomValues(int64_t count, uint64_t seed, float deviation = 1.0F) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

template <typename Element>
DeviceBuffer upload(const std::vector<Element>& values) {
  DeviceBuffer buffer(values.size() * sizeof(Element), "test");
  check(cudaMemcpy(buffer.data(), values.data(), buffer.sizeBytes(), cudaMemcpyHostToDevice), "upload");
  return buffer;
}

template <typename Element>
std::vector<Element> download(const DeviceBuffer& buffer) {
  check(cudaDeviceSynchronize(), "kernel");
  std::vector<Element> values(buffer.sizeBytes() / sizeof(Element));
  check(cudaMemcpy(values.data(), buffer.data(), buffer.sizeBytes(), cudaMemcpyDeviceToHost), "download");
  return values;
}

DeviceBuffer filled(size_t sizeBytes) {
  DeviceBuffer buffer(sizeBytes, "test");
  check(cudaMemset(buffer.data(), 0x11, sizeBytes), "fill");
  return buffer;
}

float widened(DataType type, const std::vector<std::byte>& bytes, size_t i) {
  if (type == DataType::kF32) return reinterpret_cast<const float*>(bytes.data())[i];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(bytes.data())[i];
  return type == DataType::kBf16 ? bf16ToF32(bits) : f16ToF32(bits);
}
float rounded(DataType type, float value) {
  if (type == DataType::kF32) return value;
  return type == DataType::kBf16 ? bf16ToF32(f32ToBf16(value)) : f16ToF32(f32ToF16(value));
}
std::vector<uint16_t> narrowed(DataType type, const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(type == DataType::kBf16 ? f32ToBf16(value) : f32ToF16(value));
  return bits;
}

class ResidualStream : public testing::TestWithParam<std::tuple<DataType, RowNorm, int64_t>> {
 protected:
  static constexpr int64_t kTokens = 5;

  std::vector<float> expectedRow(const float* x, const std::vector<float>& weight, const std::vector<float>& bias) {
    const auto columns = static_cast<int64_t>(weight.size());
    std::vector<float> y(x, x + columns);
    if (norm() == RowNorm::kRms) rmsNorm(x, weight.data(), columns, 1e-5, y.data());
    if (norm() == RowNorm::kLayer) layerNorm(x, weight.data(), bias.data(), columns, 1e-5, y.data());
    return y;
  }
  DataType type() const { return std::get<0>(GetParam()); }
  RowNorm norm() const { return std::get<1>(GetParam()); }
};

TEST_P(ResidualStream, AddsSumsAndNormalizesAsTheCpu) {
  const int64_t columns = std::get<2>(GetParam());
  const int64_t stride = columns + 3;
  const std::vector<float> before = randomValues(kTokens * stride, 1);
  const std::vector<float> added = randomValues(kTokens * columns, 2);
  const std::vector<float> bias = randomValues(columns, 3);
  const std::vector<float> weight = randomValues(columns, 4);
  const std::vector<float> normBias = randomValues(columns, 5);
  std::vector<int64_t> sums;
  for (const float value : added) sums.push_back(toFixedPoint(value));
  for (const bool stays : {false, true}) {
    const DeviceBuffer residual = upload(before);
    const DeviceBuffer deviceSums = upload(sums);
    const DeviceBuffer deviceBias = upload(bias);
    const DeviceBuffer deviceWeight = upload(weight);
    const DeviceBuffer deviceNormBias = upload(normBias);
    const std::vector<int32_t> order{3, 0, 4};
    const DeviceBuffer tokens = upload(order);
    const DeviceBuffer output = filled(order.size() * static_cast<size_t>(stride) * bytesOf(type()));
    ResidualStep step;
    step.residual = residual.as<float>();
    step.stride = step.outputStride = stride;
    step.columns = columns;
    step.sums = deviceSums.as<int64_t>();
    step.bias = deviceBias.as<float>();
    step.norm = norm();
    step.weight = deviceWeight.as<float>();
    step.normBias = deviceNormBias.as<float>();
    step.epsilon = 1e-5;
    step.normStays = stays;
    step.output = output.data();
    step.outputType = type();
    step.tokens = tokens.as<int32_t>();
    step.rows = static_cast<int64_t>(order.size());
    advanceResidual(step, nullptr);
    const std::vector<float> after = download<float>(residual);
    const std::vector<std::byte> results = download<std::byte>(output);
    for (int64_t token = 0; token < kTokens; ++token) {
      const auto at = std::find(order.begin(), order.end(), token);
      std::vector<float> row(before.begin() + token * stride, before.begin() + token * stride + columns);
      if (at == order.end()) {
        for (int64_t i = 0; i < columns; ++i)
          ASSERT_EQ(after[static_cast<size_t>(token * stride + i)], row[static_cast<size_t>(i)]);
        continue;
      }
      for (int64_t i = 0; i < columns; ++i) {
        const auto column = static_cast<size_t>(i);
        row[column] += fromFixedPoint(sums[static_cast<size_t>(token * columns + i)]) + bias[column];
      }
      const std::vector<float> expected = expectedRow(row.data(), weight, normBias);
      for (int64_t i = 0; i < columns; ++i) {
        const auto column = static_cast<size_t>(i);
        const auto kept = after[static_cast<size_t>(token * stride + i)];
        const float tolerance = 1e-6F * (1.0F + std::fabs(expected[column]));
        ASSERT_NEAR(kept, stays ? expected[column] : row[column], stays ? tolerance : 0.0F) << token << ", " << i;
        const float result = widened(type(), results, static_cast<size_t>((at - order.begin()) * stride + i));
        const float unit = type() == DataType::kF32 ? 0.0F : type() == DataType::kBf16 ? 0.008F : 0.001F;
        ASSERT_NEAR(result, rounded(type(), expected[column]), tolerance + unit * std::fabs(expected[column]))
            << token << ", " << i;
      }
    }
  }
}

TEST_P(ResidualStream, AgreesWithItsTwin) {
  const int64_t columns = std::get<2>(GetParam());
  const std::vector<float> before = randomValues(columns, 1);
  const std::vector<float> bias = randomValues(columns, 3);
  const std::vector<float> weight = randomValues(columns, 4);
  std::vector<int64_t> sums;
  for (const float value : randomValues(columns, 2)) sums.push_back(toFixedPoint(value));
  const DeviceBuffer residual = upload(before);
  const DeviceBuffer deviceSums = upload(sums);
  const DeviceBuffer deviceBias = upload(bias);
  const DeviceBuffer deviceWeight = upload(weight);
  const DeviceBuffer output = filled(static_cast<size_t>(columns) * bytesOf(type()));
  ResidualStep step;
  step.residual = residual.as<float>();
  step.stride = step.outputStride = step.columns = columns;
  step.sums = deviceSums.as<int64_t>();
  step.bias = deviceBias.as<float>();
  step.norm = norm();
  step.weight = deviceWeight.as<float>();
  step.normBias = deviceBias.as<float>();
  step.epsilon = 1e-6;
  step.output = output.data();
  step.outputType = type();
  step.rows = 1;
  advanceResidual(step, nullptr);
  const twins::ResidualRow expected = twins::advancedRow(before, sums, bias, norm(), weight, bias, 1e-6, false);
  const std::vector<float> after = download<float>(residual);
  const std::vector<std::byte> results = download<std::byte>(output);
  const double unit = type() == DataType::kF32 ? 0.0 : type() == DataType::kBf16 ? 0x1p-8 : 0x1p-11;
  for (size_t i = 0; i < after.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(after[i]), expected.residual[i], 2e-6) << i;
    ASSERT_NEAR(static_cast<double>(widened(type(), results, i)), expected.output[i],
                2e-5 + unit * std::abs(expected.output[i]))
        << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Norms, ResidualStream,
                         testing::Combine(testing::Values(DataType::kF32, DataType::kBf16, DataType::kF16),
                                          testing::Values(RowNorm::kCopy, RowNorm::kRms, RowNorm::kLayer),
                                          testing::Values(20, 300, 9001)));

TEST(Activate, HasTheBitsOfTheCpu) {
  for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
    for (const bool gated : {false, true}) {
      for (const ActivationKind kind : {ActivationKind::kSilu, ActivationKind::kRelu}) {
        const int64_t rows = 3;
        const int64_t columns = 77;
        const int64_t inputs = gated ? 2 * columns : columns;
        std::vector<float> input = randomValues(rows * inputs, 6, 20.0F);
        input[5] = 95.0F;
        input[6] = -95.0F;
        const std::vector<float> bias = randomValues(inputs, 7);
        const DeviceBuffer deviceInput = upload(input);
        const DeviceBuffer deviceBias = upload(bias);
        const DeviceBuffer output(static_cast<size_t>(rows * 80) * bytesOf(type), "test");
        activate({kind, gated, deviceInput.as<float>(), inputs, deviceBias.as<float>(), columns, rows, output.data(),
                  80, type},
                 nullptr);
        const std::vector<std::byte> results = download<std::byte>(output);
        for (int64_t row = 0; row < rows; ++row) {
          std::vector<float> expected(input.begin() + row * inputs, input.begin() + (row + 1) * inputs);
          for (size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i];
          const float* factors = gated ? expected.data() + columns : nullptr;
          if (kind == ActivationKind::kSilu) {
            silu(expected.data(), factors, columns, bestIsa());
          } else {
            relu(expected.data(), factors, columns);
          }
          for (int64_t i = 0; i < columns; ++i) {
            ASSERT_EQ(widened(type, results, static_cast<size_t>(row * 80 + i)),
                      rounded(type, expected[static_cast<size_t>(i)]))
                << row << ", " << i;
          }
        }
      }
    }
  }
}

TEST(Activate, AgreesWithItsTwin) {
  const std::vector<float> input = randomValues(2 * 50, 12, 8.0F);
  const std::vector<float> bias = randomValues(2 * 50, 13);
  const DeviceBuffer deviceInput = upload(input);
  const DeviceBuffer deviceBias = upload(bias);
  const DeviceBuffer output(50 * sizeof(float), "test");
  for (const ActivationKind kind : {ActivationKind::kSilu, ActivationKind::kRelu}) {
    activate(
        {kind, true, deviceInput.as<float>(), 100, deviceBias.as<float>(), 50, 1, output.data(), 50, DataType::kF32},
        nullptr);
    const std::vector<double> expected = twins::activatedRow(kind, true, input, bias);
    const std::vector<float> results = download<float>(output);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(static_cast<double>(results[i]), expected[i], 1e-6 * (1.0 + std::abs(expected[i]))) << i;
    }
  }
}

TEST(Embed, TakesRowsByTokenAndByWhatWasSampled) {
  const int64_t columns = 37;
  const std::vector<float> table = randomValues(11 * columns, 8);
  const DeviceBuffer ids = upload(std::vector<int32_t>{4, -3, 10, 0});  // the second: what slot 2 has sampled
  const DeviceBuffer sampled = upload(std::vector<int32_t>{1, 1, 7, 1});
  const DeviceBuffer positions = upload(std::vector<int32_t>{0, 3, 1, 2});
  const int32_t tokens[] = {4, 7, 10, 0};
  const int32_t places[] = {2, 5, 3, 4};
  for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
    const DeviceBuffer deviceTable = type == DataType::kF32 ? upload(table) : upload(narrowed(type, table));
    const DeviceBuffer residual(4 * 40 * sizeof(float), "test");
    const DeviceBuffer gathered(4 * 40 * bytesOf(type), "test");
    const Embedding embedding{type, deviceTable.data(), columns, ids.as<int32_t>(), sampled.as<int32_t>(), 4};
    embedTokens(embedding, residual.as<float>(), 40, nullptr);
    addPositions(type, deviceTable.data(), columns, positions.as<int32_t>(), 2, 4, residual.as<float>(), 40, nullptr);
    gatherEmbedding(embedding, gathered.data(), 40, nullptr);
    const std::vector<float> rows = download<float>(residual);
    const std::vector<std::byte> copies = download<std::byte>(gathered);
    for (int64_t row = 0; row < 4; ++row) {
      for (int64_t i = 0; i < columns; ++i) {
        const float expected = rounded(type, table[static_cast<size_t>(tokens[row] * columns + i)]);
        const float position = rounded(type, table[static_cast<size_t>(places[row] * columns + i)]);
        ASSERT_EQ(rows[static_cast<size_t>(row * 40 + i)], expected + position);
        ASSERT_EQ(widened(type, copies, static_cast<size_t>(row * 40 + i)), expected);
      }
    }
  }
}

TEST(Elementwise, NarrowsAndCounts) {
  const std::vector<float> values = randomValues(6 * 9, 9);
  const DeviceBuffer source = upload(values);
  const DeviceBuffer output(6 * 16 * sizeof(uint16_t), "test");
  narrowRows(source.as<float>(), 9, 6, 7, DataType::kBf16, output.data(), 16, nullptr);
  const std::vector<std::byte> results = download<std::byte>(output);
  for (size_t row = 0; row < 6; ++row) {
    for (size_t i = 0; i < 7; ++i) {
      ASSERT_EQ(widened(DataType::kBf16, results, row * 16 + i), rounded(DataType::kBf16, values[row * 9 + i]));
    }
  }
  std::vector<float> partials = randomValues(4 * 5, 10);
  partials[7] = NAN;
  partials[16] = 0x1p24F;
  const DeviceBuffer devicePartials = upload(partials);
  const DeviceBuffer sums(partials.size() * sizeof(int64_t), "test");
  const DeviceBuffer bad = upload(std::vector<int32_t>{INT_MAX});
  fixedPointRows(devicePartials.as<float>(), 4, 5, sums.as<int64_t>(), bad.as<int32_t>(), nullptr);
  EXPECT_EQ(download<int32_t>(bad)[0], 1);
  EXPECT_EQ(download<int64_t>(sums)[3], toFixedPoint(partials[3]));
}

TEST(Elementwise, MadeUpValuesAreSpread) {
  const int64_t count = 20000;
  const DeviceBuffer values(static_cast<size_t>(count) * sizeof(float), "test");
  fillRandom(DataType::kF32, values.data(), count, 0.5F, 3, nullptr);
  double sum = 0.0;
  double squares = 0.0;
  for (const float value : download<float>(values)) {
    ASSERT_LE(std::fabs(value), 0.5F);
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  EXPECT_NEAR(sum / static_cast<double>(count), 0.0, 0.01);
  EXPECT_NEAR(squares / static_cast<double>(count), 0.25 / 3, 0.003);
}

struct Rows {
  int64_t columns = 0;
  std::vector<float> logits;
  std::vector<SampleRequest> requests;
  int32_t firstToken = 0;
};

/// The slots of one rank among `ranks`.
std::vector<int64_t> slotsOf(const Rows& rows, int64_t rank, int64_t ranks) {
  const auto count = static_cast<int64_t>(rows.requests.size());
  const DeviceBuffer logits = upload(rows.logits);
  const DeviceBuffer requests = upload(rows.requests);
  const DeviceBuffer slots = filled(static_cast<size_t>(count * ranks * kSlotValues) * sizeof(int64_t));
  const DeviceBuffer workspace(samplingWorkspaceBytes(count, rows.columns), "test");
  Sampling sampling{logits.as<float>(),           rows.columns, count, rows.columns, rows.firstToken,
                    requests.as<SampleRequest>(), true,         rank,  ranks,        slots.as<int64_t>()};
  sampleCandidates(sampling, workspace.data(), nullptr);
  return download<int64_t>(slots);
}

TEST(SampleCandidates, AreThoseOfTheHostToTheBit) {
  for (const int64_t columns : {1, 50, 5000, 9000}) {
    Rows rows{columns, randomValues(6 * columns, static_cast<uint64_t>(columns), 3.0F), {}, 77};
    for (int64_t i = 0; i < columns; ++i)
      rows.logits[static_cast<size_t>(i)] = std::round(rows.logits[static_cast<size_t>(i)]);  // ties
    rows.requests = {{0, 1, 0.0F, 0},        {5, 9, 1.0F, 3},  {6, 10, 0.01F, 1},
                     {7, 100000, 100.0F, 2}, {8, 4, 0.7F, -1}, {~0ULL, 1, 0.0F, 9}};
    const std::vector<int64_t> slots = slotsOf(rows, 1, 3);
    for (size_t row = 0; row < rows.requests.size(); ++row) {
      const SampleRequest& request = rows.requests[row];
      const SamplingParameters parameters{request.temperature, 1.0F, 0, request.seed, -1};
      const Candidate expected = bestCandidate(rows.logits.data() + static_cast<int64_t>(row) * columns, columns, 77,
                                               parameters, request.position);
      const int64_t* slot = slots.data() + row * 3 * kSlotValues;
      for (const int other : {0, 2}) {
        EXPECT_EQ(slot[other * kSlotValues], 0);
        EXPECT_EQ(slot[other * kSlotValues + 1], 0);
      }
      if (request.slot < 0) {
        EXPECT_EQ(slot[kSlotValues + 1], 0) << "it does not sample";
        continue;
      }
      EXPECT_EQ(slot[kSlotValues], std::bit_cast<int64_t>(expected.value)) << columns << " columns, row " << row;
      EXPECT_EQ(slot[kSlotValues + 1], expected.tokenId + 1) << columns << " columns, row " << row;
    }
  }
}

TEST(SampleCandidates, NameTheFirstBrokenLogit) {
  Rows rows{6000, randomValues(3 * 6000, 4), {{0, 1, 0.0F, 0}, {5, 9, 1.0F, 3}, {5, 9, 1.0F, 4}}, 10};
  rows.logits[5000] = NAN;
  rows.logits[5999] = -INFINITY;
  rows.logits[6000 + 17] = INFINITY;
  const std::vector<int64_t> slots = slotsOf(rows, 0, 1);
  EXPECT_TRUE(std::isnan(std::bit_cast<double>(slots[0])));
  EXPECT_EQ(slots[1], -(10 + 5000 + 1));
  EXPECT_EQ(std::bit_cast<double>(slots[2]), std::numeric_limits<double>::infinity());
  EXPECT_EQ(slots[3], -(10 + 17 + 1));
  EXPECT_GT(slots[5], 0);
}

TEST(KeepSampled, TakesTheBestOfTheRanks) {
  const auto bits = [](double value) { return std::bit_cast<int64_t>(value); };
  // Three requests, two ranks: the higher value, the lower token of equal ones, and nothing.
  const std::vector<int64_t> values{bits(1.0), 5, bits(2.0), 9, bits(-1.0), 8, bits(-1.0), 3, 0, 0, 0, 0};
  const DeviceBuffer slots = upload(values);
  const DeviceBuffer requests = upload(std::vector<SampleRequest>{{0, 0, 0.0F, 2}, {0, 0, 0.0F, 0}, {0, 0, 0.0F, 1}});
  const DeviceBuffer sampled = upload(std::vector<int32_t>{-1, -1, -1});
  Sampling sampling;
  sampling.rows = 3;
  sampling.requests = requests.as<SampleRequest>();
  sampling.ranks = 2;
  sampling.slots = slots.as<int64_t>();
  keepSampled(sampling, sampled.as<int32_t>(), nullptr);
  EXPECT_EQ(download<int32_t>(sampled), (std::vector<int32_t>{2, -1, 8}));
}

TEST(SampleCandidates, ARankWithoutVocabularyHasNone) {
  Rows rows{0, {0.0F}, {{0, 1, 0.0F, 0}}, 0};
  EXPECT_EQ(slotsOf(rows, 0, 1), (std::vector<int64_t>{0, 0}));
}

}  // namespace
}  // namespace hels::cuda
#endif
