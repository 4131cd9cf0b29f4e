// Attention: near an f64 softmax, and the same bits for any tiling of rows, placement of blocks, block size and
// instruction set.
#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/exponential.h"
#include "kv/kv_cache.h"

namespace hels {
namespace {

constexpr int64_t kPositions = 150;

std::vector<float> randomValues(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, 1.5F);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

struct Scene {
  DataType type = DataType::kF32;
  int64_t headDim = 20;
  int64_t blockTokens = 16;
  int64_t window = 0;
  bool permuted = false;
  float rubbish = 0.0F;  // what the cache held before
  Isa isa = bestIsa();
  int rowsAtOnce = 8;
  uint32_t lentChunks = 0;  // bit c: chunk c is attended to apart, as its holder does
};

/// The rows that see `chunk`, and which of `rows` is their first.
AttentionRows seeing(const Scene& scene, const AttentionRows& rows, int64_t chunk, int& first) {
  AttentionRows result;
  for (int row = 0; row < rows.count; ++row) {
    const int64_t position = rows.positions[row];
    const int64_t oldest = scene.window == 0 ? 0 : std::max<int64_t>(0, position - scene.window + 1);
    if (position < chunk * 64 || oldest >= chunk * 64 + 64) continue;
    if (result.count == 0) first = row;
    result.queries[result.count] = rows.queries[row];
    result.positions[result.count++] = position;
  }
  return result;
}

/// attend(), the lent chunks through parts.
void attendInPieces(const Scene& scene, const AttentionShape& shape, const KvBlocks& kv, const AttentionRows& rows,
                    float* workspace) {
  AttentionSums sums;
  beginAttention(shape, rows, sums);
  const ChunkRange chunks = visibleChunks(shape, rows.positions[0], rows.positions[rows.count - 1]);
  for (int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    if ((scene.lentChunks >> chunk & 1U) == 0) {
      attendChunks(shape, kv, rows, {chunk, chunk + 1}, sums, workspace, scene.isa);
      continue;
    }
    int first = 0;
    const AttentionRows away = seeing(scene, rows, chunk, first);
    std::vector<float> parts(static_cast<size_t>(away.count * attentionPartFloats(scene.headDim)));
    if (away.count > 0) attendPart(shape, kv, away, chunk, parts.data(), workspace, scene.isa);
    mergeParts(shape, rows, chunk, {parts.data(), -first}, sums, scene.isa);
  }
  finishAttention(shape, rows, sums, scene.isa);
}

/// outputs(150 positions, 2 heads, headDim)
std::vector<float> run(const Scene& scene) {
  const int64_t blocks = (kPositions + scene.blockTokens - 1) / scene.blockTokens + 1;
  const KvShape kvShape{scene.type, 2, 3, scene.headDim, scene.blockTokens, blocks};
  std::vector<std::byte> data(kvShape.sizeBytes());
  KvCache kv(kvShape, data.data());
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  std::iota(table.begin(), table.end(), 0);
  if (scene.permuted) std::shuffle(table.begin(), table.end(), std::mt19937_64(1));
  const std::vector<float> rubbish(static_cast<size_t>(scene.headDim), scene.rubbish);
  const std::vector<float> keys = randomValues(kPositions * scene.headDim, 1);
  const std::vector<float> values = randomValues(kPositions * scene.headDim, 2);
  const std::vector<float> queries = randomValues(kPositions * 2 * scene.headDim, 3);
  for (int64_t position = 0; position < blocks * scene.blockTokens; ++position) {
    const bool real = position < kPositions;
    kv.store(1, 2, table[static_cast<size_t>(position / scene.blockTokens)], position % scene.blockTokens,
             real ? keys.data() + position * scene.headDim : rubbish.data(),
             real ? values.data() + position * scene.headDim : rubbish.data());
  }
  std::vector<float> outputs(queries.size());
  std::vector<float> workspace(attentionWorkspaceFloats(scene.headDim));
  AttentionShape shape;
  shape.headDim = scene.headDim;
  shape.window = scene.window;
  shape.scale = 0.3F;
  for (int64_t row = 0; row < kPositions * 2;) {
    AttentionRows rows;
    for (; rows.count < scene.rowsAtOnce && row < kPositions * 2; ++row, ++rows.count) {
      rows.queries[rows.count] = queries.data() + row * scene.headDim;
      rows.outputs[rows.count] = outputs.data() + row * scene.headDim;
      rows.positions[rows.count] = row / 2;
    }
    if (scene.lentChunks == 0) {
      const int64_t next = std::min(row / 2, kPositions - 1);
      const KvWalk walk(kv.blocks(1, 2, table.data()), scene.headDim,
                        visibleTiles(shape, next, next, visibleChunks(shape, next, next)));
      attend(shape, kv.blocks(1, 2, table.data()), rows, workspace.data(), scene.isa, walk);
    } else {
      attendInPieces(scene, shape, kv.blocks(1, 2, table.data()), rows, workspace.data());
    }
  }
  return outputs;
}

std::vector<double> expectedRow(const Scene& scene, int64_t row) {
  const std::vector<float> keys = randomValues(kPositions * scene.headDim, 1);
  const std::vector<float> values = randomValues(kPositions * scene.headDim, 2);
  const std::vector<float> queries = randomValues(kPositions * 2 * scene.headDim, 3);
  const int64_t position = row / 2;
  const int64_t first = scene.window == 0 ? 0 : std::max<int64_t>(0, position - scene.window + 1);
  std::vector<double> output(static_cast<size_t>(scene.headDim));
  double total = 0.0;
  for (int64_t seen = first; seen <= position; ++seen) {
    double score = 0.0;
    for (int64_t d = 0; d < scene.headDim; ++d) {
      score += static_cast<double>(queries[static_cast<size_t>(row * scene.headDim + d)]) *
               static_cast<double>(keys[static_cast<size_t>(seen * scene.headDim + d)]);
    }
    const double weight = std::exp(0.3 * score);
    total += weight;
    for (int64_t d = 0; d < scene.headDim; ++d) {
      output[static_cast<size_t>(d)] +=
          weight * static_cast<double>(values[static_cast<size_t>(seen * scene.headDim + d)]);
    }
  }
  for (double& value : output) value /= total;
  return output;
}

TEST(Attention, IsNearTheSoftmaxInDouble) {
  for (const int64_t window : {0, 1, 8, 70}) {
    for (const int64_t headDim : {6, 20, 64}) {
      Scene scene;
      scene.window = window;
      scene.headDim = headDim;
      const std::vector<float> outputs = run(scene);
      for (const int64_t row : {0, 1, 33, 126, 127, 128, 129, 299}) {
        const std::vector<double> expected = expectedRow(scene, row);
        for (int64_t d = 0; d < headDim; ++d) {
          ASSERT_NEAR(outputs[static_cast<size_t>(row * headDim + d)], expected[static_cast<size_t>(d)], 3e-5)
              << "window " << window << " row " << row;
        }
      }
    }
  }
}

TEST(Attention, HasTheSameBitsHoweverItIsRun) {
  for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
    for (const int64_t window : {0, 9, 65}) {
      for (const int64_t headDim : {6, 20, 72}) {
        Scene base;
        base.type = type;
        base.window = window;
        base.headDim = headDim;
        const std::vector<float> outputs = run(base);
        for (const int rows : {1, 2, 3, 5, 7}) {
          Scene scene = base;
          scene.rowsAtOnce = rows;
          ASSERT_EQ(run(scene), outputs) << rows << " rows at once";
        }
        for (const int64_t blockTokens : {32, 64, 128}) {
          Scene scene = base;
          scene.blockTokens = blockTokens;
          scene.permuted = true;
          ASSERT_EQ(run(scene), outputs) << "blocks of " << blockTokens;
        }
        for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
          if (!isaSupported(isa) || isa == base.isa) continue;
          for (const int rows : {8, 3}) {
            if (isa == Isa::kPortable && rows != (window == 0 ? 8 : 3)) continue;  // slow, and a loop over rows
            Scene scene = base;
            scene.isa = isa;
            scene.rowsAtOnce = rows;
            ASSERT_EQ(run(scene), outputs) << isaName(isa) << ", " << rows << " rows at once";
          }
        }
      }
    }
  }
}

