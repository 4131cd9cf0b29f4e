#include "check/options.h"

#include <charconv>

#include "base/error.h"

namespace hels::check {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorCode::kShapeInvalid, message); }

int deviceIndexOf(const std::string& device) {
  if (device == "cpu") return -1;
  int index = -1;
  const std::string prefix = "cuda:";
  if (device.starts_with(prefix)) {
    const char* end = device.data() + device.size();
    const auto parsed = std::from_chars(device.data() + prefix.size(), end, index);
    if (parsed.ec == std::errc() && parsed.ptr == end && index >= 0) return index;
  }
  refuse("--device is '" + device + "'; it must be cuda:0, cuda:1, ... or cpu");
}

double secondsOf(const std::string& text) {
  double seconds = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || !(seconds > 0 && seconds <= 86400)) {
    refuse("--seconds is '" + text + "'; it must be a number above 0, at most 86400");
  }
  return seconds;
}

std::vector<std::string> shapesOf(const std::string& text) {
  std::vector<std::string> shapes;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string name = text.substr(begin, end - begin);
    if (name != "8b" && name != "13b" && name != "tiny") {
      refuse("--shapes has '" + name + "'; known are 8b, 13b and tiny");
    }
    shapes.push_back(name);
    begin = end + 1;
  }
  return shapes;
}

/// The switch of the part that `argument` names; null: it names none.
bool* partOf(const std::string& argument, Options& options) {
  if (argument == "--kernels") return &options.kernels;
  if (argument == "--goldens") return &options.goldens;
  if (argument == "--nccl") return &options.nccl;
  if (argument == "--bench") return &options.bench;
  if (argument == "--steps") return &options.steps;
  if (argument == "--moves") return &options.moves;
  if (argument == "--partitions") return &options.partitions;
  return nullptr;
}

}  // namespace

const char* usage() {
  return "hels-native-check [--device cuda:0|cpu] [--json FILE] [--kernels] [--goldens [--models DIR...]] [--bench]\n"
         "                  [--nccl] [--steps] [--moves] [--partitions] [--shapes 8b,13b] [--quick]\n"
         "                  [--seconds N]\n"
         "Checks the kernels of Hels on this GPU against their twins, whole models against goldens, and measures.\n"
         "Without a choice of parts: all but --nccl and --partitions. --seconds is the limit of each section (60).\n"
         "Exit code: 0 all checks passed, 1 not, 2 wrong usage, 3 no such device.\n";
}

Options parseOptions(const std::vector<std::string>& arguments) {
  Options options;
  bool chosen = false;  // any part
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 >= arguments.size()) refuse(name + " needs a value");
      return arguments[++i];
    };
    if (name == "--device") {
      options.device = value();
      options.deviceIndex = deviceIndexOf(options.device);
    } else if (name == "--json") {
      options.json = value();
    } else if (name == "--models") {
      options.models.emplace_back(value());
      while (i + 1 < arguments.size() && !arguments[i + 1].starts_with("--")) options.models.emplace_back(value());
    } else if (name == "--shapes") {
      options.shapes = shapesOf(value());
    } else if (name == "--quick") {
      options.quick = true;
    } else if (name == "--seconds") {
      options.seconds = secondsOf(value());
    } else if (bool* const part = partOf(name, options)) {
      *part = true;
      chosen = true;
    } else {
      refuse("unknown argument '" + name + "'");
    }
  }
  if (!chosen) options.kernels = options.goldens = options.bench = options.steps = options.moves = true;
  return options;
}

}  // namespace hels::check
