// Fast numerics: products by oneDNN. Its bits may depend on the number of rows, on the columns' slice and on the
// threads.
#include <omp.h>

#include <algorithm>
#include <dnnl.hpp>
#include <map>
#include <tuple>
#include <vector>

#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/fixed_point.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel.h"

namespace hels {
namespace {

constexpr size_t kPrimitivesMax = 512;
constexpr int64_t kParallelElementsMin = int64_t{64} * 1024;

struct MatmulKey {
  DataType type;
  bool blocked;
  int64_t rows, columns, depth, xStride, yStride;
  bool operator<(const MatmulKey& other) const {
    return std::tie(type, blocked, rows, columns, depth, xStride, yStride) <
           std::tie(other.type, other.blocked, other.rows, other.columns, other.depth, other.xStride, other.yStride);
  }
};

struct Matmul {
  dnnl::memory::desc x, weights, y;
  dnnl::matmul primitive;
  std::string implementation;
};

using Tag = dnnl::memory::format_tag;

dnnl::memory::data_type dnnlType(DataType type) {
  return type == DataType::kBf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

/// oneDNN's own layout of weights(depth, columns): blocks of 64 columns, in them blocks of inputs, in pairs for bf16.
/// Where oneDNN multiplies with it, it is what it prefers for any number of rows.
struct Blocks {
  static constexpr int64_t kColumns = 64;
  int64_t inputs;
  int64_t group;
  Tag tag;

  static Blocks of(DataType resident) {
    return resident == DataType::kBf16 ? Blocks{32, 2, Tag::BA16a64b2a} : Blocks{16, 1, Tag::BA16a64b};
  }
  int64_t elements(int64_t columns, int64_t depth) const { return roundUp(columns, kColumns) * roundUp(depth, inputs); }
  /// Where element (column, input) lies.
  int64_t index(int64_t column, int64_t input, int64_t depth) const {
    const int64_t block = column / kColumns * divCeil(depth, inputs) + input / inputs;
    return block * kColumns * inputs + input % inputs / group * kColumns * group + column % kColumns * group +
           input % group;
  }
};

/// Weights lie in blocks, or, where oneDNN does not choose those, row-major, (columns, depth). They are kept in f32, or
/// in bf16 for bf16 inputs where the processor multiplies them.
class OneDnnGemm final : public Gemm {
 public:
  explicit OneDnnGemm(int threads)
      : threads_(threads),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_),
        blockedF32_(choosesBlocks(DataType::kF32)),
        blockedBf16_(bf16Native() && choosesBlocks(DataType::kBf16)) {}

  std::string implementation() const override {
    return "onednn/" + std::string(bf16Native() ? "bf16" : "f32") + "/" + lastImplementation_;
  }

  size_t packedBytes(const WeightMatrix& matrix) const override {
    const DataType resident = residentType(matrix);
    const int64_t elements =
        blocked(matrix) ? Blocks::of(resident).elements(matrix.columns, matrix.depth) : matrix.columns * matrix.depth;
    return static_cast<size_t>(elements) * bytesOf(resident);
  }

  void pack(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source) const override {
    if (residentType(matrix) == DataType::kBf16) {
      const auto* bits = reinterpret_cast<const uint16_t*>(source);
      packTyped<uint16_t>(matrix, firstColumn, count, [bits](int64_t i) { return bits[i]; });
    } else if (matrix.type == DataType::kF32) {
      const auto* values = reinterpret_cast<const float*>(source);
      packTyped<float>(matrix, firstColumn, count, [values](int64_t i) { return values[i]; });
    } else {
      const auto* bits = reinterpret_cast<const uint16_t*>(source);
      const bool bf16 = matrix.type == DataType::kBf16;
      packTyped<float>(matrix, firstColumn, count,
                       [bits, bf16](int64_t i) { return bf16 ? bf16ToF32(bits[i]) : f16ToF32(bits[i]); });
    }
  }

  void unpack(const WeightMatrix& matrix, int64_t column, float* target) const override {
    const DataType resident = residentType(matrix);
    const Blocks blocks = Blocks::of(resident);
    for (int64_t k = 0; k < matrix.depth; ++k) {
      const int64_t i = blocked(matrix) ? blocks.index(column, k, matrix.depth) : column * matrix.depth + k;
      target[k] = resident == DataType::kF32 ? reinterpret_cast<const float*>(matrix.data)[i]
                                             : bf16ToF32(reinterpret_cast<const uint16_t*>(matrix.data)[i]);
    }
  }

  size_t workspaceBytes(DataType type, int64_t rows, int64_t depth) const override {
    // The partial products of row-parallel matrices have at most as many columns as others have inputs.
    const size_t elements = static_cast<size_t>(rows * depth);
    return elements * (2 * sizeof(float) + (type == DataType::kBf16 ? sizeof(uint16_t) : 0));
  }

  void reserve(DataType type, int64_t rows, int64_t depth) override {
    partial_.reserve(static_cast<size_t>(rows * depth));
    dense_.reserve(static_cast<size_t>(rows * depth));
    if (type == DataType::kBf16) rounded_.reserve(static_cast<size_t>(rows * depth));
  }

  void multiply(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows, float* y,
                int64_t yStride) override {
    if (rows == 0 || matrix.columns == 0) return;
    // With rows further apart than they are long oneDNN has no fast product for weights in blocks.
    if (blocked(matrix) && rows > 1 && yStride != matrix.columns) {
      for (int64_t row = 0; row < rows; ++row) {
        multiply(matrix, x + row * xStride, xStride, 1, y + row * yStride, matrix.columns);
      }
      return;
    }
    const int threads = rows * matrix.depth < kParallelElementsMin ? 1 : threads_;
    if (residentType(matrix) == DataType::kBf16) {
      rounded_.resize(static_cast<size_t>(rows * matrix.depth));
      const auto narrow = chainTileSet(bestIsa()).narrow;
      parallelFor(threads, rows,
                  [&](int64_t row) { narrow(x + row * xStride, rounded_.data() + row * matrix.depth, matrix.depth); });
      run(matrix, rounded_.data(), matrix.depth, rows, y, rows == 1 ? matrix.columns : yStride);
    } else if (blocked(matrix) && rows > 1 && xStride != matrix.depth) {
      dense_.resize(static_cast<size_t>(rows * matrix.depth));
      parallelFor(threads, rows, [&](int64_t row) {
        std::copy_n(x + row * xStride, matrix.depth, dense_.data() + row * matrix.depth);
      });
      run(matrix, dense_.data(), matrix.depth, rows, y, yStride);
    } else {
      run(matrix, const_cast<float*>(x), rows == 1 ? matrix.depth : xStride, rows, y,
          rows == 1 ? matrix.columns : yStride);
    }
  }

  int64_t multiplyFixedPoint(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows, int64_t,
                             int64_t* sums, int64_t sumStride) override {
    if (matrix.depth == 0) {
      for (int64_t row = 0; row < rows; ++row) std::fill_n(sums + row * sumStride, matrix.columns, 0);
      return -1;
    }
    partial_.resize(static_cast<size_t>(rows * matrix.columns));
    multiply(matrix, x, xStride, rows, partial_.data(), matrix.columns);
    LeastItem badRow;
    parallelFor(rows * matrix.columns < kParallelElementsMin ? 1 : threads_, rows, [&](int64_t row) {
      const float* partial = partial_.data() + row * matrix.columns;
      int64_t* target = sums + row * sumStride;
      for (int64_t column = 0; column < matrix.columns; ++column) {
        if (!inFixedPointRange(partial[column])) return badRow.note(row);
        target[column] = toFixedPoint(partial[column]);
      }
    });
    return badRow.get();
  }

 private:
  static bool bf16Native() { return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_bf16; }
  static DataType residentType(const WeightMatrix& matrix) {
    return matrix.inputs == Inputs::kBf16 && bf16Native() ? DataType::kBf16 : DataType::kF32;
  }

  /// Columns without padding only: then rows of results are as far apart as they are long.
  bool blocked(const WeightMatrix& matrix) const {
    return matrix.columns % kColumnPadding == 0 &&
           (residentType(matrix) == DataType::kBf16 ? blockedBf16_ : blockedF32_);
  }

  /// Whether oneDNN takes weights in blocks on this processor, asked with a product of usual size.
  bool choosesBlocks(DataType type) const {
    constexpr int64_t kRows = 32;
    constexpr int64_t kSide = 512;
    const auto element = dnnlType(type);
    const dnnl::matmul::primitive_desc description(
        {dnnl::memory::desc({kRows, kSide}, element, Tag::ab), dnnl::memory::desc({kSide, kSide}, element, Tag::any),
         dnnl::memory::desc({kRows, kSide}, dnnl::memory::data_type::f32, Tag::ab)},
        engine_);
    return description.weights_desc() == dnnl::memory::desc({kSide, kSide}, element, Blocks::of(type).tag);
  }

  /// valueAt(i): element i of the source, (count, depth). Padding becomes zero.
  template <typename Element, typename ValueAt>
  void packTyped(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const ValueAt& valueAt) const {
    const int64_t depth = matrix.depth;
    auto* target = reinterpret_cast<Element*>(matrix.data);
    if (!blocked(matrix)) {
      for (int64_t i = 0; i < count * depth; ++i) target[firstColumn * depth + i] = valueAt(i);
      return;
    }
    const Blocks blocks = Blocks::of(residentType(matrix));
    const int64_t end = firstColumn + count;
    const int64_t paddedEnd = end == matrix.columns ? roundUp(end, Blocks::kColumns) : end;
    const int64_t paddedDepth = roundUp(depth, blocks.inputs);
    for (int64_t column = firstColumn; column < paddedEnd; ++column) {
      for (int64_t k = 0; k < paddedDepth; ++k) {
        target[blocks.index(column, k, depth)] =
            column < end && k < depth ? valueAt((column - firstColumn) * depth + k) : Element{0};
      }
    }
  }

  void run(const WeightMatrix& matrix, void* x, int64_t xStride, int64_t rows, float* y, int64_t yStride) {
    omp_set_num_threads(threads_);  // of this thread only
    const MatmulKey key{residentType(matrix), blocked(matrix), rows, matrix.columns, matrix.depth, xStride, yStride};
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
    const auto type = dnnlType(key.type);
    Matmul matmul;
    matmul.x = dnnl::memory::desc({key.rows, key.depth}, type, {key.xStride, 1});
    matmul.weights =
        dnnl::memory::desc({key.depth, key.columns}, type, key.blocked ? Blocks::of(key.type).tag : Tag::ba);
    matmul.y = dnnl::memory::desc({key.rows, key.columns}, dnnl::memory::data_type::f32, {key.yStride, 1});
    const dnnl::matmul::primitive_desc description({matmul.x, matmul.weights, matmul.y}, engine_);
    matmul.implementation = description.impl_info_str();
    matmul.primitive = dnnl::matmul(description);
    lastImplementation_ = matmul.implementation;
    return matmuls_.emplace(key, std::move(matmul)).first->second;
  }

  const int threads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  const bool blockedF32_;
  const bool blockedBf16_;
  std::map<MatmulKey, Matmul> matmuls_;
  std::vector<float> partial_;
  std::vector<float> dense_;
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
