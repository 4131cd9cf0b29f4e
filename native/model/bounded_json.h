// JSON of untrusted files: refused when it is nested deeper or has larger objects than its format can need, or names a
// key twice.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

namespace hels {

/// Throws kModelInvalid naming `file` and `what` ("header", "index").
nlohmann::json parseBoundedJson(std::span<const std::byte> text, const std::string& file, const std::string& what);

}  // namespace hels
