#include "check/json.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace hels::check {
namespace {

constexpr int kDepthMax = 32;

void writeString(std::string& out, const std::string& text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  out += '"';
}

void writeNumber(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  out.append(digits, end.ptr);
}

template <typename Kind, typename Variant>
const Kind& expect(const Variant& value, const char* kind) {
  const auto* found = std::get_if<Kind>(&value);
  require(found != nullptr, ErrorCode::kModelInvalid, std::string("JSON: expected ") + kind);
  return *found;
}

class Parser {
 public:
  Parser(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  Json document() {
    Json json = value(0);
    space();
    expectThat(at_ == text_.size(), "something follows the value");
    return json;
  }

 private:
  void expectThat(bool condition, const char* problem) const {
    if (condition) return;
    throw Error(ErrorCode::kModelInvalid, what_ + " is not valid JSON at byte " + std::to_string(at_) + ": " + problem);
  }
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }
  char peek() const {
    expectThat(at_ < text_.size(), "it ends too early");
    return text_[at_];
  }
  bool skip(char c) {
    space();
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  bool skipWord(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    expectThat(depth < kDepthMax, "too many levels");
    space();
    const char c = peek();
    if (c == '{') return object(depth);
    if (c == '[') return array(depth);
    if (c == '"') return Json(string());
    if (skipWord("true")) return Json(true);
    if (skipWord("false")) return Json(false);
    if (skipWord("null")) return Json();
    double number = 0;
    const auto end = std::from_chars(text_.data() + at_, text_.data() + text_.size(), number);
    expectThat(end.ec == std::errc(), "no value");
    at_ = static_cast<size_t>(end.ptr - text_.data());
    return Json(number);
  }

  Json object(int depth) {
    Json json = Json::object();
    skip('{');
    if (skip('}')) return json;
    do {
      space();
      expectThat(peek() == '"', "no name");
      const std::string name = string();
      expectThat(skip(':'), "no colon");
      json.set(name, value(depth + 1));
    } while (skip(','));
    expectThat(skip('}'), "an object does not end");
    return json;
  }

  Json array(int depth) {
    Json json = Json::array();
    skip('[');
    if (skip(']')) return json;
    do {
      json.push(value(depth + 1));
    } while (skip(','));
    expectThat(skip(']'), "an array does not end");
    return json;
  }

  std::string string() {
    std::string text;
    for (++at_; peek() != '"'; ++at_) {
      if (text_[at_] != '\\') {
        text += text_[at_];
        continue;
      }
      ++at_;
      escape(text);
    }
    ++at_;
    return text;
  }

  void escape(std::string& text) {
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
    const size_t known = kNames.find(peek());
    if (known != std::string_view::npos) {
      text += kValues[known];
      return;
    }
    expectThat(peek() == 'u' && at_ + 4 < text_.size(), "an unknown escape");
    unsigned code = 0;
    const auto end = std::from_chars(text_.data() + at_ + 1, text_.data() + at_ + 5, code, 16);
    expectThat(end.ptr == text_.data() + at_ + 5, "an unknown escape");
    at_ += 4;
    // Only in names, which are compared as they are: a code point of two bytes or more needs no exact form.
    text += code < 0x80 ? static_cast<char>(code) : '?';
  }

  std::string_view text_;
  const std::string& what_;
  size_t at_ = 0;
};

}  // namespace

Json& Json::set(const std::string& name, Json value) {
  if (isNull()) value_ = Object{};
  auto& members = std::get<Object>(value_);
  for (auto& member : members) {
    if (member.first == name) {
      member.second = std::move(value);
      return *this;
    }
  }
  members.emplace_back(name, std::move(value));
  return *this;
}

Json& Json::push(Json value) {
  if (isNull()) value_ = Array{};
  std::get<Array>(value_).push_back(std::move(value));
  return *this;
}

const Json& Json::at(std::string_view name) const {
  static const Json kNull;
  const auto* members = std::get_if<Object>(&value_);
  if (members == nullptr) return kNull;
  for (const auto& member : *members) {
    if (member.first == name) return member.second;
  }
  return kNull;
}

double Json::number() const { return expect<double>(value_, "a number"); }
int64_t Json::integer() const { return static_cast<int64_t>(number()); }
bool Json::boolean() const { return expect<bool>(value_, "true or false"); }
const std::string& Json::string() const { return expect<std::string>(value_, "a string"); }
const Json::Array& Json::items() const { return expect<Array>(value_, "an array"); }
const Json::Object& Json::members() const { return expect<Object>(value_, "an object"); }

std::string Json::text(int indent) const {
  std::string out;
  write(out, indent, 0);
  return out;
}

void Json::write(std::string& out, int indent, int depth) const {
  const auto line = [&](int level) {
    // Arrays and the innermost objects stay on one line.
    if (indent > 0 && level <= indent) out += "\n" + std::string(static_cast<size_t>(2 * level), ' ');
  };
  if (const auto* boolean = std::get_if<bool>(&value_)) {
    out += *boolean ? "true" : "false";
  } else if (const auto* number = std::get_if<double>(&value_)) {
    writeNumber(out, *number);
  } else if (const auto* string = std::get_if<std::string>(&value_)) {
    writeString(out, *string);
  } else if (const auto* array = std::get_if<Array>(&value_)) {
    out += '[';
    for (size_t i = 0; i < array->size(); ++i) {
      if (i > 0) out += ", ";
      line(depth + 1);
      (*array)[i].write(out, indent, depth + 1);
    }
    line(depth);
    out += ']';
  } else if (const auto* members = std::get_if<Object>(&value_)) {
    out += '{';
    for (size_t i = 0; i < members->size(); ++i) {
      if (i > 0) out += ", ";
      line(depth + 1);
      writeString(out, (*members)[i].first);
      out += ": ";
      (*members)[i].second.write(out, indent, depth + 1);
    }
    line(depth);
    out += '}';
  } else {
    out += "null";
  }
}

Json parseJson(std::string_view text, const std::string& what) { return Parser(text, what).document(); }

Json readJson(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  require(in.good(), ErrorCode::kModelInvalid, file.string() + " cannot be read");
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return parseJson(text, file.string());
}

}  // namespace hels::check
