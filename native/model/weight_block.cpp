#include "model/weight_block.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/text.h"

namespace hels {
namespace {

struct F32 {
  using Bits = uint32_t;
  static float widen(Bits bits) { return std::bit_cast<float>(bits); }
  static Bits narrow(float value) { return std::bit_cast<Bits>(value); }
};
struct Bf16 {
  using Bits = uint16_t;
  static float widen(Bits bits) { return bf16ToF32(bits); }
  static Bits narrow(float value) { return f32ToBf16(value); }
};
struct F16 {
  using Bits = uint16_t;
  static float widen(Bits bits) { return f16ToF32(bits); }
  static Bits narrow(float value) { return f32ToF16(value); }
};

// memcpy: files may place tensors at any byte.
template <typename From, typename To>
void convert(const std::byte* source, std::byte* destination, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    typename From::Bits bits;
    std::memcpy(&bits, source + i * sizeof(bits), sizeof(bits));
    const typename To::Bits converted = To::narrow(From::widen(bits));
    std::memcpy(destination + i * sizeof(converted), &converted, sizeof(converted));
  }
}

template <typename From>
void convertFrom(const std::byte* source, DataType to, std::byte* destination, size_t count) {
  switch (to) {
    case DataType::kF32:
      return convert<From, F32>(source, destination, count);
    case DataType::kBf16:
      return convert<From, Bf16>(source, destination, count);
    case DataType::kF16:
      return convert<From, F16>(source, destination, count);
  }
}

void checkRange(const TensorView& tensor, const char* what, Range range, int64_t size) {
  require(0 <= range.begin && range.begin <= range.end && range.end <= size, ErrorCode::kShapeInvalid,
          "tensor '" + tensor.name + "': " + what + " " + rangeText(range.begin, range.end) + " must lie within " +
              rangeText(0, size));
}

bool contains(Range range, int64_t index) { return range.begin <= index && index < range.end; }

/// A contiguous run of the tensor's bytes, converted; `corruptByte` counts from the tensor's start.
void readRun(const TensorView& tensor, size_t beginByte, size_t count, DataType to, std::byte* destination,
             std::optional<uint64_t> corruptByte) {
  const size_t elementSize = bytesOf(tensor.type);
  const std::byte* source = tensor.data + beginByte;
  convertElements(tensor.type, source, to, destination, count);
  if (!corruptByte || *corruptByte < beginByte || *corruptByte >= beginByte + count * elementSize) return;
  const size_t element = (*corruptByte - beginByte) / elementSize;
  std::byte corrupted[sizeof(float)] = {};
  std::memcpy(corrupted, source + element * elementSize, elementSize);
  corrupted[(*corruptByte - beginByte) % elementSize] ^= std::byte{0xFF};
  convertElements(tensor.type, corrupted, to, destination + element * bytesOf(to), 1);
}

void readRows(const TensorView& tensor, int64_t rowLength, Range rows, Range columns, DataType to,
              std::byte* destination, std::optional<uint64_t> corruptByte) {
  const auto elementSize = static_cast<int64_t>(bytesOf(tensor.type));
  // Whole rows lie side by side: one run.
  const bool wholeRows = columns.size() == rowLength;
  const int64_t runs = wholeRows ? std::min<int64_t>(rows.size(), 1) : rows.size();
  const int64_t runLength = wholeRows ? rows.size() * rowLength : columns.size();
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t beginByte = ((rows.begin + run) * rowLength + columns.begin) * elementSize;
    std::byte* target = destination + static_cast<size_t>(run * runLength) * bytesOf(to);
    readRun(tensor, static_cast<size_t>(beginByte), static_cast<size_t>(runLength), to, target, corruptByte);
  }
}

}  // namespace

void convertElements(DataType from, const std::byte* source, DataType to, std::byte* destination, size_t count) {
  if (count == 0) return;
  if (from == to) {
    std::memcpy(destination, source, count * bytesOf(from));
    return;
  }
  switch (from) {
    case DataType::kF32:
      return convertFrom<F32>(source, to, destination, count);
    case DataType::kBf16:
      return convertFrom<Bf16>(source, to, destination, count);
    case DataType::kF16:
      return convertFrom<F16>(source, to, destination, count);
  }
}

void readBlock(const TensorView& tensor, Range rows, Range columns, DataType to, std::byte* destination,
               std::optional<uint64_t> corruptByte) {
  require(tensor.shape.size() == 2, ErrorCode::kShapeInvalid,
          "tensor '" + tensor.name + "' has shape " + shapeText(tensor.shape) + "; a block is read from a matrix");
  checkRange(tensor, "rows", rows, tensor.shape[0]);
  checkRange(tensor, "columns", columns, tensor.shape[1]);
  readRows(tensor, tensor.shape[1], rows, columns, to, destination, corruptByte);
}

WeightReader::WeightReader(std::shared_ptr<const WeightSource> source, std::optional<Corruption> corruption)
    : source_(std::move(source)), corruption_(std::move(corruption)) {}

void WeightReader::readMatrix(const std::string& name, const std::vector<int64_t>& shape, Range rows, Range columns,
                              DataType to, std::byte* destination, Ownership ownership) {
  const TensorView& tensor = source_->get(name, shape);
  readBlock(tensor, rows, columns, to, destination, corruptByteOf(name));
  account(tensor, tensor.shape[1], rows, columns, ownership);
}

