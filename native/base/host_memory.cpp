#include "base/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace hels {
namespace {

constexpr size_t kUnknown = std::numeric_limits<size_t>::max();

size_t availableOfSystem() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  size_t kibibytes = 0;
  std::string unit;
  while (file >> name >> kibibytes) {
    if (name == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return kUnknown;
}

/// None: there is no such file, or no limit in it ("max").
std::optional<size_t> numberIn(const char* path) {
  std::ifstream file(path);
  size_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

/// Of control groups, version 2; pages of files that it could drop are not counted as available.
size_t availableOfGroup() {
  const std::optional<size_t> limit = numberIn("/sys/fs/cgroup/memory.max");
  const std::optional<size_t> used = numberIn("/sys/fs/cgroup/memory.current");
  if (!limit || !used) return kUnknown;
  return *limit > *used ? *limit - *used : 0;
}

}  // namespace

size_t availableHostBytes() { return std::min(availableOfSystem(), availableOfGroup()); }

}  // namespace hels
