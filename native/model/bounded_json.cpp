#include "model/bounded_json.h"

#include <set>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace hels {
namespace {

using nlohmann::json;

constexpr int kDepthMax = 8;  // safetensors needs 3

/// Called by the parser as it goes, so nothing is built of what is refused.
class Guard {
 public:
  Guard(const std::string& file, const std::string& what) : prefix_(file + ": the " + what) {}

  bool operator()(int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      require(depth < kDepthMax, ErrorCode::kModelInvalid,
              prefix_ + " is nested deeper than " + std::to_string(kDepthMax) + " levels");
    }
    const auto level = static_cast<size_t>(depth);
    if (event == json::parse_event_t::object_start) {
      keys_.resize(level + 1);
      keys_.emplace_back();
    }
    if (event == json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      require(keys_.at(level).insert(key).second, ErrorCode::kModelInvalid,
              prefix_ + " has the name " + nameText(key) + " twice");
    }
    return true;
  }

 private:
  std::string prefix_;
  std::vector<std::set<std::string>> keys_;  // of the open objects, by depth
};

}  // namespace

json parseBoundedJson(std::span<const std::byte> text, const std::string& file, const std::string& what) {
  const auto* begin = reinterpret_cast<const char*>(text.data());
  try {
    return json::parse(begin, begin + text.size(), Guard(file, what));
  } catch (const json::exception& error) {
    throw Error(ErrorCode::kModelInvalid, file + ": the " + what + " is not valid JSON: " + error.what());
  }
}

}  // namespace hels
