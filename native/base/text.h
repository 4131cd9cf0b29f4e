// Words for error messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hels {

/// 'name' as found in a file, with control characters made visible and cut when long.
inline std::string nameText(std::string_view name) {
  constexpr size_t kLengthMax = 200;
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text = "'";
  for (const char character : name.substr(0, kLengthMax)) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte >= 0x20 && byte != 0x7F) {
      text += character;
    } else {
      text += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15U]};
    }
  }
  return text + (name.size() > kLengthMax ? "...'" : "'");
}

/// "[4096, 64]"
inline std::string shapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

/// "[0, 64)"
inline std::string rangeText(int64_t begin, int64_t end) {
  return "[" + std::to_string(begin) + ", " + std::to_string(end) + ")";
}

}  // namespace hels
