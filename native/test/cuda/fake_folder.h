// A folder in which a fake library has the name of the real one.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/cuda/dynamic_library.h"

namespace hels::test {

class FakeFolder {
 public:
  FakeFolder(const std::filesystem::path& library, const std::string& soname)
      : path_(std::filesystem::temp_directory_path() /
              ("hels-fake-" + std::to_string(::getpid()) + "-" + std::to_string(++made))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
    std::filesystem::copy_file(library, path_ / soname);
  }
  ~FakeFolder() { std::filesystem::remove_all(path_); }
  FakeFolder(const FakeFolder&) = delete;
  FakeFolder& operator=(const FakeFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Finds the fake and nothing else.
  cuda::LibrarySearch search() const { return {.named = {path_}, .system = false, .folders = {}}; }

 private:
  inline static int made = 0;  // the loader knows a path again, so each has its own

  std::filesystem::path path_;
};

}  // namespace hels::test
