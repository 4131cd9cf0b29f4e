// Tensors as `helsctl model quantize` writes them, read from the files of a model (docs/weight-format.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/quantization.h"
#include "model/weight_source.h"
#include "shard/shard_spec.h"

namespace hels {

/// Bytes of rows of NAME.qweight and NAME.scales; with Quantization::kNone the first are bf16 values and there are no
/// second.
struct TensorBytes {
  std::vector<uint8_t> values;
  std::vector<uint8_t> scales;
};

/// Throws kModelInvalid naming tensor, row and column of a value that cannot be quantised.
TensorBytes quantizeTensor(const WeightSource& source, const std::string& name, const std::vector<int64_t>& shape,
                           Range rows, Quantization quantization, int64_t granule);

}  // namespace hels
