// What happens between the products and attention on CUDA, against f64: values, places in the cache, and nothing
// beside them. Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/heads.h"
#include "kernels/cuda/twins/attention.h"
#include "kernels/cuda/twins/heads.h"

namespace hels::cuda {
namespace {

using twins::download;
using twins::upload;
using twins::valueAt;

constexpr int64_t kGroups = 2;
constexpr int64_t kHeadsPerGroup = 3;
constexpr int64_t kBlocks = 5;
constexpr int64_t kBlockTokens = 16;
constexpr int64_t kPositions = 40;
constexpr int64_t kPadding = 6;  // elements between rows
constexpr float kEpsilon = 1e-3F;
constexpr float kUntouched = -77.0F;

struct HeadsCase {
  DataType type;
  int64_t headDim;
  bool bias, norm, rope;
};

/// Two sequences and a token that pads the batch.
class HeadsScene {
 public:
  explicit HeadsScene(const HeadsCase& what) : what_(what) {
    for (int64_t token = 0; token < tokens(); ++token) {
      for (int64_t i = 0; i < rowStride(); ++i) rows_.push_back(valueAt(1, token, i, 0, 0));
    }
    for (int64_t i = 0; i < columns(); ++i) bias_.push_back(valueAt(2, i, 0, 0, 0));
    for (int64_t d = 0; d < what.headDim; ++d) {
      queryNorm_.push_back(1.0F + 0.2F * valueAt(3, d, 0, 0, 0));
      keyNorm_.push_back(1.0F + 0.2F * valueAt(4, d, 0, 0, 0));
    }
    for (int64_t i = 0; i < kPositions * what.headDim; ++i) table_.push_back(0.5F * valueAt(5, i, 0, 0, 0));
  }

  void run() {
    const auto elements = static_cast<size_t>(kGroups * kBlocks * kBlockTokens * what_.headDim);
    const std::vector<std::byte> untouched = twins::encode(what_.type, std::vector<float>(elements, kUntouched));
    const DeviceBuffer keys = upload(untouched);
    const DeviceBuffer values = upload(untouched);
    const DeviceBuffer queries = upload(
        twins::encode(what_.type, std::vector<float>(static_cast<size_t>(tokens() * queryStride()), kUntouched)));
    const DeviceBuffer rows = upload(rows_), bias = upload(bias_), queryNorm = upload(queryNorm_),
                       keyNorm = upload(keyNorm_), table = upload(table_), sequenceOf = upload(sequenceOf_),
                       positions = upload(positions_), blockTables = upload(blockTables_);
    HeadPreparation preparation;
    preparation.queryHeadsPerGroup = kHeadsPerGroup;
    if (what_.bias) preparation.bias = bias.as<float>();
    if (what_.norm) preparation.queryNorm = queryNorm.as<float>();
    if (what_.norm) preparation.keyNorm = keyNorm.as<float>();
    if (what_.rope) preparation.ropeTable = table.as<float>();
    preparation.normEpsilon = kEpsilon;
    const DeviceKv kv{what_.type, keys.data(), values.data(), kGroups, kBlocks, kBlockTokens, what_.headDim};
    DeviceBatch batch;
    batch.sequences = 2;
    batch.tokens = tokens();
    batch.sequenceOf = sequenceOf.as<int32_t>();
    batch.positions = positions.as<int32_t>();
    batch.blockTables = blockTables.as<int32_t>();
    batch.blockTableStride = 3;
    prepareHeads(preparation, kv, batch, rows.as<float>(), rowStride(), queries.data(), queryStride(), nullptr);
    check(cudaDeviceSynchronize(), "heads");
    keys_ = twins::decode(what_.type, download<std::byte>(keys));
    values_ = twins::decode(what_.type, download<std::byte>(values));
    queries_ = twins::decode(what_.type, download<std::byte>(queries));
  }

