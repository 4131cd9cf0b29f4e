#include "kernels/cpu/kv_walk.h"

#include <gtest/gtest.h>

#include <vector>

namespace hels {
namespace {

constexpr int64_t kHeadDim = 8;
constexpr int64_t kTileBytes = kAttentionTileTokens * kHeadDim * 2;

/// Where a tile lies: offset from keys or values.
struct Read {
  bool value = false;
  int64_t offsetBytes = 0;
  bool operator==(const Read&) const = default;
};

class Walk : public testing::TestWithParam<int64_t> {
 protected:
  std::vector<Read> walked(TileRange tiles, int64_t firstBlock = 0) {
    const KvBlocks kv{DataType::kBf16, keys_.data(),
                      values_.data(),  kTileBytes * tilesOfBlock(),
                      GetParam(),      table_.data() + firstBlock,
                      firstBlock};
    std::vector<Read> result;
    for (KvWalk walk(kv, kHeadDim, tiles); !walk.done();) {
      const std::byte* tile = walk.next();
      const bool value = tile >= values_.data() && tile < values_.data() + values_.size();
      result.push_back({value, tile - (value ? values_.data() : keys_.data())});
    }
    return result;
  }

  /// Chunk after chunk, keys before values.
  std::vector<Read> expected(TileRange tiles) const {
    std::vector<Read> result;
    for (int64_t chunk = 0; chunk * kAttentionTiles < tiles.end; ++chunk) {
      for (const bool value : {false, true}) {
        for (int64_t tile = chunk * kAttentionTiles; tile < (chunk + 1) * kAttentionTiles; ++tile) {
          if (tile < tiles.begin || tile >= tiles.end) continue;
          const int64_t block = table_[static_cast<size_t>(tile / tilesOfBlock())];
          result.push_back({value, (block * tilesOfBlock() + tile % tilesOfBlock()) * kTileBytes});
        }
      }
    }
    return result;
  }

  static int64_t tilesOfBlock() { return GetParam() / kAttentionTileTokens; }

 private:
  const std::vector<int32_t> table_{5, 2, 9, 0, 7, 1, 8, 3, 6, 4};
  const std::vector<std::byte> keys_ = std::vector<std::byte>(10 * 8 * kTileBytes);
  const std::vector<std::byte> values_ = std::vector<std::byte>(10 * 8 * kTileBytes);
};

TEST_P(Walk, TakesOfEachChunkKeysThenValues) {
  for (int64_t begin = 0; begin < 10; ++begin) {
    for (int64_t end = begin; end <= 10; ++end) {
      EXPECT_EQ(walked({begin, end}), expected({begin, end})) << begin << " to " << end;
    }
  }
}

TEST_P(Walk, TakesTablesThatBeginLater) {
  const TileRange tiles{2 * tilesOfBlock(), 9};
  if (tiles.begin < tiles.end) {
    EXPECT_EQ(walked(tiles, 2), expected(tiles));
  }
}

TEST(NoWalk, IsDone) {
  EXPECT_TRUE(KvWalk().done());
  EXPECT_TRUE(KvWalk({}, kHeadDim, {3, 2}).done());
}

INSTANTIATE_TEST_SUITE_P(BlockTokens, Walk, testing::Values(16, 32, 64, 128));

}  // namespace
}  // namespace hels
