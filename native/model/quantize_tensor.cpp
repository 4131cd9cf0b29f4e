#include "model/quantize_tensor.h"

#include <cstring>
#include <span>

#include "base/error.h"
#include "base/text.h"
#include "model/quantize.h"
#include "model/weight_block.h"

namespace hels {
namespace {

/// Two to a byte, the first in the low half; an odd last one has a zero beside it.
std::vector<uint8_t> nibblesOf(const std::vector<int8_t>& values, int64_t columns) {
  std::vector<uint8_t> bytes;
  const auto bits = [](int value) { return static_cast<unsigned>(value + kNibbleOffset); };
  for (auto row = values.begin(); row != values.end(); row += columns) {
    for (int64_t i = 0; i < columns; i += 2) {
      bytes.push_back(static_cast<uint8_t>(bits(row[i]) | bits(i + 1 < columns ? row[i + 1] : 0) << 4));
    }
  }
  return bytes;
}

}  // namespace

TensorBytes quantizeTensor(const WeightSource& source, const std::string& name, const std::vector<int64_t>& shape,
                           Range rows, Quantization quantization, int64_t granule) {
  const TensorView& tensor = source.get(name, shape);
  const int64_t columns = shape.at(1);
  const auto elements = static_cast<size_t>(rows.size() * columns);
  TensorBytes bytes;
  if (quantization == Quantization::kNone) {
    bytes.values.resize(elements * sizeof(uint16_t));
    readBlock(tensor, rows, {0, columns}, DataType::kBf16, reinterpret_cast<std::byte*>(bytes.values.data()));
    return bytes;
  }
  std::vector<float> floats(elements);
  readBlock(tensor, rows, {0, columns}, DataType::kF32, reinterpret_cast<std::byte*>(floats.data()));
  const int64_t groups = groupCount(columns, granule);
  QuantizedRows quantized{std::vector<int8_t>(elements),
                          std::vector<uint16_t>(static_cast<size_t>(rows.size() * groups))};
  for (int64_t row = 0; row < rows.size(); ++row) {
    const std::span<const float> values(floats.data() + row * columns, static_cast<size_t>(columns));
    const int64_t bad = quantizeRow(quantization, values, granule, quantized.values.data() + row * columns,
                                    quantized.scales.data() + row * groups);
    require(bad < 0, ErrorCode::kModelInvalid,
            tensor.file + ": tensor " + nameText(name) + ": the value of row " + std::to_string(rows.begin + row) +
                ", column " + std::to_string(bad) + " cannot be quantised: it is NaN, infinite or too large");
  }
  if (quantization == Quantization::kInt4) {
    bytes.values = nibblesOf(quantized.values, columns);
  } else {
    bytes.values.resize(elements);
    std::memcpy(bytes.values.data(), quantized.values.data(), elements);
  }
  bytes.scales.resize(quantized.scales.size() * sizeof(uint16_t));
  std::memcpy(bytes.scales.data(), quantized.scales.data(), bytes.scales.size());
  return bytes;
}

}  // namespace hels
