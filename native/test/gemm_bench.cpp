// Speed of the chain GEMM beside oneDNN, weights from memory: gemm_bench [threads] [columns] [depth]. Of each number of
// rows the quantised forms also as a ratio to bf16.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include "kernels/cpu/gemm.h"

using namespace hels;

namespace {

double secondsOf(Gemm& gemm, const std::vector<WeightMatrix>& matrices, int64_t rows, const std::vector<float>& x,
                 std::vector<float>& y) {
  double best = 1e30;
  for (int repetition = 0; repetition < 5; ++repetition) {
    const auto start = std::chrono::steady_clock::now();
    for (const WeightMatrix& matrix : matrices) {
      gemm.multiply(matrix, x.data(), matrix.depth, rows, y.data(), roundUp(matrix.columns, kColumnPadding));
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::min(best, seconds.count() / static_cast<double>(matrices.size()));
  }
  return best;
}

/// Seconds by rows of the form that the next ones are compared with.
using SecondsByRows = std::map<int64_t, double>;

void bench(Gemm& gemm, DataType type, Quantization quantization, int64_t columns, int64_t depth,
           SecondsByRows& bf16Seconds) {
  const Inputs inputs = type == DataType::kBf16 ? Inputs::kBf16 : Inputs::kF32;
  const WeightMatrix shape{type, columns, depth, nullptr, inputs, quantization, depth};
  const size_t bytes = gemm.packedBytes(shape);
  const size_t copies = std::max<size_t>(1, (size_t{160} << 20) / bytes);  // well beyond the last-level cache
  std::vector<std::byte> data(bytes * copies);
  std::vector<float> row(static_cast<size_t>(depth), 0.01F);
  std::vector<uint16_t> narrow(static_cast<size_t>(depth), f32ToBf16(0.01F));
  std::vector<WeightMatrix> matrices;
  for (size_t copy = 0; copy < copies; ++copy) {
    matrices.push_back(shape);
    matrices.back().data = data.data() + copy * bytes;
    if (quantization != Quantization::kNone) {  // small weights of either kind
      std::fill_n(matrices.back().data, bytes, std::byte{0x10});
      continue;
    }
    for (int64_t column = 0; column < columns; ++column) {
      gemm.pack(matrices.back(), column, 1,
                type == DataType::kF32 ? reinterpret_cast<std::byte*>(row.data())
                                       : reinterpret_cast<std::byte*>(narrow.data()));
    }
  }
  for (const int64_t rows : {1, 2, 3, 4, 8, 16, 32, 64, 256}) {
    const std::vector<float> x(static_cast<size_t>(rows * depth), 0.5F);
    std::vector<float> y(static_cast<size_t>(rows * roundUp(columns, kColumnPadding)));
    const double seconds = secondsOf(gemm, matrices, rows, x, y);
    const bool quantized = quantization != Quantization::kNone;
    std::printf("%-22s %-4s rows %4ld  %8.3f ms  %7.1f GFLOP/s  %6.1f GB/s of weights", gemm.implementation().c_str(),
                quantized ? quantizationName(quantization) : dataTypeName(type), static_cast<long>(rows), seconds * 1e3,
                2e-9 * static_cast<double>(rows * columns * depth) / seconds,
                1e-9 * static_cast<double>(bytes) / seconds);
    if (quantized) std::printf("  %5.2f x bf16", bf16Seconds[rows] / seconds);
    std::printf("\n");
    if (!quantized && type == DataType::kBf16) bf16Seconds[rows] = seconds;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const int64_t columns = argc > 2 ? std::atol(argv[2]) : 4096;
  const int64_t depth = argc > 3 ? std::atol(argv[3]) : 2048;
  SecondsByRows none;
  SecondsByRows bf16Seconds;
  for (const auto type : {DataType::kF32, DataType::kF16, DataType::kBf16}) {
    if (type != DataType::kF16) bench(*makeOneDnnGemm(threads), type, Quantization::kNone, columns, depth, none);
    bench(*makeChainGemm(threads), type, Quantization::kNone, columns, depth, bf16Seconds);
  }
  for (const auto quantization : {Quantization::kInt8, Quantization::kInt4}) {
    bench(*makeChainGemm(threads), DataType::kBf16, quantization, columns, depth, bf16Seconds);
  }
  return 0;
}
