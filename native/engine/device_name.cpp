#include "engine/device_name.h"

#include <charconv>

#include "base/error.h"

namespace hels {

std::optional<int> cudaDeviceOf(const std::string& device) {
  if (device == "cpu") return std::nullopt;
  const std::string prefix = "cuda:";
  int number = -1;
  if (device.starts_with(prefix)) {
    const char* end = device.data() + device.size();
    const auto [stop, error] = std::from_chars(device.data() + prefix.size(), end, number);
    if (error != std::errc() || stop != end) number = -1;
  }
  require(number >= 0 && number < 1024, ErrorCode::kShapeInvalid,
          "device is \"" + device + R"("; allowed are "cpu" and "cuda:0" to "cuda:1023")");
  return number;
}

}  // namespace hels
