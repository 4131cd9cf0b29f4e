#include "kernels/cuda/cublas_lt.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "fake_folder.h"

namespace hels::cuda {
namespace {

class CublasLtTest : public ::testing::Test {
 protected:
  CublasLtTest() : folder_(HELS_FAKE_CUBLAS_LT, "libcublasLt.so.13"), workspace_(1024 + 256) {
    const auto address = reinterpret_cast<uintptr_t>(workspace_.data());
    space_ = std::span(workspace_).subspan((256 - address % 256) % 256, 1024);
  }

  int liveObjects() const {
    return DynamicLibrary::open("fake", {"libcublasLt.so.13"}, folder_.search()).function<int()>("helsFakeObjects")();
  }

  test::FakeFolder folder_;
  std::vector<std::byte> workspace_;
  std::span<std::byte> space_;
};

float widened(DataType type, const void* matrix, int64_t index) {
  if (type == DataType::kF32) return static_cast<const float*>(matrix)[index];
  const uint16_t bits = static_cast<const uint16_t*>(matrix)[index];
  return type == DataType::kBf16 ? bf16ToF32(bits) : f16ToF32(bits);
}

/// Small integers in a matrix of `type`, so that every type and order of sums holds them exactly.
std::vector<std::byte> numbers(DataType type, int64_t count, int64_t salt) {
  std::vector<std::byte> bytes(static_cast<size_t>(count) * bytesOf(type));
  for (int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>((i * 7 + salt) % 5 - 2);
    if (type == DataType::kF32) {
      reinterpret_cast<float*>(bytes.data())[i] = value;
    } else {
      reinterpret_cast<uint16_t*>(bytes.data())[i] = type == DataType::kBf16 ? f32ToBf16(value) : f32ToF16(value);
    }
  }
  return bytes;
}

void expectProduct(CublasLt& library, std::span<std::byte> workspace, DataType input, DataType output,
                   bool accumulate) {
  constexpr int64_t kRows = 3, kColumns = 5, kDepth = 4, kXStride = 6, kWeightStride = 7, kYStride = 8;
  const std::vector<std::byte> x = numbers(input, kRows * kXStride, 1);
  const std::vector<std::byte> weights = numbers(input, kColumns * kWeightStride, 2);
  const std::vector<std::byte> before = numbers(output, kRows * kYStride, 3);
  std::vector<std::byte> y = before;
  library.multiply({.rows = kRows,
                    .columns = kColumns,
                    .depth = kDepth,
                    .inputType = input,
                    .outputType = output,
                    .x = x.data(),
                    .xStride = kXStride,
                    .weights = weights.data(),
                    .weightStride = kWeightStride,
                    .y = y.data(),
                    .yStride = kYStride,
                    .accumulate = accumulate},
                   workspace, nullptr);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kYStride; ++column) {
      const int64_t index = row * kYStride + column;
      const bool inside = column < kColumns;
      float expected = accumulate || !inside ? widened(output, before.data(), index) : 0.0F;
      for (int64_t k = 0; inside && k < kDepth; ++k) {
        expected +=
            widened(input, x.data(), row * kXStride + k) * widened(input, weights.data(), column * kWeightStride + k);
      }
      EXPECT_EQ(widened(output, y.data(), index), expected) << "row " << row << ", column " << column;
    }
  }
}

TEST_F(CublasLtTest, IsTheProductOfRowMajorMatrices) {
  CublasLt library(16, folder_.search());
  for (const DataType input : {DataType::kBf16, DataType::kF16, DataType::kF32}) {
    for (const DataType output : {input, DataType::kF32}) {
      for (const bool accumulate : {false, true}) expectProduct(library, space_, input, output, accumulate);
    }
  }
}

TEST_F(CublasLtTest, FreesWhatItMakes) {
  const int before = liveObjects();
  {
    CublasLt library(0, folder_.search());
    expectProduct(library, space_, DataType::kBf16, DataType::kBf16, false);
    EXPECT_GT(liveObjects(), before);
  }
  EXPECT_EQ(liveObjects(), before);
}

TEST_F(CublasLtTest, ASumOverNothingIsZeroAndNoRowsAreNothing) {
  CublasLt library(0, folder_.search());
  std::vector<float> y(6, 9.0F);
  CublasProduct product{.rows = 2,
                        .columns = 2,
                        .depth = 0,
                        .inputType = DataType::kF32,
                        .outputType = DataType::kF32,
                        .x = y.data(),
                        .xStride = 0,
                        .weights = y.data(),
                        .weightStride = 0,
                        .y = y.data(),
                        .yStride = 3};
  library.multiply(product, space_, nullptr);
  EXPECT_EQ(y, (std::vector<float>{0, 0, 9, 0, 0, 9}));
  product.rows = 0;
  product.depth = 1;
  product.xStride = product.weightStride = 1;
  library.multiply(product, space_, nullptr);
  EXPECT_EQ(y[2], 9.0F);
}

TEST_F(CublasLtTest, TuningSkipsWhatFailsAndKeepsWhatRuns) {
  CublasLt library(0, folder_.search());
  const std::vector<float> x(4, 1.0F);
  std::vector<float> y(1);
  const CublasProduct product{.rows = 1,
                              .columns = 1,
                              .depth = 4,
                              .inputType = DataType::kF32,
                              .outputType = DataType::kF32,
                              .x = x.data(),
                              .xStride = 4,
                              .weights = x.data(),
                              .weightStride = 4,
                              .y = y.data(),
                              .yStride = 1};
  EXPECT_GE(library.tune(product, space_, nullptr), 0.0);
  y[0] = 0;
  library.multiply(product, space_, nullptr);
  EXPECT_EQ(y[0], 4.0F);
}

TEST_F(CublasLtTest, RefusesWhatDoesNotFit) {
  CublasLt library(0, folder_.search());
  const auto failure = [&](const CublasProduct& product) -> std::string {
    try {
      library.multiply(product, space_, nullptr);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid);
      return error.what();
    }
    return "";
  };
  CublasProduct product{.rows = 1, .columns = 2, .depth = 4, .xStride = 3, .weightStride = 4, .yStride = 2};
  EXPECT_EQ(failure(product), "xStride is 3; it must be 4 (the row) to 2147483647");
  product.xStride = 4;
  product.outputType = DataType::kF16;
  EXPECT_EQ(failure(product), "outputType is f16; it must be f32 or the input's bf16");
  product.outputType = DataType::kF32;
  product.y = reinterpret_cast<void*>(2);
  EXPECT_NE(failure(product).find("not aligned to its elements"), std::string::npos);
}

TEST_F(CublasLtTest, SaysItsVersionAndPath) {
  const CublasLt library(0, folder_.search());
  EXPECT_EQ(library.describe(), "cuBLASLt 13.2.3 (" + (folder_.path() / "libcublasLt.so.13").string() + ")");
}

}  // namespace
}  // namespace hels::cuda
