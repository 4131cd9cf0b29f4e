// A JS value together with the path that led to it, read with its type and range checked: an error says
// "batch.sequences[2].slot is 'x'; it must be a whole number from 0 to 255".
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

namespace hels::binding {

/// Largest whole number that a JS number holds exactly.
inline constexpr int64_t kSafeInteger = (int64_t{1} << 53) - 1;

/// Every reader throws Error(kShapeInvalid) naming the path, the value and what is allowed.
class Argument {
 public:
  Argument(Napi::Value value, std::string path) : value_(value), path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  bool isNull() const { return value_.IsNull(); }

  Argument field(const char* name) const;
  uint32_t length() const;
  Argument at(uint32_t index) const;

  int64_t integer(int64_t low, int64_t high) const;
  double number(double low, double high) const;
  bool boolean() const;
  std::string string() const;
  /// The index of the value in `words`.
  size_t word(const std::vector<std::string>& words) const;
  std::vector<int32_t> int32Array() const;

  [[noreturn]] void refuse(const std::string& allowed) const;

 private:
  Napi::Value value_;
  std::string path_;
};

}  // namespace hels::binding
