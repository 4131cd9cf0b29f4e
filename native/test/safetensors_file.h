// Writes safetensors files for tests, right ones and wrong ones.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace hels::test {

using Bytes = std::vector<std::byte>;

inline Bytes bytesOfText(const std::string& text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

inline Bytes littleEndian(uint64_t value) {
  Bytes bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<std::byte>(value >> shift));
  return bytes;
}

/// A file with this header text and `dataBytes` bytes 0, 1, 2 ... of data.
inline Bytes safetensors(const std::string& header, size_t dataBytes) {
  Bytes bytes = littleEndian(header.size());
  const Bytes text = bytesOfText(header);
  bytes.insert(bytes.end(), text.begin(), text.end());
  for (size_t i = 0; i < dataBytes; ++i) bytes.push_back(static_cast<std::byte>(i));
  return bytes;
}

/// Data of a type whose vector is laid out as in a file.
template <typename Element>
Bytes safetensors(const std::string& header, const std::vector<Element>& data) {
  Bytes bytes = safetensors(header, 0);
  const auto* begin = reinterpret_cast<const std::byte*>(data.data());
  bytes.insert(bytes.end(), begin, begin + data.size() * sizeof(Element));
  return bytes;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hels-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string path() const { return path_; }
  void write(const std::string& name, const Bytes& bytes) const {
    std::ofstream file(path_ + "/" + name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  void write(const std::string& name, const std::string& text) const { write(name, bytesOfText(text)); }

 private:
  std::string path_;
};

}  // namespace hels::test
