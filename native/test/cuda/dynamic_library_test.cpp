#include "base/cuda/dynamic_library.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "base/error.h"

namespace hels::cuda {
namespace {

namespace fs = std::filesystem;

/// A library whose only function `helsTestValue` returns 42.
const fs::path kFakeLibrary = HELS_TEST_LIBRARY;
constexpr const char* kSoname = "libhels_test.so.7";

/// A machine made of folders.
class DynamicLibraryTest : public ::testing::Test {
 protected:
  DynamicLibraryTest() {
    root_ = fs::temp_directory_path() / ("hels-library-" + std::to_string(::getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~DynamicLibraryTest() override { fs::remove_all(root_); }

  fs::path folder(const std::string& path) const {
    fs::create_directories(root_ / path);
    return root_ / path;
  }
  fs::path install(const std::string& path, const std::string& name = kSoname) const {
    fs::copy_file(kFakeLibrary, folder(path) / name);
    return root_ / path / name;
  }
  LibrarySearch search() const {
    LibrarySearch search = LibrarySearch::ofHost(
        [this](const char* name) -> std::optional<std::string> {
          const auto found = environment_.find(name);
          return found == environment_.end() ? std::nullopt : std::optional(found->second);
        },
        root_);
    search.system = false;  // the machine of the test must not matter
    return search;
  }
  std::string openedPath() const {
    const DynamicLibrary library = DynamicLibrary::open("fake", {kSoname}, search());
    EXPECT_EQ(library.function<int()>("helsTestValue")(), 42);
    return library.path();
  }
  std::string failure(const LibrarySearch& where) const {
    try {
      DynamicLibrary::open("fake", {kSoname, "libhels_test.so.6"}, where);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDeviceMissing);
      return error.what();
    }
    return "opened";
  }

  fs::path root_;
  std::map<std::string, std::string> environment_;
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_F(DynamicLibraryTest, TakesTheNamedFolderBeforeWheels) {
  install("opt/torch/.venv/lib/python3.12/site-packages/nvidia/nccl/lib");
  const fs::path named = install("own");
  environment_["HELS_CUDA_LIBRARY_PATH"] = (root_ / "missing").string() + "::" + (root_ / "own").string();
  EXPECT_EQ(openedPath(), named.string());
}

TEST_F(DynamicLibraryTest, TheNamedFolderMayBeSitePackages) {
  const fs::path file = install("packages/nvidia/cu13/lib");
  environment_["HELS_CUDA_LIBRARY_PATH"] = (root_ / "packages").string();
  EXPECT_EQ(openedPath(), file.string());
}

TEST_F(DynamicLibraryTest, FindsWheelsWhereverPythonMayBe) {
  const auto check = [this](const std::string& place, const char* variable, const std::string& value) {
    const fs::path file = install(place);
    if (variable != nullptr) environment_[variable] = value;
    EXPECT_EQ(openedPath(), file.string());
    fs::remove(file);
    environment_.clear();
  };
  const std::string site = "/lib/python3.11/site-packages/nvidia/nccl/lib";
  check("usr/lib/python3/dist-packages/nvidia/nccl/lib", nullptr, "");
  check("usr/local" + site, nullptr, "");
  check("opt/torch" + site, nullptr, "");
  check("opt/torch/.venv" + site, nullptr, "");
  check("venv" + site, "VIRTUAL_ENV", (root_ / "venv").string());
  check("home/.local" + site, "HOME", (root_ / "home").string());
  check("usr/local/cuda/lib64", nullptr, "");
  std::ofstream(folder("python/bin") / "python3") << "";
  check("python" + site, "PATH", "/nowhere:" + (root_ / "python/bin").string());
}

TEST_F(DynamicLibraryTest, PrefersTheNewerPython) {
  install("usr/lib/python3.9/site-packages/nvidia/nccl/lib");
  const fs::path newer = install("usr/lib/python3.12/site-packages/nvidia/nccl/lib");
  EXPECT_EQ(openedPath(), newer.string());
}

TEST_F(DynamicLibraryTest, TakesTheBestSonameOfAPlace) {
  install("own", "libhels_test.so.6");
  const fs::path best = install("own");
  environment_["HELS_CUDA_LIBRARY_PATH"] = (root_ / "own").string();
  EXPECT_EQ(DynamicLibrary::open("fake", {kSoname, "libhels_test.so.6"}, search()).path(), best.string());
}

TEST_F(DynamicLibraryTest, GoesOnAfterAFileThatDoesNotLoad) {
  std::ofstream(folder("broken") / kSoname) << "not a library";
  const fs::path good = install("own");
  environment_["HELS_CUDA_LIBRARY_PATH"] = (root_ / "broken").string() + ":" + (root_ / "own").string();
  EXPECT_EQ(openedPath(), good.string());
}

TEST_F(DynamicLibraryTest, SaysWhatWasTried) {
  std::ofstream(folder("broken") / kSoname) << "not a library";
  folder("opt/torch/lib/python3.12/site-packages/nvidia/nccl/lib");
  environment_["HELS_CUDA_LIBRARY_PATH"] = (root_ / "broken").string();
  LibrarySearch where = search();
  where.system = true;
  const std::string text = failure(where);
  EXPECT_TRUE(contains(text, "fake is not on this machine")) << text;
  EXPECT_TRUE(contains(text, std::string(kSoname) + ", libhels_test.so.6")) << text;
  EXPECT_TRUE(contains(text, (root_ / "broken" / kSoname).string() + ": ")) << text;  // the loader's reason
  EXPECT_TRUE(contains(text, "libhels_test.so.6: cannot open shared object file")) << text;
  EXPECT_TRUE(contains(text, "site-packages/nvidia/nccl/lib\n") || text.ends_with("nvidia/nccl/lib")) << text;
  EXPECT_TRUE(contains(text, "HELS_CUDA_LIBRARY_PATH")) << text;
}

TEST_F(DynamicLibraryTest, NamesAFunctionThatIsMissing) {
  install("own");
  environment_["HELS_CUDA_LIBRARY_PATH"] = (root_ / "own").string();
  const DynamicLibrary library = DynamicLibrary::open("fake", {kSoname}, search());
  try {
    library.function<int()>("helsNoSuchFunction");
    FAIL() << "found";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDeviceMissing);
    EXPECT_TRUE(contains(error.what(), "fake has no function helsNoSuchFunction: " + library.path())) << error.what();
  }
}

TEST(LibrarySearch, OfThisHostHasOnlyFolders) {
  const LibrarySearch search = LibrarySearch::ofHost();
  EXPECT_TRUE(search.system);
  for (const fs::path& folder : search.folders) EXPECT_TRUE(fs::is_directory(folder)) << folder;
}

}  // namespace
}  // namespace hels::cuda
