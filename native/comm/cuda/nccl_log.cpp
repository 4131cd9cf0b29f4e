#include "comm/cuda/nccl_log.h"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace hels::cuda {
namespace {

constexpr int kKeep = 0;

// NOLINTBEGIN(concurrency-mt-unsafe): once, before NCCL has threads
std::string valueOf(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void set(const char* name, const std::string& value) { (void)::setenv(name, value.c_str(), kKeep); }
// NOLINTEND(concurrency-mt-unsafe)

}  // namespace

std::string connectionsInLog(const std::string& log) {
  constexpr std::string_view kMark = " via ";
  std::vector<std::string> found;
  std::string text;
  for (size_t at = log.find(kMark); at != std::string::npos; at = log.find(kMark, at + 1)) {
    const size_t begin = at + kMark.size();
    const std::string word = log.substr(begin, log.find_first_of(" \r\n", begin) - begin);
    const bool transport = word.starts_with("P2P") || word.starts_with("SHM") || word.starts_with("NET");
    bool known = false;
    for (const std::string& other : found) known = known || other == word;
    if (!transport || known) continue;
    found.push_back(word);
    text += (text.empty() ? "" : ", ") + word;
  }
  return text;
}

NcclLog& NcclLog::instance() {
  static NcclLog log;
  return log;
}

NcclLog::NcclLog() {
  set("NCCL_ALGO", "Ring");
  set("NCCL_PROTO", "Simple");
  if (!valueOf("NCCL_DEBUG").empty() || !valueOf("NCCL_DEBUG_FILE").empty()) return;
  std::error_code failed;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(failed);
  if (failed) return;
  path_ = (folder / "hels-nccl-XXXXXX").string();
  descriptor_ = ::mkstemp(path_.data());
  if (descriptor_ < 0) return;
  set("NCCL_DEBUG_FILE", path_);
  set("NCCL_DEBUG", "INFO");
}

std::string NcclLog::take() {
  const std::lock_guard lock(mutex_);
  if (descriptor_ < 0) return "";
  std::string text;
  std::array<char, 4096> buffer{};
  for (ssize_t bytes = 0; (bytes = ::read(descriptor_, buffer.data(), buffer.size())) > 0;)
    text.append(buffer.data(), static_cast<size_t>(bytes));
  if (!text.empty()) last_ = std::move(text);
  if (!last_.empty() && !path_.empty()) {
    (void)::unlink(path_.c_str());  // NCCL and we have it open
    path_.clear();
  }
  return last_;
}

std::string NcclLog::pinned() const { return valueOf("NCCL_ALGO") + ", " + valueOf("NCCL_PROTO"); }

}  // namespace hels::cuda