void WeightReader::readVector(const std::string& name, int64_t length, Range range, DataType to, std::byte* destination,
                              Ownership ownership) {
  const TensorView& tensor = source_->get(name, {length});
  checkRange(tensor, "elements", range, length);
  readRows(tensor, length, Range{0, 1}, range, to, destination, corruptByteOf(name));
  account(tensor, length, Range{0, 1}, range, ownership);
}

std::vector<uint8_t> WeightReader::readBytes(const TensorView& tensor, Range rows, Range columns, Ownership ownership) {
  const int64_t rowLength = tensor.shape[1];
  std::vector<uint8_t> bytes(static_cast<size_t>(rows.size() * columns.size()));
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    if (columns.empty()) break;
    std::memcpy(bytes.data() + (row - rows.begin) * columns.size(), tensor.data + row * rowLength + columns.begin,
                static_cast<size_t>(columns.size()));
  }
  const std::optional<uint64_t> corruptByte = corruptByteOf(tensor.name);
  if (corruptByte && *corruptByte < tensor.sizeBytes) {
    const auto row = static_cast<int64_t>(*corruptByte) / rowLength;
    const auto column = static_cast<int64_t>(*corruptByte) % rowLength;
    if (contains(rows, row) && contains(columns, column)) {
      bytes[static_cast<size_t>((row - rows.begin) * columns.size() + column - columns.begin)] ^= 0xFF;
      accounting_.corrupted = true;
    }
  }
  accounting_.bytesLoaded += bytes.size();
  if (ownership == Ownership::kReplicated) accounting_.bytesReplicated += bytes.size();
  return bytes;
}

void WeightReader::readQuantized(const std::string& name, const std::vector<int64_t>& shape, Range rows, Range columns,
                                 Quantization quantization, int64_t granule, QuantizedRows& destination,
                                 Ownership ownership) {
  const bool nibbles = quantization == Quantization::kInt4;
  const auto bytesFor = [nibbles](int64_t columnCount) { return nibbles ? (columnCount + 1) / 2 : columnCount; };
  const TensorView& weights =
      source_->getStored(name + ".qweight", {shape[0], bytesFor(shape[1])}, nibbles ? "U8" : "I8");
  const std::vector<int64_t> scaleShape{shape[0], groupCount(shape[1], granule)};
  const TensorView& scales = source_->getStored(name + ".scales", scaleShape, "F16");
  checkRange(weights, "rows", rows, shape[0]);
  checkRange(weights, "columns", columns, shape[1]);

  const std::vector<uint8_t> bytes =
      readBytes(weights, rows, {bytesFor(columns.begin), bytesFor(columns.end)}, ownership);
  destination.values.resize(static_cast<size_t>(rows.size() * columns.size()));
  const int64_t rowBytes = bytesFor(columns.size());
  for (int64_t row = 0; row < rows.size(); ++row) {
    const uint8_t* source = bytes.data() + row * rowBytes;
    int8_t* target = destination.values.data() + row * columns.size();
    for (int64_t i = 0; i < columns.size(); ++i) {
      target[i] = nibbles ? static_cast<int8_t>((source[i / 2] >> (i % 2 * 4) & 15) - kNibbleOffset)
                          : static_cast<int8_t>(source[i]);
    }
  }
  const Range groups{groupCount(columns.begin, granule), groupCount(columns.end, granule)};
  destination.scales.resize(static_cast<size_t>(rows.size() * groups.size()));
  readMatrix(scales.name, scaleShape, rows, groups, DataType::kF16,
             reinterpret_cast<std::byte*>(destination.scales.data()), ownership);
  for (size_t i = 0; i < destination.scales.size(); ++i) {
    constexpr uint16_t kExponent = 0x7C00;
    require((destination.scales[i] & kExponent) != kExponent, ErrorCode::kModelInvalid,
            scales.file + ": tensor " + nameText(scales.name) + ": a scale of row " +
                std::to_string(rows.begin + static_cast<int64_t>(i) / groups.size()) +
                " is NaN or infinite; it must be a finite number");
  }
}

std::optional<uint64_t> WeightReader::corruptByteOf(const std::string& name) const {
  if (!corruption_ || corruption_->tensor != name) return std::nullopt;
  return corruption_->byte;
}

void WeightReader::account(const TensorView& tensor, int64_t rowLength, Range rows, Range columns,
                           Ownership ownership) {
  const uint64_t bytes = static_cast<uint64_t>(rows.size() * columns.size()) * bytesOf(tensor.type);
  accounting_.bytesLoaded += bytes;
  if (ownership == Ownership::kReplicated) accounting_.bytesReplicated += bytes;
  const std::optional<uint64_t> corruptByte = corruptByteOf(tensor.name);
  if (!corruptByte || *corruptByte >= tensor.sizeBytes) return;
  const auto element = static_cast<int64_t>(*corruptByte / bytesOf(tensor.type));
  if (contains(rows, element / rowLength) && contains(columns, element % rowLength)) accounting_.corrupted = true;
}

}  // namespace hels
