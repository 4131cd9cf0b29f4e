#include "base/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

namespace hels {
namespace {

constexpr size_t kUnknown = std::numeric_limits<size_t>::max();

/// The number behind `name` in a file of names and numbers, a line each. None: there is no such file or line.
std::optional<size_t> numberIn(const char* path, const std::string& name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string first;
    size_t value = 0;
    if (words >> first >> value && first == name) return value;
  }
  return std::nullopt;
}

/// The number that a file consists of. None: there is no such file, or no limit in it ("max").
std::optional<size_t> numberIn(const char* path) {
  std::ifstream file(path);
  size_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

/// Of control groups, version 2. Pages of files go when others are wanted.
size_t availableOfGroup() {
  const std::optional<size_t> limit = numberIn("/sys/fs/cgroup/memory.max");
  const std::optional<size_t> used = numberIn("/sys/fs/cgroup/memory.current");
  if (!limit || !used) return kUnknown;
  size_t available = *limit > *used ? *limit - *used : 0;
  for (const char* name : {"active_file", "inactive_file"}) {
    available += numberIn("/sys/fs/cgroup/memory.stat", name).value_or(0);
  }
  return std::min(available, *limit);
}

size_t availableOfSystem() {
  const std::optional<size_t> kibibytes = numberIn("/proc/meminfo", "MemAvailable:");
  return kibibytes ? *kibibytes * 1024 : kUnknown;
}

}  // namespace

size_t availableHostBytes() { return std::min(availableOfSystem(), availableOfGroup()); }

}  // namespace hels
