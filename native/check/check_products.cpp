// Products against f64 on sampled rows and columns, and bit for bit across batch sizes and slices of columns.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>

#include "base/cuda/check.h"
#include "check/random_values.h"
#include "check/sections.h"
#include "check/shapes.h"
#include "kernels/cuda/gemm.h"

namespace hels::check {
namespace {

using cuda::DeviceBuffer;

constexpr uint64_t kWeightSeed = 11;
constexpr uint64_t kInputSeed = 12;

struct Case {
  DataType type = DataType::kBf16;
  MatrixShape shape;
  std::vector<int64_t> batches;  // numbers of rows, ascending
  float inputScale = 1;
};

Case makeCase(DataType type, const MatrixShape& shape, std::vector<int64_t> batches) {
  Case test;
  test.type = type;
  test.shape = shape;
  test.batches = std::move(batches);
  return test;
}

/// The matrix and the rows of one case on the device, and results of products with parts of them.
class Product {
 public:
  explicit Product(const Case& test)
      : type_(test.type),
        shape_(test.shape),
        rowsMax_(test.batches.back()),
        weights_(randomBuffer(type_, shape_.columns * shape_.depth, kWeightSeed)),
        inputs_(randomBuffer(type_, rowsMax_ * shape_.depth, kInputSeed, test.inputScale)),
        result_(static_cast<size_t>(rowsMax_ * shape_.columns) * elementBytes(), "a product"),
        workspace_(cuda::multiplyWorkspaceBytes(rowsMax_, shape_.columns), "a product"),
        bad_(sizeof(int32_t), "a product") {}

  bool fixedPoint() const { return shape_.granuleDepth > 0; }
  size_t elementBytes() const { return fixedPoint() ? sizeof(int64_t) : sizeof(float); }

  /// Bytes of the results (rows, columns), f32 or int64, of rows [firstRow, ...) and columns [firstColumn, ...).
  std::vector<uint16_t> run(int64_t firstRow, int64_t rows, int64_t firstColumn, int64_t columns) const {
    const int32_t none = INT_MAX;
    cuda::check(cudaMemcpy(bad_.data(), &none, sizeof none, cudaMemcpyHostToDevice), "copy");
    cuda::check(cudaMemset(result_.data(), 0xA5, result_.sizeBytes()), "poison");
    const auto bytes = static_cast<int64_t>(bytesOf(type_));
    const cuda::DeviceMatrix matrix{type_, columns, shape_.depth, weights_.data() + firstColumn * shape_.depth * bytes};
    const cuda::DeviceRows x{inputs_.data() + firstRow * shape_.depth * bytes, shape_.depth, rows};
    if (fixedPoint()) {
      cuda::multiplyFixedPoint(matrix, x, shape_.granuleDepth, result_.as<int64_t>(), columns, bad_.as<int32_t>(),
                               nullptr);
    } else {
      cuda::multiply(matrix, x, result_.as<float>(), columns, workspace_.data(), nullptr);
    }
    cuda::check(cudaDeviceSynchronize(), "product");
    require(download<int32_t>(bad_.data(), 1)[0] == INT_MAX, ErrorCode::kNumericRange, "a partial is out of range");
    return download<uint16_t>(result_.data(), static_cast<size_t>(rows * columns) * elementBytes() / 2);
  }

