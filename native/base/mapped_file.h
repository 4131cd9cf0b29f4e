// A file mapped read-only: pages are read from disk when they are touched, and writing to them is impossible.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace hels {

class MappedFile {
 public:
  /// Throws kModelInvalid naming `path` when it is missing, unreadable or not a regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Stays valid while this object lives. Empty for an empty file.
  std::span<const std::byte> bytes() const { return {data_, sizeBytes_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t sizeBytes_ = 0;
};

}  // namespace hels
