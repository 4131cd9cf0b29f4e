// Attention and what prepares its heads: against their twins in f64, and bit for bit across chunks, companions,
// placement, and parts.
#include <algorithm>
#include <cmath>

#include "base/cuda/check.h"
#include "check/random_values.h"
#include "check/sections.h"
#include "kernels/cuda/heads.h"
#include "kernels/cuda/twins/attention.h"
#include "kernels/cuda/twins/heads.h"

namespace hels::check {
namespace {

using cuda::twins::AttentionScene;
using cuda::twins::SceneOptions;
using cuda::twins::SceneSequence;

SceneOptions sceneOf(DataType type, int64_t groups, int64_t queryHeadsPerGroup, int64_t headDim) {
  SceneOptions options;
  options.type = type;
  options.groups = groups;
  options.queryHeadsPerGroup = queryHeadsPerGroup;
  options.headDim = headDim;
  options.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(headDim)));
  return options;
}

/// Sampled rows and heads: the largest error as a share of what roundings may do.
void compareWithF64(const SceneOptions& options, const std::vector<SceneSequence>& sequences, Item& item) {
  const AttentionScene scene(options, sequences);
  const std::vector<float> outputs = scene.attended();
  double largestShare = 0;
  int64_t firstToken = 0;
  for (const SceneSequence& sequence : sequences) {
    for (const int64_t offset : {int64_t{0}, sequence.tokens / 2, sequence.tokens - 1}) {
      for (const int64_t head : {int64_t{0}, scene.queryHeads() - 1}) {
        const AttentionScene::Expected expected = scene.expected(sequence, offset, head);
        for (int64_t d = 0; d < options.headDim; ++d) {
          const auto at =
              static_cast<size_t>(((firstToken + offset) * scene.queryHeads() + head) * options.headDim + d);
          const double error = std::abs(outputs[at] - expected.output[static_cast<size_t>(d)]);
          const double share = error / expected.tolerance[static_cast<size_t>(d)];
          largestShare = std::isfinite(share) ? std::max(largestShare, share) : INFINITY;
        }
      }
    }
    firstToken += sequence.tokens;
  }
  item.figure("largestErrorOfTolerance", largestShare);
  item.expect(largestShare <= 1, "an error is " + std::to_string(largestShare) + " of what roundings explain");
}

/// The rows of sequence `index` of the scene.
std::vector<float> rowsOf(const AttentionScene& scene, const std::vector<float>& outputs, size_t index) {
  int64_t first = 0;
  for (size_t i = 0; i < index; ++i) first += scene.sequences()[i].tokens;
  const int64_t count = scene.sequences()[index].tokens;
  return {outputs.begin() + first * scene.rowElements(), outputs.begin() + (first + count) * scene.rowElements()};
}

void compareBits(const SceneOptions& options, int64_t context, Item& item) {
  const SceneSequence mine{7, context, 30};
  const std::vector<float> expected = AttentionScene(options, {mine}).attended();
  for (const int64_t tokens : {1, 13}) {
    std::vector<float> outputs;
    for (int64_t start = mine.start; start < mine.start + mine.tokens; start += tokens) {
      const int64_t count = std::min(tokens, mine.start + mine.tokens - start);
      const std::vector<float> rows = AttentionScene(options, {{7, start, count}}).attended();
      outputs.insert(outputs.end(), rows.begin(), rows.end());
    }
    item.expect(outputs == expected, "other bits in chunks of " + std::to_string(tokens));
  }
  SceneOptions other = options;
  other.blockTokens = 64;
  other.placement = 99;
  other.contextMax = 20000;
  const AttentionScene company(other, {{9, 3}, mine, {8, 40, 33}, {6, 0, 1}});
  item.expect(rowsOf(company, company.attended(), 1) == expected, "other bits in other company");
  const AttentionScene scene(options, {mine, {3, 0, 1}});
  const std::vector<float> whole = scene.attended();
  item.expect(scene.attendedInParts([](int64_t chunk) { return chunk % 2 == 1; }) == whole, "other bits in parts");
}

