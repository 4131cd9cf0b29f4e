#include "check/splits.h"

#include <bit>
#include <cstdio>

#include "comm/cuda/local_device_communicator.h"
#include "kernels/cpu/gemm.h"

namespace hels::check {

std::vector<Split> splitsOf(const ModelSpec& model) {
  const int64_t heads = model.headGroups;
  const int64_t granules = divCeil(model.ffnColumns, model.ffnGranule);
  const int64_t rows = model.vocabRows;
  return {{"1 rank", {{heads, 0, 0}}},
          {"2 ranks", {{heads - heads / 2, granules / 3, rows / 4}, {heads / 2, 0, 0}}},
          {"3 ranks", {{heads / 2, granules / 4, rows / 3}, {heads - heads / 2, granules / 2, 0}, {0, 0, 0}}}};
}

EngineOptions smallOptions(const std::string& device) {
  EngineOptions options = reference::tinyOptions();
  options.device = device;
  options.stepTokensMax = 512;
  return options;
}

void sumOnDevice(reference::RankGroup& group) {
  const auto shared = cuda::LocalDeviceGroup::create(static_cast<int>(group.ranks()));
  for (size_t rank = 0; rank < group.ranks(); ++rank) {
    group.engine(rank).connectDevice(shared->communicator(static_cast<int>(rank)));
  }
}

std::string hashOf(const std::vector<float>& values) {
  uint64_t hash = 0xCBF29CE484222325U;
  for (const float value : values) {
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ (bits >> shift & 0xFFU)) * 0x100000001B3U;
  }
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

}  // namespace hels::check
