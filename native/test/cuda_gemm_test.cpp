// The CUDA product kernels, against f64 and against each other to the bit. Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <climits>
#include <cmath>
#include <random>
#include <vector>

#include "base/cuda/buffer.h"
#include "base/cuda/check.h"
#include "kernels/cuda/gemm.h"
#include "shared_memory_of_a_device.h"

namespace hels::cuda {
namespace {

/// Random values that `type` holds exactly.
struct HostMatrix {
  HostMatrix(DataType type, int64_t rows, int64_t columns, uint64_t seed) : type(type), rows(rows), columns(columns) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * columns; ++i) {
      const float value = normal(random);
      const uint16_t bits = type == DataType::kBf16 ? f32ToBf16(value) : f32ToF16(value);
      values.push_back(type == DataType::kF32 ? value : type == DataType::kBf16 ? bf16ToF32(bits) : f16ToF32(bits));
      narrow.push_back(bits);
    }
  }
  double at(int64_t row, int64_t column) const { return values[static_cast<size_t>(row * columns + column)]; }
  DeviceBuffer upload() const {
    const void* source = type == DataType::kF32 ? static_cast<const void*>(values.data()) : narrow.data();
    DeviceBuffer buffer(values.size() * bytesOf(type), "test");
    check(cudaMemcpy(buffer.data(), source, buffer.sizeBytes(), cudaMemcpyHostToDevice), "upload");
    return buffer;
  }

  DataType type;
  int64_t rows;
  int64_t columns;
  std::vector<float> values;
  std::vector<uint16_t> narrow;
};

template <typename Element>
std::vector<Element> download(const DeviceBuffer& buffer) {
  std::vector<Element> values(buffer.sizeBytes() / sizeof(Element));
  check(cudaMemcpy(values.data(), buffer.data(), buffer.sizeBytes(), cudaMemcpyDeviceToHost), "download");
  return values;
}

std::vector<float> product(const HostMatrix& w, int64_t firstColumn, int64_t columns, const HostMatrix& x,
                           int64_t firstRow, int64_t rows) {
  const DeviceBuffer weights = w.upload();
  const DeviceBuffer inputs = x.upload();
  const DeviceBuffer y(static_cast<size_t>(rows * columns) * sizeof(float), "test");
  const DeviceBuffer workspace(multiplyWorkspaceBytes(rows, columns), "test");
  const auto elementBytes = static_cast<int64_t>(bytesOf(w.type));
  multiply({w.type, columns, w.columns, weights.data() + firstColumn * w.columns * elementBytes},
           {inputs.data() + firstRow * x.columns * elementBytes, x.columns, rows}, y.as<float>(), columns,
           workspace.data(), nullptr);
  check(cudaDeviceSynchronize(), "product");
  return download<float>(y);
}

struct FixedPointResult {
  std::vector<int64_t> sums;
  int32_t badRow;
};

FixedPointResult fixedPointProduct(const HostMatrix& w, const HostMatrix& x, int64_t rows, int64_t granule) {
  const DeviceBuffer weights = w.upload();
  const DeviceBuffer inputs = x.upload();
  const DeviceBuffer sums(static_cast<size_t>(rows * w.rows) * sizeof(int64_t), "test");
  const DeviceBuffer bad(sizeof(int32_t), "test");
  const int32_t none = INT_MAX;
  check(cudaMemcpy(bad.data(), &none, sizeof(none), cudaMemcpyHostToDevice), "upload");
  multiplyFixedPoint({w.type, w.rows, w.columns, weights.data()}, {inputs.data(), x.columns, rows}, granule,
                     sums.as<int64_t>(), w.rows, bad.as<int32_t>(), nullptr);
  check(cudaDeviceSynchronize(), "product");
  return {download<int64_t>(sums), download<int32_t>(bad)[0]};
}

class CudaGemm : public testing::TestWithParam<DataType> {};