/// Rows of one sequence through bias, norm and rotation.
struct HeadsScene {
  static constexpr int64_t kGroups = 2, kPerGroup = 3, kHeadDim = 64, kTokens = 9, kBlockTokens = 16;
  static constexpr int64_t kQueryHeads = kGroups * kPerGroup;
  static constexpr int64_t kQueryColumns = kQueryHeads * kHeadDim;
  static constexpr int64_t kColumns = kQueryColumns + 2 * kGroups * kHeadDim;
  static constexpr uint64_t kRowSeed = 31, kBiasSeed = 32, kNormSeed = 33;
  static constexpr double kEpsilon = 1e-5;

  DataType type;
  std::vector<float> table;         // (kTokens, kHeadDim): cosines, then sines
  std::vector<float> queries;       // as stored by prepareHeads()
  std::vector<float> keys, values;  // (kGroups, 2 blocks, kBlockTokens, kHeadDim)

  explicit HeadsScene(DataType type) : type(type) {
    for (int64_t position = 0; position < kTokens; ++position) {
      for (int64_t d = 0; d < kHeadDim; ++d) {
        const double angle = static_cast<double>(position) * std::pow(100.0, -static_cast<double>(d % 32) / 32.0);
        table.push_back(static_cast<float>(d < kHeadDim / 2 ? std::cos(angle) : std::sin(angle)));
      }
    }
    run();
  }

  /// What prepareHeads() should give for a head: queries first, then keys, then values.
  std::vector<double> expected(int64_t token, int64_t head) const {
    std::vector<double> input, bias, norm, turn;
    for (int64_t d = 0; d < kHeadDim; ++d) {
      const int64_t column = head * kHeadDim + d;
      input.push_back(hostValue(DataType::kF32, kRowSeed, static_cast<uint64_t>(token * kColumns + column)));
      bias.push_back(hostValue(DataType::kF32, kBiasSeed, static_cast<uint64_t>(column)));
      if (head >= kQueryHeads + kGroups) continue;
      norm.push_back(
          hostValue(DataType::kF32, kNormSeed, static_cast<uint64_t>(head < kQueryHeads ? d : kHeadDim + d)));
      turn.push_back(table[static_cast<size_t>(token * kHeadDim + d)]);
    }
    return cuda::twins::prepareHead(input, bias, norm, kEpsilon, turn);
  }

  float found(int64_t token, int64_t head, int64_t d) const {
    if (head < kQueryHeads) return queries[static_cast<size_t>(token * kQueryColumns + head * kHeadDim + d)];
    const int64_t group = (head - kQueryHeads) % kGroups;
    // The sequence's only block is block 1.
    const auto slot = static_cast<size_t>(((group * 2 + 1) * kBlockTokens + token) * kHeadDim + d);
    return head < kQueryHeads + kGroups ? keys[slot] : values[slot];
  }

