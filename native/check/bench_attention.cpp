// How long attention takes at the shapes' heads: decode against the bandwidth of reading its KV, prefill against the
// matrix rate.
#include <algorithm>
#include <numeric>
#include <random>

#include "base/cuda/check.h"
#include "check/random_values.h"
#include "check/sections.h"
#include "check/shapes.h"
#include "check/timing.h"
#include "kernels/cuda/attention.h"

namespace hels::check {
namespace {

using cuda::DeviceBuffer;

constexpr int64_t kBlockTokens = 16;
// KV of one layer at most; and copies of it are taken in turns until they exceed any cache.
constexpr int64_t kKvBytesMax = int64_t{12} << 30;
constexpr int64_t kTurnsBytes = int64_t{512} << 20;

/// A step of equal sequences over a cache whose blocks lie in random order.
class Step {
 public:
  Step(const ModelSpec& model, int64_t sequences, int64_t tokens, int64_t context, int64_t turns)
      : model_(model), sequences_(sequences), tokens_(tokens), context_(context) {
    blocksPerSequence_ = (context + kBlockTokens - 1) / kBlockTokens;
    blocks_ = blocksPerSequence_ * sequences * turns;
    const int64_t elements = model.headGroups * blocks_ * kBlockTokens * model.headDim;
    keys_ = randomBuffer(model.weightType, elements, 41);
    values_ = randomBuffer(model.weightType, elements, 42);
    const int64_t width = model.headGroups * model.queryHeadsPerGroup * model.headDim;
    queries_ = randomBuffer(model.weightType, sequences * tokens * width, 43);
    output_ = randomBuffer(model.weightType, sequences * tokens * width, 44);
    std::vector<int32_t> order(static_cast<size_t>(blocks_));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(45));
    tables_ = upload(order);
    std::vector<int32_t> first, count, start, sequenceOf, positions;
    for (int64_t sequence = 0; sequence < sequences; ++sequence) {
      first.push_back(static_cast<int32_t>(sequence * tokens));
      count.push_back(static_cast<int32_t>(tokens));
      start.push_back(static_cast<int32_t>(context - tokens));
      for (int64_t token = 0; token < tokens; ++token) {
        sequenceOf.push_back(static_cast<int32_t>(sequence));
        positions.push_back(static_cast<int32_t>(context - tokens + token));
      }
    }
    first_ = upload(first);
    count_ = upload(count);
    start_ = upload(start);
    sequenceOf_ = upload(sequenceOf);
    positions_ = upload(positions);
    workspace_ = DeviceBuffer(cuda::attentionWorkspaceBytes(attention(), kv(), sequences, context), "attention");
  }

  void run(int turn, cudaStream_t stream) const {
    cuda::DeviceBatch batch;
    batch.sequences = sequences_;
    batch.tokens = sequences_ * tokens_;
    batch.tokensPerSequenceMax = tokens_;
    batch.contextMax = context_;
    batch.firstToken = first_.as<int32_t>();
    batch.tokenCount = count_.as<int32_t>();
    batch.startPosition = start_.as<int32_t>();
    batch.blockTableStride = blocksPerSequence_;
    batch.sequenceOf = sequenceOf_.as<int32_t>();
    batch.positions = positions_.as<int32_t>();
    const int64_t turns = blocks_ / (blocksPerSequence_ * sequences_);
    batch.blockTables = tables_.as<int32_t>() + turn % turns * blocksPerSequence_ * sequences_;
    const int64_t width = model_.headGroups * model_.queryHeadsPerGroup * model_.headDim;
    cuda::attend(attention(), kv(), batch, queries_.data(), width, output_.data(), width, workspace_.data(), stream);
  }

 private:
  cuda::AttentionModel attention() const { return {model_.queryHeadsPerGroup, 0, 0.088F}; }
  cuda::DeviceKv kv() const {
    return {model_.weightType, keys_.data(), values_.data(), model_.headGroups, blocks_, kBlockTokens, model_.headDim};
  }