TEST(Attention, HasTheSameBitsWhenChunksAreLent) {
  for (const DataType type : {DataType::kF32, DataType::kBf16, DataType::kF16}) {
    for (const int64_t window : {0, 65}) {
      for (const int64_t headDim : {6, 64}) {
        Scene base;
        base.type = type;
        base.window = window;
        base.headDim = headDim;
        const std::vector<float> outputs = run(base);
        for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
          if (!isaSupported(isa)) continue;
          for (const uint32_t lent : {2U, 5U, 7U}) {
            if (isa == Isa::kPortable && lent != 5U) continue;  // slow; here a chunk of its own between two lent ones
            Scene scene = base;
            scene.isa = isa;
            scene.lentChunks = lent;
            scene.rowsAtOnce = lent % 2 == 0 ? 8 : 3;
            ASSERT_EQ(run(scene), outputs) << isaName(isa) << ", chunks " << lent;
          }
        }
      }
    }
  }
}

TEST(Attention, NeverReadsPositionsThatAreNotVisible) {
  const std::vector<float> outputs = run({});
  for (const float rubbish : {NAN, INFINITY, 1e30F}) {
    for (const Isa isa : {Isa::kPortable, bestIsa()}) {
      Scene scene;
      scene.rubbish = rubbish;
      scene.isa = isa;
      EXPECT_EQ(run(scene), outputs);
    }
  }
}

TEST(Exponential, IsAccurateAndTotal) {
  for (float x = -87.0F; x < 88.0F; x += 0.0137F) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(expF32(x) / exact, 1.0, 3e-7) << x;
  }
  EXPECT_EQ(expF32(0.0F), 1.0F);
  EXPECT_EQ(expF32(-INFINITY), 0.0F);
  EXPECT_TRUE(std::isfinite(expF32(INFINITY)));
  EXPECT_TRUE(std::isnan(expF32(NAN)));
}

TEST(KvCache, RefusesBlocksThatWouldCutATile) {
  for (const int64_t good : {16, 32, 64, 128, 192}) EXPECT_NO_THROW(validateKvBlockTokens(good));
  for (const int64_t bad : {-16, 0, 1, 8, 17, 48, 96}) {
    try {
      validateKvBlockTokens(bad);
      ADD_FAILURE() << bad << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid);
      EXPECT_NE(std::string(error.what()).find("kvBlockTokens is " + std::to_string(bad)), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace hels