 private:
  void run() {
    std::vector<int32_t> positions(kTokens);
    for (int64_t i = 0; i < kTokens; ++i) positions[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    const auto rows = randomBuffer(DataType::kF32, kTokens * kColumns, kRowSeed);
    const auto bias = randomBuffer(DataType::kF32, kColumns, kBiasSeed);
    const auto norms = randomBuffer(DataType::kF32, 2 * kHeadDim, kNormSeed);
    const auto ropeTable = upload(table);
    const auto positionBuffer = upload(positions);
    const auto sequenceOf = upload(std::vector<int32_t>(kTokens, 0));
    const auto blockTable = upload(std::vector<int32_t>{1});
    const auto keyCache = randomBuffer(type, kGroups * 2 * kBlockTokens * kHeadDim, 34);
    const auto valueCache = randomBuffer(type, kGroups * 2 * kBlockTokens * kHeadDim, 35);
    const cuda::DeviceBuffer output(static_cast<size_t>(kTokens * kQueryColumns) * bytesOf(type), "queries");
    const cuda::DeviceKv kv{type, keyCache.data(), valueCache.data(), kGroups, 2, kBlockTokens, kHeadDim};
    cuda::DeviceBatch batch;
    batch.sequences = 1;
    batch.tokens = batch.tokensPerSequenceMax = batch.contextMax = kTokens;
    batch.blockTables = blockTable.as<int32_t>();
    batch.blockTableStride = 1;
    batch.sequenceOf = sequenceOf.as<int32_t>();
    batch.positions = positionBuffer.as<int32_t>();
    const cuda::HeadPreparation preparation{kPerGroup,
                                            bias.as<float>(),
                                            norms.as<float>(),
                                            norms.as<float>() + kHeadDim,
                                            static_cast<float>(kEpsilon),
                                            ropeTable.as<float>()};
    cuda::prepareHeads(preparation, kv, batch, rows.as<float>(), kColumns, output.data(), kQueryColumns, nullptr);
    cuda::check(cudaDeviceSynchronize(), "heads");
    const auto decoded = [&](const cuda::DeviceBuffer& buffer) {
      return cuda::twins::decode(type, download<std::byte>(buffer.data(), buffer.sizeBytes()));
    };
    queries = decoded(output);
    keys = decoded(keyCache);
    values = decoded(valueCache);
  }
};

void checkHeads(DataType type, Item& item) {
  const HeadsScene scene(type);
  double largestShare = 0;
  for (int64_t token = 0; token < HeadsScene::kTokens; ++token) {
    for (int64_t head = 0; head < HeadsScene::kColumns / HeadsScene::kHeadDim; ++head) {
      const std::vector<double> expected = scene.expected(token, head);
      for (int64_t d = 0; d < HeadsScene::kHeadDim; ++d) {
        const double wanted = expected[static_cast<size_t>(d)];
        const double error = std::abs(scene.found(token, head, d) - wanted);
        const double allowed = cuda::twins::unitRoundoff(type) * std::abs(wanted) + 1e-5;
        largestShare = std::isfinite(error) ? std::max(largestShare, error / allowed) : INFINITY;
      }
    }
  }
  item.figure("largestErrorOfTolerance", largestShare);
  item.expect(largestShare <= 1, "an error is " + std::to_string(largestShare) + " of what roundings explain");
}

}  // namespace

void checkAttention(const Options& options, Report& report) {
  report.section("attention", [&] {
    struct Shape {
      int64_t groups, perGroup, headDim;
    };
    const std::vector<Shape> shapes =
        options.quick ? std::vector<Shape>{{1, 2, 32}}
                      : std::vector<Shape>{{1, 1, 64}, {2, 4, 128}, {1, 8, 128}, {2, 5, 80}, {1, 2, 256}};
    for (const DataType type : {DataType::kBf16, DataType::kF16, DataType::kF32}) {
      if (options.quick && type == DataType::kF16) continue;
      report.item(std::string("heads ") + dataTypeName(type), [&](Item& item) { checkHeads(type, item); });
      for (const Shape& shape : shapes) {
        const std::string name = std::string(dataTypeName(type)) + ", " + std::to_string(shape.perGroup) +
                                 " heads of " + std::to_string(shape.headDim);
        const SceneOptions scene = sceneOf(type, shape.groups, shape.perGroup, shape.headDim);
        const int64_t far = options.quick ? 300 : 5000;
        report.item("decode " + name, [&](Item& item) {
          compareWithF64(scene, {{1, 0}, {2, 15}, {3, 64}, {4, 256}, {5, far}}, item);
        });
        report.item("prefill " + name, [&](Item& item) {
          compareWithF64(scene, {{1, 0, options.quick ? 20 : 200}, {2, 250, 9}, {3, far, 1}}, item);
        });
        report.item("window " + name, [&](Item& item) {
          SceneOptions windowed = scene;
          windowed.window = 17;
          compareWithF64(windowed, {{1, 0}, {2, 299}, {4, 290, 4}}, item);
        });
        report.item("bits " + name, [&](Item& item) { compareBits(scene, options.quick ? 240 : 700, item); });
      }
    }
  });
}

}  // namespace hels::check
