// Reading one rank's slices of the weights: a block of rows and columns, converted to the type it is kept in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/data_type.h"
#include "model/quantize.h"
#include "model/weight_source.h"
#include "shard/shard_spec.h"

namespace hels {

/// Flips all bits of one byte of a tensor as this rank loads it (`byte` counts from the tensor's start in the file).
/// Has no effect when this rank does not load that byte. For `helsctl model verify --corrupt`.
struct Corruption {
  std::string tensor;
  uint64_t byte = 0;
};

/// Bytes of the files' tensors, in the files' types. A block read twice counts twice.
struct LoadAccounting {
  uint64_t bytesLoaded = 0;
  uint64_t bytesReplicated = 0;  // of these, what every rank holds
  bool corrupted = false;        // whether the byte to corrupt was among them
};

/// Converts `count` elements; f32 to f32, and each 16-bit type to itself, keep their bits. Source and destination may
/// be unaligned and must not overlap.
void convertElements(DataType from, const std::byte* source, DataType to, std::byte* destination, size_t count);

/// Copies rows x columns of a 2-D tensor, converted to `to`, densely into `destination` (rows.size() * columns.size()
/// elements, row-major). The file's pages are only read: `corruptByte` (an offset into the tensor) is flipped in the
/// copy, before conversion. Throws kShapeInvalid for a tensor that is not 2-D or a range outside of it.
void readBlock(const TensorView& tensor, Range rows, Range columns, DataType to, std::byte* destination,
               std::optional<uint64_t> corruptByte = std::nullopt);

/// Whether a rank's block is its own slice or a copy that every rank holds.
enum class Ownership : uint8_t { kSliced, kReplicated };

/// The loader's way to the weights: shape checks, corruption and accounting in one place. Not thread-safe.
class WeightReader {
 public:
  explicit WeightReader(std::shared_ptr<const WeightSource> source,
                        std::optional<Corruption> corruption = std::nullopt);

  /// Throws kModelInvalid when the tensor is missing, has another shape or a type that is not f32, bf16 or f16;
  /// kShapeInvalid for a range outside `shape`. An empty range reads nothing but is checked all the same.
  void readMatrix(const std::string& name, const std::vector<int64_t>& shape, Range rows, Range columns, DataType to,
                  std::byte* destination, Ownership ownership);
  /// The same for a 1-D tensor of `length` elements; the usual target is f32 (biases and norms).
  void readVector(const std::string& name, int64_t length, Range range, DataType to, std::byte* destination,
                  Ownership ownership);

  /// The same for a quantised matrix `name` of `shape`, stored as tensors NAME.qweight and NAME.scales whose groups are
  /// counted in granules of `granule` columns (docs/weight-format.md). `columns` begins and ends with a granule. Also
  /// refuses a scale that is not finite.
  void readQuantized(const std::string& name, const std::vector<int64_t>& shape, Range rows, Range columns,
                     Quantization quantization, int64_t granule, QuantizedRows& destination, Ownership ownership);

  const WeightSource& source() const { return *source_; }
  const LoadAccounting& accounting() const { return accounting_; }

 private:
  std::optional<uint64_t> corruptByteOf(const std::string& name) const;
  void account(const TensorView& tensor, int64_t rowLength, Range rows, Range columns, Ownership ownership);
  /// Blocks of a tensor of bytes.
  std::vector<uint8_t> readBytes(const TensorView& tensor, Range rows, Range columns, Ownership ownership);

  std::shared_ptr<const WeightSource> source_;
  std::optional<Corruption> corruption_;
  LoadAccounting accounting_;
};

}  // namespace hels