TEST_P(CudaGemm, EqualsF64WithinRounding) {
  for (const auto& [columns, depth, rows] : {std::array<int64_t, 3>{40, 264, 3}, {70, 96, 20}, {130, 264, 70}}) {
    const HostMatrix w(GetParam(), columns, depth, 1);
    const HostMatrix x(GetParam(), rows, depth, 2);
    const std::vector<float> y = product(w, 0, columns, x, 0, rows);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        double expected = 0;
        for (int64_t k = 0; k < depth; ++k) expected += x.at(row, k) * w.at(column, k);
        ASSERT_NEAR(y[static_cast<size_t>(row * columns + column)], expected, 1e-4 * std::sqrt(depth))
            << "row " << row << ", column " << column << " of " << rows << " x " << columns;
      }
    }
  }
}

TEST_P(CudaGemm, BitsDoNotDependOnTheRowsOrTheSliceOfColumns) {
  const HostMatrix w(GetParam(), 136, 328, 3);
  const HostMatrix x(GetParam(), 140, 328, 4);
  const std::vector<float> whole = product(w, 0, 136, x, 0, 140);
  for (const int64_t rows : {1, 9, 17, 64}) {
    const int64_t firstRow = 11;
    const int64_t firstColumn = 24;
    const std::vector<float> part = product(w, firstColumn, 72, x, firstRow, rows);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < 72; ++column) {
        ASSERT_EQ(part[static_cast<size_t>(row * 72 + column)],
                  whole[static_cast<size_t>((firstRow + row) * 136 + firstColumn + column)])
            << rows << " rows: row " << row << ", column " << column;
      }
    }
  }
}

TEST_P(CudaGemm, FixedPointSumsAreThoseOfTheGranules) {
  const int64_t granule = 72;
  const HostMatrix w(GetParam(), 72, 5 * granule + 24, 5);
  const HostMatrix x(GetParam(), 130, w.columns, 6);
  const FixedPointResult whole = fixedPointProduct(w, x, 130, granule);
  EXPECT_EQ(whole.badRow, INT_MAX);
  for (const int64_t row : {0, 5, 129}) {
    for (const int64_t column : {0, 17, 71}) {
      double expected = 0;
      for (int64_t k = 0; k < w.columns; ++k) expected += x.at(row, k) * w.at(column, k);
      ASSERT_NEAR(static_cast<double>(whole.sums[static_cast<size_t>(row * 72 + column)]) / 0x1p32, expected, 2e-3);
    }
  }
  for (const int64_t rows : {1, 12, 40}) {
    const FixedPointResult part = fixedPointProduct(w, x, rows, granule);
    for (size_t i = 0; i < part.sums.size(); ++i) ASSERT_EQ(part.sums[i], whole.sums[i]) << rows << " rows, " << i;
  }
}

TEST_P(CudaGemm, APartialOutOfRangeNamesItsRow) {
  const HostMatrix w(GetParam(), 24, 64, 7);
  for (const int64_t rows : {int64_t{4}, int64_t{30}}) {
    HostMatrix x(GetParam(), rows, 64, 8);
    for (const int64_t row : {rows - 1, rows - 2}) {
      const float infinity = INFINITY;
      x.values[static_cast<size_t>(row * 64 + 5)] = infinity;
      x.narrow[static_cast<size_t>(row * 64 + 5)] =
          GetParam() == DataType::kBf16 ? f32ToBf16(infinity) : f32ToF16(infinity);
    }
    EXPECT_EQ(fixedPointProduct(w, x, rows, 32).badRow, rows - 2);
  }
}

