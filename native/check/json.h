// JSON values of the checker, which links no library for them: results are written, goldens and configurations are
// read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace hels::check {

/// One value. Members of an object keep the order in which they were set.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;  // null
  Json(bool value) : value_(value) {}
  Json(double value) : value_(value) {}
  Json(int value) : value_(static_cast<double>(value)) {}
  Json(int64_t value) : value_(static_cast<double>(value)) {}
  Json(uint64_t value) : value_(static_cast<double>(value)) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  static Json object() {
    Json json;
    json.value_ = Object{};
    return json;
  }
  static Json array() { return Json(Array{}); }

  /// Sets a member of an object, or of null, which becomes one.
  Json& set(const std::string& name, Json value);
  /// Appends to an array, or to null, which becomes one.
  Json& push(Json value);

  bool isNull() const { return std::holds_alternative<std::monostate>(value_); }
  bool isNumber() const { return std::holds_alternative<double>(value_); }
  /// The member, or null (also of what is no object).
  const Json& at(std::string_view name) const;
  /// Throw kModelInvalid when the value is of another kind.
  double number() const;
  int64_t integer() const;
  bool boolean() const;
  const std::string& string() const;
  const Array& items() const;
  const Object& members() const;

  /// Numbers with the fewest digits that read back as the same double; NaN and infinity as null.
  std::string text(int indent = 0) const;

 private:
  void write(std::string& out, int indent, int depth) const;
  std::variant<std::monostate, bool, double, std::string, Array, Object> value_;
};

/// Throws kModelInvalid naming `what` and the offset of the first error. At most 32 levels deep.
Json parseJson(std::string_view text, const std::string& what);
/// Throws kModelInvalid naming the file.
Json readJson(const std::filesystem::path& file);

}  // namespace hels::check
