// How long products take at real shapes: exact ones of ours beside cuBLASLt's, each against the device's own limits.
#include <algorithm>
#include <optional>

#include "base/cuda/check.h"
#include "check/random_values.h"
#include "check/sections.h"
#include "check/shapes.h"
#include "check/timing.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/gemm.h"

namespace hels::check {
namespace {

using cuda::DeviceBuffer;

// Weights are read from memory, not from the cache: copies of a matrix together are larger than any cache.
constexpr int64_t kTurnsBytes = int64_t{512} << 20;
constexpr int kTurnsMax = 16;

struct Bench {
  const MatrixShape& shape;
  DeviceBuffer weights;  // `turns` copies
  int turns;
  DeviceBuffer inputs;
  DeviceBuffer result;  // f32 or int64
  DeviceBuffer workspace;
  DeviceBuffer bad;

  Bench(const MatrixShape& matrix, int64_t rowsMax, bool quick)
      : shape(matrix),
        turns(quick ? 1 : static_cast<int>(std::clamp<int64_t>(kTurnsBytes / bytes() + 1, 2, kTurnsMax))),
        inputs(randomBuffer(DataType::kBf16, rowsMax * matrix.depth, 22)),
        result(static_cast<size_t>(rowsMax * matrix.columns) * sizeof(int64_t), "results of a product"),
        workspace(std::max(cuda::multiplyWorkspaceBytes(rowsMax, matrix.columns), cuda::CublasLt::kWorkspaceBytes),
                  "the workspace of a product"),
        bad(sizeof(int32_t), "a product") {
    weights = randomBuffer(DataType::kBf16, turns * matrix.columns * matrix.depth, 21, 0.02F);
  }

  int64_t bytes() const { return shape.columns * shape.depth * 2; }
  std::byte* turn(int i) const { return weights.data() + i % turns * bytes(); }

  void exact(int i, int64_t rows, cudaStream_t stream) const {
    const cuda::DeviceMatrix matrix{DataType::kBf16, shape.columns, shape.depth, turn(i)};
    const cuda::DeviceRows x{inputs.data(), shape.depth, rows};
    if (shape.granuleDepth > 0) {
      cuda::multiplyFixedPoint(matrix, x, shape.granuleDepth, result.as<int64_t>(), shape.columns, bad.as<int32_t>(),
                               stream);
    } else {
      cuda::multiply(matrix, x, result.as<float>(), shape.columns, workspace.data(), stream);
    }
  }

  cuda::CublasProduct fast(int i, int64_t rows) const {
    cuda::CublasProduct product;
    product.rows = rows;
    product.columns = product.yStride = shape.columns;
    product.depth = product.xStride = product.weightStride = shape.depth;
    product.x = inputs.data();
    product.weights = turn(i);
    product.y = result.data();
    return product;
  }
};

void describe(const std::string& prefix, double seconds, double least, double bytes, double flop, Item& item) {
  item.figure(prefix + "Seconds", seconds);
  item.figure(prefix + "BytesPerSecond", bytes / seconds);
  item.figure(prefix + "FlopPerSecond", flop / seconds);
  if (least > 0) item.figure(prefix + "ShareOfLimit", least / seconds);
}

void measure(const Bench& bench, int64_t rows, const DeviceLimits& limits, cuda::CublasLt* library, bool quick,
             Item& item) {
  const auto columns = static_cast<double>(bench.shape.columns);
  const auto depth = static_cast<double>(bench.shape.depth);
  const auto count = static_cast<double>(rows);
  const double outputBytes = bench.shape.granuleDepth > 0 ? 8.0 : 4.0;
  const double bytes = 2 * columns * depth + 2 * count * depth + outputBytes * count * columns;
  const double flop = 2 * columns * depth * count;
  const TimingLimits timing = shortTiming(quick);
  item.figure("rows", rows);
  item.figure("columns", bench.shape.columns);
  item.figure("depth", bench.shape.depth);
  const double exact = timeWork(
                           bench.turns, [&](int i, cudaStream_t stream) { bench.exact(i, rows, stream); }, timing)
                           .seconds;
  describe("exact", exact, limits.leastSeconds(bytes, flop), bytes, flop, item);
  if (library == nullptr) return;
  const std::span<std::byte> space(bench.workspace.data(), cuda::CublasLt::kWorkspaceBytes);
  library->tune(bench.fast(0, rows), space, nullptr);
  const double fast =
      timeWork(
          bench.turns, [&](int i, cudaStream_t stream) { library->multiply(bench.fast(i, rows), space, stream); },
          timing)
          .seconds;
  const double fastBytes = 2 * columns * depth + 2 * count * depth + 2 * count * columns;
  describe("fast", fast, limits.leastSeconds(fastBytes, flop), fastBytes, flop, item);
  item.figure("exactOverFast", exact / fast);
}

}  // namespace

void benchProducts(const Options& options, const DeviceLimits& limits, Report& report) {
  std::optional<cuda::CublasLt> library;
  if (limits.matrixFlopPerSecond > 0) library.emplace();
  const std::vector<int64_t> batches =
      options.quick ? std::vector<int64_t>{1, 17} : std::vector<int64_t>{1, 8, 16, 32, 64, 256, 2048};
  const std::vector<std::string> shapes = options.quick ? std::vector<std::string>{"tiny"} : options.shapes;
  for (const std::string& shape : shapes) {
    report.section("products of " + shape, [&] {
      for (const MatrixShape& matrix : matricesOf(shapeNamed(shape))) {
        const bool head = matrix.name == "head";
        std::optional<Bench> bench;
        report.item("inputs of " + matrix.name, [&](Item& item) {
          bench.emplace(matrix, head ? std::min<int64_t>(batches.back(), 256) : batches.back(), options.quick);
          item.figure("copies", bench->turns);
        });
        if (!bench) continue;
        for (const int64_t rows : batches) {
          if (head && rows > 256) continue;  // only sampled tokens pass the head
          report.item(matrix.name + " " + std::to_string(rows) + " rows", [&](Item& item) {
            measure(*bench, rows, limits, library ? &*library : nullptr, options.quick, item);
          });
        }
      }
    });
  }
}

}  // namespace hels::check