TEST_P(CudaGemm, LargePartialsAreSummedExactly) {
  if (GetParam() == DataType::kF32) GTEST_SKIP() << "f32 products convert each partial alike";
  // One product a granule, so that its partial is known: up to 150,000, of both signs, with the smallest steps in
  // between.
  const int64_t granule = 8;
  const int64_t granules = 40;
  for (const int64_t rows : {int64_t{3}, int64_t{20}, int64_t{70}}) {
    HostMatrix w(GetParam(), 24, granule * granules, 9);
    HostMatrix x(GetParam(), rows, granule * granules, 10);
    for (HostMatrix* matrix : {&w, &x}) {
      for (size_t i = 0; i < matrix->values.size(); ++i) {
        const float scale = matrix == &w ? 1.0F : std::ldexp(1.0F, static_cast<int>(i / 8 * 7 % 21) - 6);
        const float value =
            i % 8 == 0 ? std::min(std::abs(matrix->values[i]), 3.0F) * scale * (i % 16 == 0 ? 1 : -1) : 0;
        matrix->narrow[i] = GetParam() == DataType::kBf16 ? f32ToBf16(value) : f32ToF16(value);
        matrix->values[i] = GetParam() == DataType::kBf16 ? bf16ToF32(matrix->narrow[i]) : f16ToF32(matrix->narrow[i]);
      }
    }
    const FixedPointResult result = fixedPointProduct(w, x, rows, granule);
    EXPECT_EQ(result.badRow, INT_MAX);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < 24; ++column) {
        int64_t expected = 0;
        for (int64_t k = 0; k < w.columns; k += granule) {
          const auto partial = static_cast<float>(x.at(row, k) * w.at(column, k));
          expected += static_cast<int64_t>(std::nearbyint(static_cast<double>(partial) * 0x1p32));
        }
        ASSERT_EQ(result.sums[static_cast<size_t>(row * 24 + column)], expected)
            << rows << " rows: " << row << ", " << column;
      }
    }
  }
}

#ifdef HELS_CUDA_EMULATION
/// Of a P100, a T4 and a 3090: less shared memory takes smaller tiles and fewer rows at once.
TEST_P(CudaGemm, BitsDoNotDependOnTheSharedMemoryOfADevice) {
  const HostMatrix w(GetParam(), 136, 328, 3);
  HostMatrix x(GetParam(), 130, 328, 4);
  const auto run = [&](int64_t rows) {
    return std::pair(product(w, 0, w.rows, x, 0, rows), fixedPointProduct(w, x, rows, 72));
  };
  const float infinity = INFINITY;
  for (const int64_t rows : {8, 12, 16, 40, 130}) {
    const auto [y, sums] = run(rows);
    for (const size_t kibibytes : {48, 64, 99}) {
      const test::SharedMemoryOfADevice device(kibibytes * 1024);
      const auto [smallY, smallSums] = run(rows);
      EXPECT_EQ(smallY, y) << rows << " rows, " << kibibytes << " KiB";
      EXPECT_EQ(smallSums.sums, sums.sums) << rows << " rows, " << kibibytes << " KiB";
    }
  }
  x.values[10 * 328 + 5] = infinity;
  x.narrow[10 * 328 + 5] = GetParam() == DataType::kBf16 ? f32ToBf16(infinity) : f32ToF16(infinity);
  const test::SharedMemoryOfADevice smallest(size_t{48} * 1024);
  EXPECT_EQ(fixedPointProduct(w, x, 12, 72).badRow, 10);
}
#endif

TEST(CudaGemmEmpty, ARankWithoutDepthAddsNothing) {
  const DeviceBuffer sums(size_t{6} * sizeof(int64_t), "test");
  multiplyFixedPoint({DataType::kBf16, 3, 0, nullptr}, {nullptr, 8, 2}, 8, sums.as<int64_t>(), 3, nullptr, nullptr);
  check(cudaDeviceSynchronize(), "product");
  EXPECT_EQ(download<int64_t>(sums), std::vector<int64_t>(6, 0));
}

INSTANTIATE_TEST_SUITE_P(Types, CudaGemm, testing::Values(DataType::kBf16, DataType::kF16, DataType::kF32),
                         [](const auto& info) { return std::string(dataTypeName(info.param)); });

}  // namespace
}  // namespace hels::cuda
#endif