  const ModelSpec& model_;
  int64_t sequences_;
  int64_t tokens_;
  int64_t context_;
  int64_t blocksPerSequence_ = 0;
  int64_t blocks_ = 0;
  DeviceBuffer keys_, values_, queries_, output_, tables_, first_, count_, start_, sequenceOf_, positions_, workspace_;
};

int64_t kvBytes(const ModelSpec& model, int64_t tokens) {
  return 2 * model.headGroups * model.headDim * tokens * static_cast<int64_t>(bytesOf(model.weightType));
}

void measureDecode(const ModelSpec& model, int64_t sequences, int64_t context, const DeviceLimits& limits, bool quick,
                   Item& item) {
  const int64_t bytes = kvBytes(model, sequences * context);
  const int64_t turns = quick ? 1 : std::clamp<int64_t>(kTurnsBytes / bytes + 1, 1, 64);
  const Step step(model, sequences, 1, context, turns);
  const Timing timing = timeWork(
      static_cast<int>(turns), [&](int turn, cudaStream_t stream) { step.run(turn, stream); }, shortTiming(quick));
  item.figure("sequences", sequences);
  item.figure("context", context);
  item.figure("seconds", timing.seconds);
  item.figure("bytesPerSecond", static_cast<double>(bytes) / timing.seconds);
  if (limits.bytesPerSecond() > 0) {
    item.figure("shareOfLimit", static_cast<double>(bytes) / timing.seconds / limits.bytesPerSecond());
  }
}

void measurePrefill(const ModelSpec& model, int64_t tokens, int64_t context, const DeviceLimits& limits, bool quick,
                    Item& item) {
  const Step step(model, 1, tokens, context, 1);
  const Timing timing = timeWork(
      1, [&](int turn, cudaStream_t stream) { step.run(turn, stream); }, shortTiming(quick));
  const double seen =
      static_cast<double>(tokens) * (static_cast<double>(context - tokens) + (static_cast<double>(tokens) + 1) / 2);
  const double flop = 4.0 * static_cast<double>(model.headGroups * model.queryHeadsPerGroup * model.headDim) * seen;
  item.figure("tokens", tokens);
  item.figure("context", context);
  item.figure("seconds", timing.seconds);
  item.figure("flopPerSecond", flop / timing.seconds);
  if (limits.matrixFlopPerSecond > 0) {
    item.figure("shareOfLimit", flop / timing.seconds / limits.matrixFlopPerSecond);
  }
}

}  // namespace

void benchAttention(const Options& options, const DeviceLimits& limits, Report& report) {
  const std::vector<std::string> shapes = options.quick ? std::vector<std::string>{"tiny"} : options.shapes;
  for (const std::string& name : shapes) {
    report.section("attention of " + name, [&] {
      const ModelSpec model = shapeNamed(name);
      const std::vector<int64_t> contexts =
          options.quick ? std::vector<int64_t>{70} : std::vector<int64_t>{1024, 4096, 16384, 65536};
      for (const int64_t sequences : {1, 64}) {
        for (const int64_t context : contexts) {
          if (kvBytes(model, sequences * context) > kKvBytesMax) continue;
          report.item("decode " + std::to_string(sequences) + " x " + std::to_string(context), [&](Item& item) {
            measureDecode(model, options.quick ? 2 : sequences, context, limits, options.quick, item);
          });
        }
      }
      const std::vector<std::pair<int64_t, int64_t>> chunks =
          options.quick ? std::vector<std::pair<int64_t, int64_t>>{{20, 40}}
                        : std::vector<std::pair<int64_t, int64_t>>{{2048, 2048}, {2048, 16384}, {512, 4096}};
      for (const auto& [tokens, context] : chunks) {
        report.item("prefill " + std::to_string(tokens) + " of " + std::to_string(context),
                    [&](Item& item) { measurePrefill(model, tokens, context, limits, options.quick, item); });
      }
    });
  }
}

}  // namespace hels::check
