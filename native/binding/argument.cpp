#include "binding/argument.h"

#include <cmath>

#include "base/error.h"

namespace hels::binding {
namespace {

constexpr size_t kShownMax = 80;

/// The value as an error message shows it; never runs JS code of the value.
std::string show(Napi::Value value) {
  if (value.IsUndefined()) return "missing";
  if (value.IsNull()) return "null";
  if (value.IsBoolean()) return value.As<Napi::Boolean>().Value() ? "true" : "false";
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    if (std::trunc(number) == number && std::abs(number) < 1e15) return std::to_string(static_cast<int64_t>(number));
    return std::to_string(number);
  }
  if (value.IsString()) return "'" + value.As<Napi::String>().Utf8Value().substr(0, kShownMax) + "'";
  if (value.IsArray()) return "an array";
  if (value.IsFunction()) return "a function";
  if (value.IsObject()) return "an object";
  return "of another type";
}

std::string shortNumber(double value) {
  std::string text = std::to_string(value);
  while (text.size() > 1 && text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace

void Argument::refuse(const std::string& allowed) const {
  throw Error(ErrorCode::kShapeInvalid, path_ + " is " + show(value_) + "; it must be " + allowed);
}

Argument Argument::field(const char* name) const {
  if (!value_.IsObject() || value_.IsArray() || value_.IsFunction()) refuse("an object");
  return {value_.As<Napi::Object>().Get(name), path_ + "." + name};
}

uint32_t Argument::length() const {
  if (!value_.IsArray()) refuse("an array");
  return value_.As<Napi::Array>().Length();
}

Argument Argument::at(uint32_t index) const {
  return {value_.As<Napi::Array>().Get(index), path_ + "[" + std::to_string(index) + "]"};
}

int64_t Argument::integer(int64_t low, int64_t high) const {
  const std::string allowed = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  if (!value_.IsNumber()) refuse(allowed);
  const double number = value_.As<Napi::Number>().DoubleValue();
  const bool whole = std::abs(number) <= static_cast<double>(kSafeInteger) && std::trunc(number) == number;
  if (!whole) refuse(allowed);
  const auto result = static_cast<int64_t>(number);
  if (result < low || result > high) refuse(allowed);
  return result;
}

double Argument::number(double low, double high) const {
  const std::string allowed = "a number from " + shortNumber(low) + " to " + shortNumber(high);
  if (!value_.IsNumber()) refuse(allowed);
  const double result = value_.As<Napi::Number>().DoubleValue();
  if (!(result >= low && result <= high)) refuse(allowed);
  return result;
}

bool Argument::boolean() const {
  if (!value_.IsBoolean()) refuse("true or false");
  return value_.As<Napi::Boolean>().Value();
}

std::string Argument::string() const {
  if (!value_.IsString()) refuse("a string");
  return value_.As<Napi::String>().Utf8Value();
}

size_t Argument::word(const std::vector<std::string>& words) const {
  std::string allowed = "one of ";
  for (const std::string& word : words) allowed += (word == words.front() ? "" : ", ") + word;
  if (!value_.IsString()) refuse(allowed);
  const std::string given = value_.As<Napi::String>().Utf8Value();
  for (size_t index = 0; index < words.size(); ++index) {
    if (words[index] == given) return index;
  }
  refuse(allowed);
}

std::vector<int32_t> Argument::int32Array() const {
  const bool matches = value_.IsTypedArray() && value_.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array;
  if (!matches) refuse("an Int32Array");
  const auto array = value_.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

}  // namespace hels::binding