  /// Checks every element of queries, keys and values, also those that are to be left alone.
  void verify() const {
    std::vector<double> queries(queries_.size(), kUntouched);
    std::vector<double> keys(keys_.size(), kUntouched);
    std::vector<double> values(values_.size(), kUntouched);
    for (int64_t token = 0; token < tokens(); ++token) {
      const int32_t sequence = sequenceOf_[static_cast<size_t>(token)];
      if (sequence < 0) continue;
      const int64_t position = positions_[static_cast<size_t>(token)];
      const int64_t block = blockTables_[static_cast<size_t>(sequence * 3 + position / kBlockTokens)];
      for (int64_t head = 0; head < queryHeads(); ++head) {
        put(queries, token * queryStride() + head * what_.headDim, prepared(token, head, queryNorm_, true));
      }
      for (int64_t group = 0; group < kGroups; ++group) {
        const int64_t slot = ((group * kBlocks + block) * kBlockTokens + position % kBlockTokens) * what_.headDim;
        put(keys, slot, prepared(token, queryHeads() + group, keyNorm_, true));
        put(values, slot, prepared(token, queryHeads() + kGroups + group, {}, false));
      }
    }
    expectNear(queries_, queries, "queries");
    expectNear(keys_, keys, "keys");
    expectNear(values_, values, "values");
  }

  const std::vector<float>& keys() const { return keys_; }
  const std::vector<float>& values() const { return values_; }

 private:
  int64_t tokens() const { return static_cast<int64_t>(positions_.size()); }
  static int64_t queryHeads() { return kGroups * kHeadsPerGroup; }
  int64_t columns() const { return (queryHeads() + 2 * kGroups) * what_.headDim; }
  int64_t rowStride() const { return columns() + kPadding; }
  int64_t queryStride() const { return kGroups * kHeadsPerGroup * what_.headDim + kPadding; }

  std::vector<double> prepared(int64_t token, int64_t head, const std::vector<float>& norm, bool turns) const {
    const auto slice = [&](const std::vector<float>& from, int64_t first) {
      return std::vector<double>(from.begin() + first, from.begin() + first + what_.headDim);
    };
    const std::vector<double> none;
    return twins::prepareHead(
        slice(rows_, token * rowStride() + head * what_.headDim),
        what_.bias ? slice(bias_, head * what_.headDim) : none, what_.norm && !norm.empty() ? slice(norm, 0) : none,
        double{kEpsilon},
        what_.rope && turns ? slice(table_, positions_[static_cast<size_t>(token)] * what_.headDim) : none);
  }
  static void put(std::vector<double>& to, int64_t at, const std::vector<double>& head) {
    std::copy(head.begin(), head.end(), to.begin() + at);
  }
  void expectNear(const std::vector<float>& actual, const std::vector<double>& expected, const char* name) const {
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], twins::unitRoundoff(what_.type) * std::abs(expected[i]) + 3e-6)
          << name << "[" << i << "] " << dataTypeName(what_.type) << " headDim " << what_.headDim;
    }
  }

  HeadsCase what_;
  std::vector<float> rows_, bias_, queryNorm_, keyNorm_, table_;
  // Sequence 0 has positions 14 to 17, sequence 1 position 35.
  std::vector<int32_t> sequenceOf_ = {0, 0, 0, 0, -1, 1};
  std::vector<int32_t> positions_ = {14, 15, 16, 17, -5, 35};
  std::vector<int32_t> blockTables_ = {3, 0, -1, -1, -1, 4};
  std::vector<float> keys_, values_, queries_;
};

std::vector<HeadsCase> cases() {
  std::vector<HeadsCase> all;
  for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
    for (const int64_t headDim : {16, 80, 128}) {
      all.push_back({type, headDim, false, false, true});
      all.push_back({type, headDim, true, false, false});
      all.push_back({type, headDim, true, true, true});
    }
  }
  return all;
}

TEST(CudaHeads, ArePreparedAsInF64AndStoredInTheirPlace) {
  for (const HeadsCase& what : cases()) {
    HeadsScene scene(what);
    scene.run();
    scene.verify();
  }
}

}  // namespace
}  // namespace hels::cuda
#endif
