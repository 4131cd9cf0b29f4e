// Fast numerics: products by oneDNN. Its bits may depend on the number of rows, on the columns' slice and on the
// threads.
#include <omp.h>

#include <cstring>
#include <dnnl.hpp>
#include <map>
#include <tuple>
#include <vector>

#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/gemm.h"

namespace hels {
namespace {

constexpr size_t kPrimitivesMax = 512;

struct MatmulKey {
  DataType type;
  int64_t rows, columns, depth, xStride, yStride;
  bool operator<(const MatmulKey& other) const {
    return std::tie(type, rows, columns, depth, xStride, yStride) <
           std::tie(other.type, other.rows, other.columns, other.depth, other.xStride, other.yStride);
  }
};

struct Matmul {
  dnnl::memory::desc x, weights, y;
  dnnl::matmul primitive;
  std::string implementation;
};

/// Weights lie row-major, (columns, depth), in f32, or in bf16 for bf16 inputs where the processor multiplies them.
class OneDnnGemm final : public Gemm {
 public:
  explicit OneDnnGemm(int threads) : threads_(threads), engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

  std::string implementation() const override {
    return "onednn/" + std::string(bf16Native() ? "bf16" : "f32") + "/" + lastImplementation_;
  }

  size_t packedBytes(const WeightMatrix& matrix) const override {
    return static_cast<size_t>(matrix.columns * matrix.depth) * bytesOf(residentType(matrix));
  }

  void pack(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source) const override {
    const auto first = static_cast<size_t>(firstColumn * matrix.depth);
    const auto elements = static_cast<size_t>(count * matrix.depth);
    const DataType resident = residentType(matrix);
    if (elements == 0) return;
    if (resident == matrix.type) {
      std::memcpy(matrix.data + first * bytesOf(resident), source, elements * bytesOf(resident));
      return;
    }
    auto* target = reinterpret_cast<float*>(matrix.data) + first;
    const auto* bits = reinterpret_cast<const uint16_t*>(source);
    for (size_t i = 0; i < elements; ++i) {
      target[i] = matrix.type == DataType::kBf16 ? bf16ToF32(bits[i]) : f16ToF32(bits[i]);
    }
  }

  size_t workspaceBytes(DataType type, int64_t rows, int64_t depth) const override {
    // The partial products of row-parallel matrices have at most as many columns as others have inputs.
    const size_t elements = static_cast<size_t>(rows * depth);
    return elements * (sizeof(float) + (type == DataType::kBf16 ? sizeof(uint16_t) : 0));
  }

  void reserve(DataType type, int64_t rows, int64_t depth) override {
    partial_.reserve(static_cast<size_t>(rows * depth));
    if (type == DataType::kBf16) rounded_.reserve(static_cast<size_t>(rows * depth));
  }

  void multiply(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows, float* y,
                int64_t yStride) override {
    if (rows == 0 || matrix.columns == 0) return;
    if (residentType(matrix) == DataType::kBf16) {
      rounded_.resize(static_cast<size_t>(rows * matrix.depth));
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t k = 0; k < matrix.depth; ++k) {
          rounded_[static_cast<size_t>(row * matrix.depth + k)] = f32ToBf16(x[row * xStride + k]);
        }
      }
      run(matrix, rounded_.data(), matrix.depth, rows, y, yStride);
    } else {
      run(matrix, const_cast<float*>(x), xStride, rows, y, yStride);
    }
  }

  int64_t multiplyFixedPoint(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows, int64_t,
                             int64_t* sums, int64_t sumStride) override {
    if (matrix.depth == 0) return -1;
    partial_.resize(static_cast<size_t>(rows * matrix.columns));
    multiply(matrix, x, xStride, rows, partial_.data(), matrix.columns);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < matrix.columns; ++column) {
        const float value = partial_[static_cast<size_t>(row * matrix.columns + column)];
        if (!inFixedPointRange(value)) return row;
        sums[row * sumStride + column] += toFixedPoint(value);
      }
    }
    return -1;
  }

 private:
  static bool bf16Native() { return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_bf16; }
  static DataType residentType(const WeightMatrix& matrix) {
    return matrix.inputs == Inputs::kBf16 && bf16Native() ? DataType::kBf16 : DataType::kF32;
  }

  void run(const WeightMatrix& matrix, void* x, int64_t xStride, int64_t rows, float* y, int64_t yStride) {
    omp_set_num_threads(threads_);  // of this thread only
    const MatmulKey key{residentType(matrix), rows, matrix.columns, matrix.depth, xStride, yStride};
    const Matmul& matmul = find(key);
    dnnl::memory xMemory(matmul.x, engine_, x);
    dnnl::memory weights(matmul.weights, engine_, matrix.data);
    dnnl::memory yMemory(matmul.y, engine_, y);
    matmul.primitive.execute(stream_, {{DNNL_ARG_SRC, xMemory}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, yMemory}});
    stream_.wait();
  }

  const Matmul& find(const MatmulKey& key) {
    const auto found = matmuls_.find(key);
    if (found != matmuls_.end()) return found->second;
    if (matmuls_.size() >= kPrimitivesMax) matmuls_.clear();
    using Type = dnnl::memory::data_type;
    const Type type = key.type == DataType::kBf16 ? Type::bf16 : Type::f32;
    Matmul matmul;
    matmul.x = dnnl::memory::desc({key.rows, key.depth}, type, {key.xStride, 1});
    matmul.weights = dnnl::memory::desc({key.depth, key.columns}, type, {1, key.depth});
    matmul.y = dnnl::memory::desc({key.rows, key.columns}, Type::f32, {key.yStride, 1});
    const dnnl::matmul::primitive_desc description({matmul.x, matmul.weights, matmul.y}, engine_);
    matmul.implementation = description.impl_info_str();
    matmul.primitive = dnnl::matmul(description);
    lastImplementation_ = matmul.implementation;
    return matmuls_.emplace(key, std::move(matmul)).first->second;
  }

  const int threads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<MatmulKey, Matmul> matmuls_;
  std::vector<float> partial_;
  std::vector<uint16_t> rounded_;
  std::string lastImplementation_ = "unused";
};

}  // namespace

std::unique_ptr<Gemm> makeOneDnnGemm(int threads) { return std::make_unique<OneDnnGemm>(threads); }

std::string oneDnnVersion() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
}

}  // namespace hels