  double valueOf(const std::vector<uint16_t>& results, int64_t index) const {
    const std::byte* from =
        reinterpret_cast<const std::byte*>(results.data()) + static_cast<size_t>(index) * elementBytes();
    if (fixedPoint()) {
      int64_t value = 0;
      std::memcpy(&value, from, sizeof value);
      return static_cast<double>(value) * 0x1p-32;
    }
    float value = 0;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

 private:
  DataType type_;
  MatrixShape shape_;
  int64_t rowsMax_;
  DeviceBuffer weights_;
  DeviceBuffer inputs_;
  DeviceBuffer result_;
  DeviceBuffer workspace_;
  DeviceBuffer bad_;
};

/// `count` numbers spread over [0, size), both ends among them.
std::vector<int64_t> spread(int64_t size, int64_t count) {
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < std::min(size, count); ++i) {
    numbers.push_back(size <= count ? i : i * (size - 1) / (count - 1));
  }
  return numbers;
}

void compareWithF64(const Case& test, const Product& product, const std::vector<uint16_t>& whole, Item& item) {
  const int64_t depth = test.shape.depth;
  double squares = 0;
  double errorSquares = 0;
  double largest = 0;
  const auto rows = spread(test.batches.back(), 12);
  const auto columns = spread(test.shape.columns, 48);
  std::vector<std::vector<double>> inputs;
  for (const int64_t row : rows) {
    auto& values = inputs.emplace_back(static_cast<size_t>(depth));
    for (int64_t k = 0; k < depth; ++k) {
      values[static_cast<size_t>(k)] =
          hostValue(test.type, kInputSeed, static_cast<uint64_t>(row * depth + k), test.inputScale);
    }
  }
  std::vector<double> weights(static_cast<size_t>(depth));
  for (const int64_t column : columns) {
    for (int64_t k = 0; k < depth; ++k) {
      weights[static_cast<size_t>(k)] = hostValue(test.type, kWeightSeed, static_cast<uint64_t>(column * depth + k));
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      double expected = 0;
      for (size_t k = 0; k < weights.size(); ++k) expected += inputs[i][k] * weights[k];
      const double error = product.valueOf(whole, rows[i] * test.shape.columns + column) - expected;
      squares += expected * expected;
      errorSquares += error * error;
      largest = std::isfinite(error) ? std::max(largest, std::abs(error)) : error;
    }
  }
  const double relative = std::sqrt(errorSquares / squares);
  const double largestAllowed = 1e-4 * test.inputScale * std::sqrt(static_cast<double>(depth));
  item.figure("relativeError", relative);
  item.figure("largestError", largest);
  item.expect(relative < 1e-4, "relative error against f64 is " + std::to_string(relative) + "; at most 0.0001");
  item.expect(largest < largestAllowed, "largest error against f64 is " + std::to_string(largest) + "; at most " +
                                            std::to_string(largestAllowed));
}

/// Whether the part's bytes are those of the whole at its place.
bool equalBits(const Product& product, int64_t wholeColumns, const std::vector<uint16_t>& whole, int64_t firstRow,
               int64_t rows, int64_t firstColumn, int64_t columns, const std::vector<uint16_t>& part) {
  const auto perElement = static_cast<int64_t>(product.elementBytes() / sizeof(uint16_t));
  for (int64_t row = 0; row < rows; ++row) {
    const uint16_t* expected = whole.data() + ((firstRow + row) * wholeColumns + firstColumn) * perElement;
    const uint16_t* found = part.data() + row * columns * perElement;
    if (!std::equal(found, found + columns * perElement, expected)) return false;
  }
  return true;
}

void checkCase(const Case& test, Item& item) {
  const Product product(test);
  const int64_t columns = test.shape.columns;
  const int64_t rowsMax = test.batches.back();
  const std::vector<uint16_t> whole = product.run(0, rowsMax, 0, columns);
  compareWithF64(test, product, whole, item);
  for (const int64_t rows : test.batches) {
    const int64_t firstRow = std::min<int64_t>(5, rowsMax - rows);
    const auto part = product.run(firstRow, rows, 0, columns);
    item.expect(equalBits(product, columns, whole, firstRow, rows, 0, columns, part),
                "other bits with " + std::to_string(rows) + " rows than with " + std::to_string(rowsMax));
    // A rank's slice: begins anywhere and ends anywhere.
    const int64_t firstColumn = columns / 3 / 8 * 8;
    const int64_t sliceColumns = columns / 2;
    const auto slice = product.run(firstRow, rows, firstColumn, sliceColumns);
    item.expect(equalBits(product, columns, whole, firstRow, rows, firstColumn, sliceColumns, slice),
                "other bits with " + std::to_string(rows) + " rows and columns from " + std::to_string(firstColumn) +
                    " to " + std::to_string(firstColumn + sliceColumns) + " than with all");
  }
}

std::string nameOf(const Case& test) {
  return std::string(test.shape.granuleDepth > 0 ? "fixed point " : "") + test.shape.name + " " +
         dataTypeName(test.type) + " " + std::to_string(test.shape.columns) + "x" + std::to_string(test.shape.depth) +
         (test.shape.granuleDepth > 0 ? "/" + std::to_string(test.shape.granuleDepth) : "") +
         (test.inputScale != 1 ? " large" : "") + " to " + std::to_string(test.batches.back()) + " rows";
}

/// Products of more rows than one kernel takes: tiles that rows and columns fill in part, depths that end inside of a
/// stage, one to eight shares of the depth, tiles by twos, partials beyond the quick fixed point. Rows alone, which
/// another kernel multiplies, must have the same bits.
std::vector<Case> tileCases(bool quick) {
  std::vector<Case> cases;
  for (const DataType type : {DataType::kBf16, DataType::kF16}) {
    if (quick && type == DataType::kF16) continue;
    const std::vector<int64_t> batches =
        quick ? std::vector<int64_t>{1, 33, 130} : std::vector<int64_t>{1, 16, 17, 32, 33, 64, 65, 128, 129, 300};
    for (const MatrixShape& shape : {MatrixShape{"tiles", 200, 1088, 0}, MatrixShape{"tiles", 200, 1088, 96},
                                     MatrixShape{"tiles", 72, 416, 32}, MatrixShape{"tiles", 136, 40, 64}}) {
      cases.push_back(makeCase(type, shape, batches));
    }
    Case large = makeCase(type, MatrixShape{"tiles", 200, 1088, 96}, batches);
    large.inputScale = 512;  // most partials above 4096, none above 2^24
    cases.push_back(large);
    if (quick) continue;
    const std::vector<int64_t> few{1, 17, 64, 128};
    for (const int64_t columns : {1100, 2100, 4200, 8500, 17000}) {
      cases.push_back(makeCase(type, MatrixShape{"tiles", columns, 520, 0}, few));
      cases.push_back(makeCase(type, MatrixShape{"tiles", columns, 512, 64}, few));
    }
    cases.push_back(makeCase(type, MatrixShape{"tiles", 8500, 264, 0}, {1, 256, 1100}));
    cases.push_back(makeCase(type, MatrixShape{"tiles", 8500, 320, 64}, {1, 256, 1100}));
  }
  return cases;
}

}  // namespace

void checkProducts(const Options& options, Report& report) {
  report.section("products", [&] {
    std::vector<Case> cases;
    for (const DataType type : {DataType::kBf16, DataType::kF16, DataType::kF32}) {
      const std::vector<int64_t> batches =
          options.quick ? std::vector<int64_t>{1, 17, 70} : std::vector<int64_t>{1, 8, 16, 17, 70};
      if (options.quick && type == DataType::kF16) continue;
      cases.push_back(makeCase(type, MatrixShape{"odd", 130, 264, 0}, batches));
      cases.push_back(makeCase(type, MatrixShape{"odd", 72, 384, 72}, batches));
    }
    if (!options.quick) {
      for (const std::string& shape : options.shapes) {
        for (MatrixShape matrix : matricesOf(shapeNamed(shape))) {
          matrix.name = shape + " " + matrix.name;
          cases.push_back(makeCase(DataType::kBf16, matrix, {1, 8, 16, 17, 64, 65, 256}));
        }
      }
      MatrixShape matrix = matricesOf(shapeNamed("8b"))[3];
      cases.push_back(makeCase(DataType::kF16, matrix, {1, 16, 64, 256}));
    }
    for (Case& test : tileCases(options.quick)) cases.push_back(std::move(test));
    for (const Case& test : cases) report.item(nameOf(test), [&](Item& item) { checkCase(test, item); });
  });
}

}  // namespace hels::check
