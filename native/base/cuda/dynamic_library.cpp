#include "base/cuda/dynamic_library.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace hels::cuda {
namespace {

namespace fs = std::filesystem;

bool isFolder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool isFile(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

/// The folders in `folder` whose name starts with `prefix`, higher version numbers first. None when it cannot be read.
std::vector<fs::path> childFolders(const fs::path& folder, std::string_view prefix = "") {
  std::vector<fs::path> children;
  std::error_code error;
  for (auto entry = fs::directory_iterator(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with(prefix) && isFolder(entry->path())) children.push_back(entry->path());
  }
  std::ranges::sort(children,
                    [](const fs::path& a, const fs::path& b) { return ::strverscmp(a.c_str(), b.c_str()) > 0; });
  return children;
}

/// The folders for libraries of NVIDIA's wheels in one site-packages folder.
std::vector<fs::path> wheelFolders(const fs::path& sitePackages) {
  std::vector<fs::path> folders;
  for (const fs::path& wheel : childFolders(sitePackages / "nvidia")) {
    if (isFolder(wheel / "lib")) folders.push_back(wheel / "lib");
  }
  return folders;
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(':', begin), list.size());
    if (end > begin) parts.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// Folders that a Python may be installed under (they have lib/python3*): of the environment's own Python first.
std::vector<fs::path> pythonPrefixes(const LibrarySearch::Environment& environment, const fs::path& root) {
  std::vector<fs::path> prefixes;
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const auto value = environment(name); value && !value->empty()) prefixes.emplace_back(*value);
  }
  for (const std::string& folder : split(environment("PATH").value_or(""))) {
    std::error_code ignored;
    if (fs::exists(fs::path(folder) / "python3", ignored)) prefixes.push_back(fs::path(folder).parent_path());
  }
  if (const auto home = environment("HOME"); home && !home->empty()) prefixes.push_back(fs::path(*home) / ".local");
  prefixes.push_back(root / "usr/local");
  prefixes.push_back(root / "usr");
  for (const fs::path& folder : childFolders(root / "opt")) {
    prefixes.push_back(folder);
    for (const fs::path& inner : childFolders(folder)) prefixes.push_back(inner);
  }
  return prefixes;
}

void appendNew(std::vector<fs::path>& folders, const std::vector<fs::path>& more) {
  for (const fs::path& folder : more) {
    if (std::ranges::find(folders, folder) == folders.end()) folders.push_back(folder);
  }
}

/// One library's way through the places; collects why each failed.
class Attempt {
 public:
  explicit Attempt(const std::vector<std::string>& sonames) : sonames_(sonames) {}

  /// The handle, or null.
  void* inFolders(const std::vector<fs::path>& folders) {
    for (const std::string& soname : sonames_) {
      for (const fs::path& folder : folders) {
        if (!isFile(folder / soname)) continue;
        if (void* handle = load((folder / soname).string())) return handle;
      }
    }
    return nullptr;
  }

  void* inSystem() {
    for (const std::string& soname : sonames_) {
      if (void* handle = load(soname)) return handle;
    }
    return nullptr;
  }

  const std::string& failures() const { return failures_; }

 private:
  void* load(const std::string& file) {
    // NODELETE: see function().
    void* handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (handle == nullptr) {
      const char* reason = ::dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps it per thread
      failures_ += "\n  " + std::string(reason != nullptr ? reason : (file + ": unknown reason").c_str());
    }
    return handle;
  }

  const std::vector<std::string>& sonames_;
  std::string failures_;
};

std::string listText(const std::vector<fs::path>& folders) {
  std::string text;
  for (const fs::path& folder : folders) text += "\n  " + folder.string();
  return text.empty() ? "\n  (no such folder)" : text;
}

std::string notFoundText(const std::string& title, const std::vector<std::string>& sonames, const LibrarySearch& search,
                         const std::string& failures) {
  std::string names;
  for (const std::string& soname : sonames) names += (names.empty() ? "" : ", ") + soname;
  return title + " is not on this machine or does not load (" + names +
         "); install it, or let HELS_CUDA_LIBRARY_PATH " +
         "name the folder that holds it. Tried to load:" + (failures.empty() ? "\n  (no such file)" : failures) +
         "\nLooked into, of HELS_CUDA_LIBRARY_PATH:" + listText(search.named) +
         "\nof CUDA toolkits and Python wheels (site-packages/nvidia/*/lib):" + listText(search.folders);
}

}  // namespace

LibrarySearch LibrarySearch::ofHost() {
  const auto environment = [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing of ours sets these
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  return ofHost(environment, "/");
}

LibrarySearch LibrarySearch::ofHost(const Environment& environment, const fs::path& root) {
  LibrarySearch search;
  for (const std::string& folder : split(environment("HELS_CUDA_LIBRARY_PATH").value_or(""))) {
    if (isFolder(folder)) appendNew(search.named, {folder});
    appendNew(search.named, wheelFolders(folder));
  }
  for (const fs::path& toolkit : {fs::path(environment("CUDA_HOME").value_or("")), root / "usr/local/cuda"}) {
    if (!toolkit.empty() && isFolder(toolkit / "lib64")) appendNew(search.folders, {toolkit / "lib64"});
  }
  for (const fs::path& prefix : pythonPrefixes(environment, root)) {
    // Debian's own packages lie in lib/python3/dist-packages.
    for (const fs::path& python : childFolders(prefix / "lib", "python3")) {
      appendNew(search.folders, wheelFolders(python / "site-packages"));
      appendNew(search.folders, wheelFolders(python / "dist-packages"));
    }
  }
  return search;
}

DynamicLibrary::DynamicLibrary(std::string title, void* handle) : title_(std::move(title)), handle_(handle) {
  const link_map* map = nullptr;
  const bool known = ::dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr && map->l_name != nullptr;
  path_ = known ? map->l_name : title_;
}

DynamicLibrary DynamicLibrary::open(const std::string& title, const std::vector<std::string>& sonames,
                                    const LibrarySearch& search) {
  Attempt attempt(sonames);
  void* handle = attempt.inFolders(search.named);
  if (handle == nullptr && search.system) handle = attempt.inSystem();
  if (handle == nullptr) handle = attempt.inFolders(search.folders);
  require(handle != nullptr, ErrorCode::kDeviceMissing, notFoundText(title, sonames, search, attempt.failures()));
  return {title, handle};
}

void* DynamicLibrary::symbol(const char* name) const {
  void* address = ::dlsym(handle_, name);
  require(address != nullptr, ErrorCode::kDeviceMissing,
          title_ + " has no function " + name + ": " + path_ + " is too old or is another library");
  return address;
}

}  // namespace hels::cuda
