// The command line of hels-native-check.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace hels::check {

struct Options {
  std::string device = "cuda:0";  // or "cpu": only what runs there
  int deviceIndex = 0;            // of device
  std::filesystem::path json;     // empty: no file
  bool kernels = false;
  bool goldens = false;
  bool bench = false;  // products and attention
  bool steps = false;  // whole steps of models
  bool nccl = false;
  bool moves = false;  // parked KV, plans that change, KV of other ranks
  bool partitions = false;
  std::vector<std::filesystem::path> models;  // folders of goldens, or folders that hold such folders
  std::vector<std::string> shapes{"8b", "13b"};
  bool quick = false;   // sizes that the emulation of a GPU manages in seconds
  double seconds = 60;  // for each section
};

/// Throws kShapeInvalid naming the argument. Without a choice of parts, all of them that need no paths.
Options parseOptions(const std::vector<std::string>& arguments);

/// What --help prints.
const char* usage();

}  // namespace hels::check
