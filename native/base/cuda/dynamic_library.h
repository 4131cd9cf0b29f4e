// Libraries that a machine may lack (NCCL, cuBLASLt) are opened when they are first needed, so one build serves
// machines with and without them.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace hels::cuda {

/// Where a library may lie. All folders exist.
struct LibrarySearch {
  /// The value of an environment variable, if it is set.
  using Environment = std::function<std::optional<std::string>(const char* name)>;

  std::vector<std::filesystem::path> named;    // what HELS_CUDA_LIBRARY_PATH lists; before everything else
  bool system = true;                          // the loader's own search: LD_LIBRARY_PATH, ldconfig
  std::vector<std::filesystem::path> folders;  // CUDA toolkits' and Python wheels' (site-packages/nvidia/*/lib); last

  /// Of this machine. HELS_CUDA_LIBRARY_PATH lists folders separated by ':'; of each, `nvidia/*/lib` counts too, so
  /// that it may name a site-packages folder. `root` stands for "/" (tests).
  static LibrarySearch ofHost();
  static LibrarySearch ofHost(const Environment& environment, const std::filesystem::path& root);
};

class DynamicLibrary {
 public:
  /// Opens the first of `sonames` (best first) that is found and loads. `title` is its name for people. Throws
  /// kDeviceMissing listing what was tried and why each one failed.
  static DynamicLibrary open(const std::string& title, const std::vector<std::string>& sonames,
                             const LibrarySearch& search = LibrarySearch::ofHost());

  /// The function `name` with the signature `Signature`, which nothing checks. Throws kDeviceMissing naming the
  /// file when it has none. Valid to the end of the process: a CUDA library has threads and is never unloaded.
  template <typename Signature>
  Signature* function(const char* name) const {
    return reinterpret_cast<Signature*>(symbol(name));
  }

  /// The file that was loaded.
  const std::string& path() const { return path_; }

 private:
  DynamicLibrary(std::string title, void* handle);
  void* symbol(const char* name) const;

  std::string title_;
  void* handle_;
  std::string path_;
};

}  // namespace hels::cuda
