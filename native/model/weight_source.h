// The tensors of a model directory, memory-mapped: reading a slice touches only that slice's pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/data_type.h"

namespace hels {

/// A tensor as it lies in its file. `data` stays valid while the WeightSource lives.
struct TensorView {
  std::string name;
  std::string file;
  std::string storedType;  // as the file spells it: "F32", "BF16", "F16", or a type that is listed but cannot be read
  bool readable =
      false;  // storedType is one of DataType's; otherwise `type` means nothing and get() refuses the tensor
  DataType type = DataType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  size_t sizeBytes = 0;
};

/// Single (`model.safetensors`) or sharded (`model.safetensors.index.json`) safetensors, checked before anything is
/// read: header length against the file, offsets in range, non-overlapping, of the size that shape and type demand.
class WeightSource {
 public:
  /// Throws kModelInvalid naming the file (and tensor, field, value) that is wrong.
  static std::shared_ptr<WeightSource> open(const std::string& directory);
  virtual ~WeightSource() = default;

  /// null when the model has no such tensor.
  virtual const TensorView* find(const std::string& name) const = 0;
  /// Throws kModelInvalid naming the tensor, and for a wrong shape both shapes, for an unreadable type the type.
  virtual const TensorView& get(const std::string& name, const std::vector<int64_t>& shape) const = 0;
  /// The same for a tensor of exactly `storedType`, which may be one that get() refuses.
  virtual const TensorView& getStored(const std::string& name, const std::vector<int64_t>& shape,
                                      const std::string& storedType) const = 0;
  virtual const std::map<std::string, TensorView>& tensors() const = 0;
};

}  // namespace hels
