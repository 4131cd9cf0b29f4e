// Products with weight matrices: the one interface through which the engine multiplies, in two implementations:
// chain (exact numerics: bits independent of rows, columns, tiling and threads) and oneDNN (fast numerics).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/data_type.h"
#include "base/quantization.h"
#include "kernels/cpu/isa.h"

namespace hels {

inline constexpr int64_t divCeil(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
inline constexpr int64_t roundUp(int64_t value, int64_t multiple) { return divCeil(value, multiple) * multiple; }

/// Rows of results are padded to a multiple of this: `yStride` >= roundUp(columns, kColumnPadding).
inline constexpr int64_t kColumnPadding = 16;

/// What products round their inputs to. The others are for bf16 weights only, and less work where processors multiply
/// bf16. kTwoBf16: each input as a bf16 and what is left of it as another, 16 bits of mantissa together.
enum class Inputs : uint8_t { kF32, kBf16, kTwoBf16 };

/// W(columns, depth), a view: `data` has Gemm::packedBytes() bytes in the implementation's own layout, owned by the
/// arena. The type of a quantised matrix is kBf16, which holds its integers.
struct WeightMatrix {
  DataType type = DataType::kF32;
  int64_t columns = 0;
  int64_t depth = 0;
  std::byte* data = nullptr;
  Inputs inputs = Inputs::kF32;
  Quantization quantization = Quantization::kNone;
  /// Of a quantised matrix: the inputs whose groups are counted together, as quantizeRow() takes it; at least 1. A
  /// multiple of 4 if there is more than one granule, and of 32 if one product goes over several.
  int64_t granule = 0;
  /// Of kTwoBf16: so many columns from the first on, a multiple of kColumnPadding, take the upper term alone.
  int64_t oneTermColumns = 0;
};

/// Where weights go when they are loaded: memory that products read, in the layout they want.
class WeightPacker {
 public:
  virtual ~WeightPacker() = default;
  /// For reports: "chain/avx2", "onednn/gemm:jit".
  virtual std::string implementation() const = 0;
  virtual size_t packedBytes(const WeightMatrix& matrix) const = 0;
  /// Takes rows of W, source(count, depth) in matrix.type, as the columns [firstColumn, firstColumn + count) of the
  /// result.
  virtual void pack(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const std::byte* source) const = 0;
  /// Whether what is packed can be read back, as Gemm::unpack() does: a tied head then serves as the embedding.
  virtual bool unpacks() const { return false; }
  /// The same for a quantised matrix: values(count, depth) and scales(count, groups) of its rows. `matrix.data` is zero
  /// before the first call. Throws kShapeInvalid from an implementation that has no quantised weights.
  virtual void packQuantized(const WeightMatrix& matrix, int64_t firstColumn, int64_t count, const int8_t* values,
                             const uint16_t* scales) const;
};

class Gemm : public WeightPacker {
 public:
  bool unpacks() const override { return true; }
  /// target(depth) = the weights of one column, widened; of a matrix that is not quantised.
  virtual void unpack(const WeightMatrix& matrix, int64_t column, float* target) const = 0;

  /// What products with weights of `type`, up to `rows` rows and `depth` inputs need beside their operands; inputs in
  /// two terms count twice.
  virtual size_t workspaceBytes(DataType type, int64_t rows, int64_t depth) const = 0;
  /// Takes that much now, so that no such product allocates; without it the first one does.
  virtual void reserve(DataType type, int64_t rows, int64_t depth) = 0;

  /// y(rows, columns) = x(rows, depth) W^T. Strides in elements. The padding columns of y are overwritten.
  virtual void multiply(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows, float* y,
                        int64_t yStride) = 0;

  /// sums(rows, columns) = the products of the granules of `granuleDepth` inputs (the last may be shorter; a multiple
  /// of 4 for bf16 inputs), each rounded to fixed point by itself, then added: 0 without inputs. Returns -1, or the
  /// first row with a partial that is NaN, infinite or >= 2^24 (sums are then undefined).
  virtual int64_t multiplyFixedPoint(const WeightMatrix& matrix, const float* x, int64_t xStride, int64_t rows,
                                     int64_t granuleDepth, int64_t* sums, int64_t sumStride) = 0;
};

/// `isa` must be supported by this processor.
std::unique_ptr<Gemm> makeChainGemm(int threads, Isa isa = bestIsa());
/// Weights of a type that this processor cannot multiply are kept as f32.
std::unique_ptr<Gemm> makeOneDnnGemm(int threads);
/// Of the library that is loaded: "2.6.0".
std::string oneDnnVersion();

}  // namespace hels
