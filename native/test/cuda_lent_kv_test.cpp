// What attention over lent KV adds on CUDA: keys and values of a token whose block is elsewhere, their store where it
// is, and parts in messages. Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/heads.h"
#include "kernels/cuda/parts_message.h"
#include "kernels/cuda/twins/attention.h"

namespace hels::cuda {
namespace {

using twins::download;
using twins::upload;
using twins::valueAt;

constexpr int64_t kGroups = 2;
constexpr int64_t kHeadsPerGroup = 3;
constexpr int64_t kHeadDim = 32;
constexpr int64_t kBlocks = 3;
constexpr int64_t kBlockTokens = 16;
constexpr int64_t kTokens = 4;
constexpr int64_t kColumns = (kHeadsPerGroup + 2) * kGroups * kHeadDim;
constexpr int64_t kStoredColumns = 2 * kGroups * kHeadDim;

struct Cache {
  explicit Cache(DataType type)
      : keys(upload(std::vector<std::byte>(bytesOfAll(type), std::byte{0x55}))),
        values(upload(std::vector<std::byte>(bytesOfAll(type), std::byte{0x55}))),
        kv{type, keys.data(), values.data(), kGroups, kBlocks, kBlockTokens, kHeadDim} {}
  static size_t bytesOfAll(DataType type) {
    return static_cast<size_t>(kGroups * kBlocks * kBlockTokens * kHeadDim) * bytesOf(type);
  }
  std::vector<std::byte> contents() const {
    std::vector<std::byte> all = download<std::byte>(keys);
    const std::vector<std::byte> more = download<std::byte>(values);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  DeviceBuffer keys, values;
  DeviceKv kv;
};

/// A token at positions 14, 15, 16 and 17 of one sequence: the first two in block 2, the others in block 1.
void prepare(Cache& cache, const std::vector<int32_t>& blockTable, void* elsewhere) {
  std::vector<float> rows;
  for (int64_t i = 0; i < kTokens * kColumns; ++i) rows.push_back(valueAt(1, i, 0, 0, 0));
  const DeviceBuffer onDevice = upload(rows), table = upload(blockTable),
                     sequenceOf = upload(std::vector<int32_t>(kTokens, 0)),
                     positions = upload(std::vector<int32_t>{14, 15, 16, 17});
  const DeviceBuffer queries =
      upload(std::vector<std::byte>(static_cast<size_t>(kTokens * kColumns) * bytesOf(cache.kv.type)));
  HeadPreparation preparation;
  preparation.queryHeadsPerGroup = kHeadsPerGroup;
  preparation.elsewhere = elsewhere;
  preparation.elsewhereStride = kStoredColumns;
  DeviceBatch batch;
  batch.sequences = 1;
  batch.tokens = kTokens;
  batch.sequenceOf = sequenceOf.as<int32_t>();
  batch.positions = positions.as<int32_t>();
  batch.blockTables = table.as<int32_t>();
  batch.blockTableStride = 2;
  prepareHeads(preparation, cache.kv, batch, onDevice.as<float>(), kColumns, queries.data(), kColumns, nullptr);
  check(cudaDeviceSynchronize(), "heads");
}

TEST(CudaLentKv, IsStoredByItsHolderAsItWouldBeAtHome) {
  for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
    Cache home(type);
    prepare(home, {2, 1}, nullptr);
    // Block 1 is lent: its tokens are the last two.
    Cache owner(type);
    const size_t rowBytes = static_cast<size_t>(kStoredColumns) * bytesOf(type);
    const DeviceBuffer elsewhere = upload(std::vector<std::byte>(kTokens * rowBytes, std::byte{0x33}));
    prepare(owner, {2, -1}, elsewhere.data());
    const std::vector<std::byte> rows = download<std::byte>(elsewhere);
    for (size_t i = 0; i < 2 * rowBytes; ++i) ASSERT_EQ(rows[i], std::byte{0x33}) << i;
    // At its holder it is block 0; with what the owner kept in block 2 that is all.
    Cache holder(type);
    const DeviceBuffer slots = upload(std::vector<int32_t>{0, 1});
    storeKeysAndValues(holder.kv, elsewhere.data() + 2 * rowBytes, kStoredColumns, slots.as<int32_t>(), 2, nullptr);
    check(cudaDeviceSynchronize(), "store");
    const size_t blockBytes = static_cast<size_t>(kBlockTokens * kHeadDim) * bytesOf(type);
    const std::vector<std::byte> expected = home.contents(), kept = owner.contents(), held = holder.contents();
    for (size_t i = 0; i < expected.size(); ++i) {
      const size_t block = i / blockBytes % kBlocks;
      const size_t moved = block == 1 ? i - blockBytes : i;
      ASSERT_EQ(block == 1 ? held[moved] : kept[i], expected[i]) << i;
    }
  }
}

TEST(CudaLentKv, PartsComeOutOfAMessageAsTheyWentIn) {
  constexpr int64_t kSlots = 3;
  constexpr int64_t kHeads = kGroups * kHeadsPerGroup;
  const std::vector<PartsEntry> entries = {{0, 2, 0}, {3, 0, 3}, {3, 1, 6}};
  constexpr int64_t kRows = 9;
  const auto parts = static_cast<size_t>(kTokens * kHeads * kSlots);
  const auto numbered = [](size_t count, float first) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = first + static_cast<float>(i);
    return values;
  };
  const std::vector<float> maxima = numbered(parts, 0.25F), sums = numbered(parts, 10000.5F),
                           outputs = numbered(parts * kHeadDim, 20000.0F);
  const DeviceBuffer fromMaxima = upload(maxima), fromSums = upload(sums), fromOutputs = upload(outputs),
                     toMaxima = upload(std::vector<float>(parts, -1.0F)),
                     toSums = upload(std::vector<float>(parts, -1.0F)),
                     toOutputs = upload(std::vector<float>(parts * kHeadDim, -1.0F)), named = upload(entries);
  const DeviceBuffer data = upload(std::vector<float>(static_cast<size_t>(kGroups * kRows * (kHeadDim + 2)), -2.0F));
  const PartsMessage message{data.as<float>(), kGroups, kHeadsPerGroup, kRows, kHeadDim};
  const auto count = static_cast<int64_t>(entries.size());
  packParts({fromMaxima.as<float>(), fromSums.as<float>(), fromOutputs.as<float>(), kSlots}, named.as<PartsEntry>(),
            count, message, nullptr);
  unpackParts(message, named.as<PartsEntry>(), count,
              {toMaxima.as<float>(), toSums.as<float>(), toOutputs.as<float>(), kSlots}, nullptr);
  check(cudaDeviceSynchronize(), "parts");
  const std::vector<float> gotMaxima = download<float>(toMaxima), gotSums = download<float>(toSums),
                           gotOutputs = download<float>(toOutputs);
  for (int64_t part = 0; part < static_cast<int64_t>(parts); ++part) {
    const bool travelled = std::ranges::any_of(entries, [&](const PartsEntry& entry) {
      return part / kSlots / kHeads == entry.token && part % kSlots == entry.slot;
    });
    const auto i = static_cast<size_t>(part);
    ASSERT_EQ(gotMaxima[i], travelled ? maxima[i] : -1.0F) << part;
    ASSERT_EQ(gotSums[i], travelled ? sums[i] : -1.0F) << part;
    for (size_t d = i * kHeadDim; d < (i + 1) * kHeadDim; ++d) {
      ASSERT_EQ(gotOutputs[d], travelled ? outputs[d] : -1.0F) << part;
    }
  }
  // (group, row): the first entry's second group begins after all rows of the first one.
  const std::vector<float> sent = download<float>(data);
  const auto second = static_cast<size_t>(kRows * (kHeadDim + 2));
  EXPECT_EQ(sent[second], maxima[kHeadsPerGroup * kSlots + 2]);
  EXPECT_EQ(sent[second + 1], sums[kHeadsPerGroup * kSlots + 2]);
}

}  // namespace
}  // namespace hels::cuda
#endif
