// KV that is parked in host memory and brought back: its bits, the rate beside that of the link, and what a decode step
// pays for moves that go on beside it.
#include <algorithm>
#include <memory>
#include <vector>

#include "check/sections.h"
#include "check/shapes.h"
#include "check/splits.h"
#include "check/step_batches.h"
#include "engine/cuda/cuda_engine.h"
#include "engine/cuda/host_link.h"
#include "reference/kv_world.h"
#include "reference/reference_model.h"

namespace hels::check {
namespace {

using Moves = std::vector<KvMove>;

/// Sequences of a small model that are placed, parked and brought back at random, against one that rests.
void checkWorld(const ModelSpec& spec, const Split& split, const Options& options, Item& item) {
  const reference::TinyModel model = reference::makeTinyModel(spec, 5);
  EngineOptions pool = smallOptions(options.device);
  pool.kvBlocks = 18;
  pool.kvParkedBlocks = 12;
  for (const int64_t deviceBlocks : {18, 22}) {  // none and some of the parked addresses on the device
    pool.kvDeviceBlocks = deviceBlocks;
    reference::RankGroup group(model, split.shares, pool);
    reference::KvWorld world(model, group, pool, {3, options.quick ? 40 : 150, 40}, 3);
    int64_t steps = 0;
    const bool same = world.run(steps);
    item.figure("steps", steps);
    item.expect(same, "other bits in step " + std::to_string(steps) + " with " + std::to_string(deviceBlocks) +
                          " blocks on the device");
  }
}

/// What is moved and decoded at the sizes of a real model.
struct Sizes {
  int64_t blockTokens = 16;
  int64_t moves = 64;  // of a step: as many as the scheduler makes at most, of 16 tokens
  int64_t batch = 32;
  int64_t context = 1024;
  int steps = 15;

  int64_t tableBlocks() const { return context / blockTokens; }
  /// Blocks of the decoding sequences, then those that rest.
  int64_t decodeBlocks() const { return batch * tableBlocks(); }
};

Sizes sizesOf(bool quick, int64_t blockTokens) {
  if (quick) return {blockTokens, 2, 3, 2 * blockTokens, 2};
  return {blockTokens, 1024 / blockTokens, 32, 1024, 15};
}

class MovingEngine {
 public:
  MovingEngine(const Options& options, const ModelSpec& model, const Sizes& sizes) : sizes_(sizes) {
    EngineOptions engine;
    engine.device = options.device;
    engine.kvBlockTokens = sizes.blockTokens;
    engine.kvBlocks = sizes.decodeBlocks() + 4 * sizes.moves;
    engine.kvParkedBlocks = 4 * sizes.moves;
    engine.sequencesMax = sizes.batch;
    engine.stepTokensMax = std::max<int64_t>(sizes.batch, 64);
    const ShardSpec whole{0, 1, {0, model.headGroups}, {0, model.ffnColumns}, {0, model.vocabRows}};
    engine_ = cuda::loadRandomCudaEngine(model, whole, engine, 51);
    firstParked_ = engine.kvBlocks;
    for (int64_t slot = 0; slot < sizes.batch; ++slot) {
      SequenceStep sequence;
      sequence.slot = static_cast<int32_t>(slot);
      sequence.tokens = {static_cast<int32_t>(1 + slot)};
      sequence.startPosition = sizes.context - 1;
      for (int64_t block = 0; block < sizes.tableBlocks(); ++block) {
        sequence.blockTable.push_back(static_cast<int32_t>(slot + block * sizes.batch));
      }
      sequence.sampling = SamplingParameters{};
      decode_.push_back(sequence);
    }
  }

  EngineReport report() const { return engine_->report(); }
  double blockBytes() const {
    return static_cast<double>(report().kvHostBytes) / static_cast<double>(4 * sizes_.moves);
  }
  /// One of four sets of moves of blocks that rest (`first` = decodeBlocks()) or that are decoded (0), far apart.
  Moves away(int64_t first, int64_t set) const {
    Moves moves;
    for (int64_t i = 0; i < sizes_.moves; ++i) {
      const int64_t index = set * sizes_.moves + (i * 7 + 3) % sizes_.moves;
      moves.push_back({static_cast<int32_t>(first + index), static_cast<int32_t>(firstParked_ + index)});
    }
    return moves;
  }
  static Moves back(Moves moves) {
    for (KvMove& move : moves) std::swap(move.from, move.to);
    return moves;
  }

  StepResult move(const Moves& moves) { return engine_->step({{}, moves, {}}); }
  /// All sequences' token at the same position, again.
  StepResult decode(const Moves& moves) { return engine_->step({decode_, moves, {}}); }

