// KV that lies with another rank of the GPU: the bits are those of KV at home.
#include <random>
#include <vector>

#include "check/sections.h"
#include "check/splits.h"
#include "reference/kv_world.h"
#include "reference/reference_model.h"

namespace hels::check {
namespace {

using reference::RankShare;

struct Lending {
  const char* name;
  std::vector<RankShare> shares;
  std::vector<int64_t> deviceBlocks;  // by rank: the other addresses are lent
};

void checkLending(const reference::TinyModel& model, const Lending& lending, const Options& options, Item& item) {
  EngineOptions common = smallOptions(options.device);
  common.kvBlockTokens = 256;
  common.kvBlocks = 6;
  uint64_t exchanges = 0;
  double seconds = 0;
  for (uint64_t seed = 1; seed <= (options.quick ? 1U : 10U); ++seed) {
    std::mt19937_64 random(seed);
    reference::RankGroup group(model, lending.shares,
                               randomLoans(model, lending.shares, common, lending.deviceBlocks, random));
    reference::KvWorld world(model, group, common, {options.quick ? 2 : 4, 400, 128}, seed);
    int64_t steps = 0;
    item.expect(world.run(steps), "other bits in step " + std::to_string(steps) + ", seed " + std::to_string(seed));
    exchanges += group.engine(0).report().exchangeCount;
    seconds += group.engine(0).report().remoteSeconds;
  }
  item.expect(exchanges > 0, "nothing was exchanged");
  item.figure("exchanges", exchanges);
  item.figure("remoteSeconds", seconds);
}

}  // namespace

void checkLent(const Options& options, Report& report) {
  ModelSpec spec = reference::tinyLlama();
  spec.headDim = 64;
  spec.maxPositions = 600;
  spec.weightType = DataType::kBf16;
  if (options.quick) {
    spec.headDim = 16;
    spec.layers = 1;
    spec.slidingWindows.assign(1, 0);
  }
  const reference::TinyModel model = reference::makeTinyModel(spec, 19);
  const Lending lendings[] = {
      {"to one of two ranks", {{1, 1, 30}, {3, 0, 0}}, {6, 1}},
      {"among three ranks", {{1, 1, 10}, {2, 1, 0}, {1, 0, 0}}, {0, 2, 4}},
  };
  report.section("KV of other ranks", [&] {
    for (const Lending& lending : lendings) {
      report.item(lending.name, [&](Item& item) { checkLending(model, lending, options, item); });
    }
  });
}

}  // namespace hels::check
