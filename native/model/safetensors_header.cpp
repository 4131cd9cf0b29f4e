#include "model/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "model/bounded_json.h"

namespace hels {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kHeaderBytesMax = 100'000'000;  // the limit of the reference implementation
constexpr size_t kDimensionsMax = 16;

/// nullopt for a type this table does not know; such a tensor is listed, its size cannot be checked.
std::optional<uint64_t> elementBytes(std::string_view storedType) {
  static constexpr auto kTypes = std::to_array<std::pair<std::string_view, uint64_t>>({{"BOOL", 1},
                                                                                       {"U8", 1},
                                                                                       {"I8", 1},
                                                                                       {"F8_E4M3", 1},
                                                                                       {"F8_E5M2", 1},
                                                                                       {"U16", 2},
                                                                                       {"I16", 2},
                                                                                       {"F16", 2},
                                                                                       {"BF16", 2},
                                                                                       {"U32", 4},
                                                                                       {"I32", 4},
                                                                                       {"F32", 4},
                                                                                       {"U64", 8},
                                                                                       {"I64", 8},
                                                                                       {"F64", 8}});
  for (const auto& [name, size] : kTypes) {
    if (name == storedType) return size;
  }
  return std::nullopt;
}

/// Reads one tensor's entry; every error says where it is.
class EntryReader {
 public:
  EntryReader(const std::string& file, const std::string& name, const json& entry)
      : where_(file + ": tensor " + nameText(name)), entry_(entry) {}

  [[noreturn]] void refuse(const std::string& problem) const {
    throw Error(ErrorCode::kModelInvalid, where_ + " " + problem);
  }

  std::string storedType() const {
    const json& value = field("dtype");
    if (!value.is_string()) refuse("has dtype " + brief(value) + "; it must be text such as F32, BF16 or F16");
    return value.get<std::string>();
  }

  std::vector<int64_t> shape() const {
    const json& value = field("shape");
    if (!value.is_array() || value.size() > kDimensionsMax) {
      refuse("has shape " + brief(value) + "; it must be a list of at most " + std::to_string(kDimensionsMax) +
             " sizes");
    }
    std::vector<int64_t> sizes;
    for (const json& size : value) {
      const uint64_t most = std::numeric_limits<int64_t>::max();
      if (!size.is_number_unsigned() || size.get<uint64_t>() > most) {
        refuse("has shape " + brief(value) + "; every size must be a whole number from 0 to 2^63 - 1");
      }
      sizes.push_back(size.get<int64_t>());
    }
    return sizes;
  }

  /// [begin, end) within the file's data of `dataBytes` bytes.
  std::pair<uint64_t, uint64_t> offsets(uint64_t dataBytes) const {
    const json& value = field("data_offsets");
    if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() || !value[1].is_number_unsigned()) {
      refuse("has data_offsets " + brief(value) + "; it must be a list of two whole numbers, begin and end");
    }
    const auto begin = value[0].get<uint64_t>();
    const auto end = value[1].get<uint64_t>();
    if (begin > end || end > dataBytes) {
      refuse("has data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) +
             "); they must be in order and within the " + std::to_string(dataBytes) +
             " bytes of data that the file has (is it truncated?)");
    }
    return {begin, end};
  }

 private:
  const json& field(const char* name) const {
    if (!entry_.is_object())
      refuse("is described by " + brief(entry_) + "; it must be an object with dtype, shape and data_offsets");
    const auto found = entry_.find(name);
    if (found == entry_.end()) refuse("has no " + std::string(name));
    return *found;
  }

  static std::string brief(const json& value) {
    constexpr size_t kTextMax = 80;
    const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    return text.size() <= kTextMax ? text : text.substr(0, kTextMax) + "...";
  }

  std::string where_;
  const json& entry_;
};

void checkSize(const EntryReader& reader, const StoredTensor& tensor) {
  const std::optional<uint64_t> elementSize = elementBytes(tensor.storedType);
  if (!elementSize) return;
  uint64_t demanded = *elementSize;
  bool overflow = false;
  for (const int64_t size : tensor.shape) {
    overflow = __builtin_mul_overflow(demanded, static_cast<uint64_t>(size), &demanded) || overflow;
  }
  const uint64_t stored = tensor.endByte - tensor.beginByte;
  const std::string claim = "has shape " + shapeText(tensor.shape) + " of " + tensor.storedType;
  if (overflow) reader.refuse(claim + ", more than 2^64 bytes");
  if (demanded != stored) {
    reader.refuse(claim + ", " + std::to_string(demanded) + " bytes, but its data_offsets hold " +
                  std::to_string(stored) + " bytes");
  }
}

void checkOverlaps(const std::vector<StoredTensor>& tensors, const std::string& file) {
  std::vector<const StoredTensor*> byOffset;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.beginByte < tensor.endByte) byOffset.push_back(&tensor);
  }
  std::sort(byOffset.begin(), byOffset.end(), [](const StoredTensor* a, const StoredTensor* b) {
    return std::pair(a->beginByte, a->endByte) < std::pair(b->beginByte, b->endByte);
  });
  for (size_t i = 1; i < byOffset.size(); ++i) {
    require(byOffset[i - 1]->endByte <= byOffset[i]->beginByte, ErrorCode::kModelInvalid,
            file + ": tensors " + nameText(byOffset[i - 1]->name) + " and " + nameText(byOffset[i]->name) +
                " overlap at byte " + std::to_string(byOffset[i]->beginByte) + " of the file");
  }
}

/// Length of the JSON, checked against the file.
uint64_t headerBytes(std::span<const std::byte> bytes, const std::string& file) {
  require(bytes.size() >= kLengthBytes, ErrorCode::kModelInvalid,
          file + ": truncated: " + std::to_string(bytes.size()) +
              " bytes; a safetensors file begins with an 8-byte header length");
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  require(length <= kHeaderBytesMax, ErrorCode::kModelInvalid,
          file + ": header length is " + std::to_string(length) + " bytes; at most " + std::to_string(kHeaderBytesMax) +
              " are allowed (is this a safetensors file?)");
  require(length <= bytes.size() - kLengthBytes, ErrorCode::kModelInvalid,
          file + ": truncated: header length is " + std::to_string(length) + " bytes, but only " +
              std::to_string(bytes.size() - kLengthBytes) + " follow it");
  return length;
}

}  // namespace

std::vector<StoredTensor> parseSafetensorsHeader(std::span<const std::byte> bytes, const std::string& file) {
  const uint64_t length = headerBytes(bytes, file);
  const uint64_t dataBegin = kLengthBytes + length;
  const json header = parseBoundedJson(bytes.subspan(kLengthBytes, length), file, "header");
  require(header.is_object(), ErrorCode::kModelInvalid, file + ": the header must be a JSON object of tensors");
  std::vector<StoredTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const EntryReader reader(file, name, entry);
    StoredTensor tensor{.name = name, .storedType = reader.storedType(), .shape = reader.shape()};
    const auto [begin, end] = reader.offsets(bytes.size() - dataBegin);
    tensor.beginByte = dataBegin + begin;
    tensor.endByte = dataBegin + end;
    checkSize(reader, tensor);
    tensors.push_back(std::move(tensor));
  }
  checkOverlaps(tensors, file);
  return tensors;
}

}  // namespace hels