 private:
  const Sizes sizes_;
  std::unique_ptr<cuda::CudaEngine> engine_;
  int64_t firstParked_ = 0;
  std::vector<SequenceStep> decode_;
};

std::vector<int32_t> tokensOf(const StepResult& result) {
  std::vector<int32_t> tokens;
  for (const SampledToken& sampled : result.sampled) tokens.push_back(sampled.tokenId);
  return tokens;
}

/// Steps of moves alone: there, and back.
void measureRates(MovingEngine& engine, const Sizes& sizes, const cuda::HostLink& link, Item& item) {
  std::vector<double> away;
  std::vector<double> back;
  std::vector<double> both;
  for (int i = 0; i <= sizes.steps; ++i) {
    const Moves moves = engine.away(sizes.decodeBlocks(), i % 2);
    const Moves others = engine.away(sizes.decodeBlocks(), 2 + i % 2);
    const double evicting = engine.move(moves).totalSeconds;
    Moves mixed = MovingEngine::back(moves);
    mixed.insert(mixed.end(), others.begin(), others.end());
    const double mixing = engine.move(mixed).totalSeconds;
    const double reloading = engine.move(MovingEngine::back(others)).totalSeconds;
    if (i == 0) continue;  // pages and links are awake from now on
    away.push_back(evicting);
    both.push_back(mixing);
    back.push_back(reloading);
  }
  const double bytes = engine.blockBytes() * static_cast<double>(sizes.moves);
  item.figure("bytesOfStep", bytes);
  item.figure("linkToHostBytesPerSecond", link.toHost);
  item.figure("linkToDeviceBytesPerSecond", link.toDevice);
  item.figure("evictBytesPerSecond", bytes / median(away));
  item.figure("reloadBytesPerSecond", bytes / median(back));
  item.figure("bothBytesPerSecond", 2 * bytes / median(both));
  item.figure("evictShareOfLink", bytes / median(away) / link.toHost);
  item.figure("reloadShareOfLink", bytes / median(back) / link.toDevice);
}

/// Decode steps without moves, with moves of blocks that rest, and with such as they need; all sample the same tokens.
void measureDecode(MovingEngine& engine, const Sizes& sizes, Item& item) {
  const std::vector<int32_t> expected = tokensOf(engine.decode({}));
  const auto run = [&](const std::string& name, const Moves& moves, int i, std::vector<double>& seconds,
                       std::vector<double>& exposed) {
    const StepResult result = engine.decode(moves);
    item.expect(tokensOf(result) == expected, "other tokens in a step that " + name);
    if (i == 0) return;
    seconds.push_back(result.totalSeconds);
    exposed.push_back(result.moveSeconds);
  };
  std::vector<double> alone, evict, reload, needed, none, evictExposed, reloadExposed, neededExposed;
  for (int i = 0; i <= sizes.steps; ++i) {
    run("moves nothing", {}, i, alone, none);
    const Moves resting = engine.away(sizes.decodeBlocks(), i % 4);
    run("parks others", resting, i, evict, evictExposed);
    run("brings others back", MovingEngine::back(resting), i, reload, reloadExposed);
    const Moves used = engine.away(0, i % 4);
    engine.move(used);
    run("needs what comes back", MovingEngine::back(used), i, needed, neededExposed);
  }
  item.figure("seconds", median(alone));
  item.figure("besideEvictSeconds", median(evict));
  item.figure("besideReloadSeconds", median(reload));
  item.figure("neededReloadSeconds", median(needed));
  item.figure("besideEvictMoveSeconds", median(evictExposed));
  item.figure("besideReloadMoveSeconds", median(reloadExposed));
  item.figure("neededReloadMoveSeconds", median(neededExposed));
}

void checkShape(const Options& options, const ModelSpec& model, const Sizes& sizes, const cuda::HostLink& link,
                Report& report) {
  const std::string blocks = ", blocks of " + std::to_string(sizes.blockTokens) + " tokens";
  std::unique_ptr<MovingEngine> engine;
  const bool loaded = report.item("weights and parked KV" + blocks, [&](Item& item) {
    const Clock::time_point start = Clock::now();
    engine = std::make_unique<MovingEngine>(options, model, sizes);
    item.figure("kvHostBytes", engine->report().kvHostBytes);
    item.figure("seconds", std::chrono::duration<double>(Clock::now() - start).count());
  });
  if (!loaded) return;
  report.item("rates" + blocks, [&](Item& item) { measureRates(*engine, sizes, link, item); });
  report.item("decode" + blocks, [&](Item& item) { measureDecode(*engine, sizes, item); });
}

}  // namespace

void checkMoves(const Options& options, Report& report) {
  report.section("bits of parked KV", [&] {
    for (const DataType type : {DataType::kBf16, DataType::kF32}) {
      ModelSpec spec = reference::tinyLlama();
      spec.headDim = 16;
      spec.layers = 2;
      spec.slidingWindows = {9, 0};
      spec.maxPositions = 600;
      spec.weightType = type;
      for (const Split& split : splitsOf(spec)) {
        report.item(split.name + ", " + dataTypeName(type),
                    [&](Item& item) { checkWorld(spec, split, options, item); });
      }
    }
  });
  const std::vector<std::string> shapes = options.quick ? std::vector<std::string>{"tiny"} : options.shapes;
  for (const std::string& name : shapes) {
    report.section("moves of " + name, [&] {
      cuda::HostLink link;
      report.item("link to the host", [&](Item& item) {
        link = cuda::measureHostLink(options.deviceIndex);
        item.figure("toHostBytesPerSecond", link.toHost);
        item.figure("toDeviceBytesPerSecond", link.toDevice);
      });
      const ModelSpec model = shapeNamed(name);
      for (const int64_t blockTokens : {16, 64}) {
        checkShape(options, model, sizesOf(options.quick, blockTokens), link, report);
      }
    });
  }
}

}  // namespace hels::check
