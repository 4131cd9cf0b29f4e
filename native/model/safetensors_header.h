// The table at the start of a safetensors file (https://huggingface.co/docs/safetensors): u64 length, JSON of that
// length, data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace hels {

struct StoredTensor {
  std::string name;
  std::string storedType;  // "F32", "BF16", ...
  std::vector<int64_t> shape;
  uint64_t beginByte = 0;  // from the start of the file
  uint64_t endByte = 0;
};

/// The tensors of a whole file, in name order, after every check that needs no data: length of the table, types,
/// shapes, offsets in range, of the size that shape and type demand, not overlapping. Throws kModelInvalid naming
/// `file`, tensor, field and values.
std::vector<StoredTensor> parseSafetensorsHeader(std::span<const std::byte> bytes, const std::string& file);

}  // namespace hels
