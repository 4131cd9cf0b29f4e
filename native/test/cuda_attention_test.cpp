// The CUDA attention kernels, against f64 and against each other to the bit. Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/twins/attention.h"
#include "shared_memory_of_a_device.h"

namespace hels::cuda {
namespace {

using twins::AttentionScene;
using twins::SceneOptions;
using twins::SceneSequence;
using twins::upload;

void expectNearF64(const SceneOptions& options, const std::vector<SceneSequence>& sequences,
                   const std::vector<int64_t>& offsets) {
  const AttentionScene scene(options, sequences);
  const std::vector<float> outputs = scene.attended();
  int64_t firstToken = 0;
  for (const SceneSequence& sequence : sequences) {
    for (const int64_t offset : offsets) {
      if (offset >= sequence.tokens) continue;
      for (const int64_t head : {int64_t{0}, scene.queryHeads() - 1}) {
        const AttentionScene::Expected expected = scene.expected(sequence, offset, head);
        for (int64_t d = 0; d < options.headDim; ++d) {
          const auto at =
              static_cast<size_t>(((firstToken + offset) * scene.queryHeads() + head) * options.headDim + d);
          ASSERT_NEAR(outputs[at], expected.output[static_cast<size_t>(d)], expected.tolerance[static_cast<size_t>(d)])
              << dataTypeName(options.type) << " headDim " << options.headDim << " window " << options.window
              << " blocks of " << options.blockTokens << ": sequence " << sequence.id << " position "
              << sequence.start + offset << " head " << head << " dimension " << d;
        }
      }
    }
    firstToken += sequence.tokens;
  }
}

/// The outputs of sequence `index` of the scene.
std::vector<float> rowsOf(const AttentionScene& scene, const std::vector<float>& outputs, size_t index) {
  int64_t first = 0;
  for (size_t i = 0; i < index; ++i) first += scene.sequences()[i].tokens;
  const int64_t count = scene.sequences()[index].tokens;
  return {outputs.begin() + first * scene.rowElements(), outputs.begin() + (first + count) * scene.rowElements()};
}

class CudaAttention : public testing::TestWithParam<DataType> {};

TEST_P(CudaAttention, DecodeIsNearF64) {
  for (const int64_t headDim : {16, 64, 80, 96, 128, 144, 256}) {
    SceneOptions options;
    options.type = GetParam();
    options.headDim = headDim;
    options.groups = headDim == 64 ? 2 : 1;
    expectNearF64(options, {{1, 0}, {2, 15}, {3, 64}, {4, 256}, {5, 530}}, {0});
  }
}

TEST_P(CudaAttention, PrefillIsNearF64) {
  for (const int64_t headDim : {16, 64, 80, 96, 128, 144, 256}) {
    SceneOptions options;
    options.type = GetParam();
    options.headDim = headDim;
    options.groups = 1;
    expectNearF64(options, {{1, 0, 6}, {2, 250, 9}, {3, 270, 1}, {4, 0, 2}}, {0, 1, 5, 8});
  }
}

TEST_P(CudaAttention, WindowsBlocksAndGroupsAreNearF64) {
  for (const int64_t window : {1, 17, 300}) {
    for (const int64_t blockTokens : {32, 64, 192}) {
      SceneOptions options;
      options.type = GetParam();
      options.window = window;
      options.blockTokens = blockTokens;
      options.queryHeadsPerGroup = blockTokens == 64 ? 20 : blockTokens == 32 ? 1 : 8;
      options.groups = 1;
      options.headDim = 32;
      expectNearF64(options, {{1, 0}, {2, 299}, {3, 600}}, {0});
      expectNearF64(options, {{4, 290, 4}}, {0, 3});
    }
  }
}

/// Prefills that cross the border of a chunk, and of a tile inside of a chunk.
TEST_P(CudaAttention, BitsDoNotDependOnThePrefillsChunks) {
  for (const int64_t first : {243, 310}) {
    for (const int64_t window : {0, 70}) {
      SceneOptions options;
      options.type = GetParam();
      options.window = window;
      options.groups = 1;
      options.headDim = 32;
      const int64_t end = first + 20;
      const std::vector<float> expected = AttentionScene(options, {{7, first, end - first}}).attended();
      for (const int64_t tokens : {1, 13}) {
        std::vector<float> outputs;
        for (int64_t start = first; start < end; start += tokens) {
          const AttentionScene part(options, {{7, start, std::min(tokens, end - start)}});
          const std::vector<float> rows = part.attended();
          outputs.insert(outputs.end(), rows.begin(), rows.end());
        }
        ASSERT_EQ(outputs, expected) << "from " << first << ", window " << window << ", " << tokens << " at once";
      }
    }
  }
}

TEST_P(CudaAttention, BitsDoNotDependOnCompanionsOrPlacement) {
  SceneOptions options;
  options.type = GetParam();
  options.headDim = 48;
  options.queryHeadsPerGroup = 2;
  const std::vector<SceneSequence> mine = {{1, 330}, {2, 250, 12}, {3, 900}};
  std::vector<std::vector<float>> alone;
  for (const SceneSequence& sequence : mine) alone.push_back(AttentionScene(options, {sequence}).attended());
  const std::vector<SceneSequence> company = {{9, 3}, mine[2], {8, 40, 33}, mine[0], {6, 0, 1}, mine[1]};
  for (const int64_t blockTokens : {16, 64}) {
    SceneOptions other = options;
    other.blockTokens = blockTokens;
    other.placement = 99;
    const AttentionScene scene(other, company);
    const std::vector<float> outputs = scene.attended();
    EXPECT_EQ(rowsOf(scene, outputs, 3), alone[0]) << "blocks of " << blockTokens;
    EXPECT_EQ(rowsOf(scene, outputs, 5), alone[1]) << "blocks of " << blockTokens;
    EXPECT_EQ(rowsOf(scene, outputs, 1), alone[2]) << "blocks of " << blockTokens;
  }
}

/// Warps that take a tile each, or whole chunks; chunks merged in the block, or from parts.
TEST_P(CudaAttention, BitsDoNotDependOnTheSplit) {
  SceneOptions options;
  options.type = GetParam();
  options.groups = 1;
  options.queryHeadsPerGroup = 2;
  options.headDim = 32;
  for (const int64_t window : {0, 200}) {
    options.window = window;
    for (const int64_t longest : {400, 900}) {
      const std::vector<SceneSequence> sequences = {{1, longest}, {2, 20}};
      const std::vector<float> expected = AttentionScene(options, sequences).attended();
      for (const int64_t contextMax : {2000, 20000, 200000}) {
        SceneOptions larger = options;
        larger.contextMax = contextMax;
        EXPECT_EQ(AttentionScene(larger, sequences).attended(), expected)
            << "window " << window << ", position " << longest << ", context up to " << contextMax;
      }
      SceneOptions padded = options;
      for (const int64_t emptySequences : {300, 3200}) {  // 3200: a block does all chunks of a sequence
        for (const int64_t contextMax : {0, 2000}) {
          padded.emptySequences = emptySequences;
          padded.contextMax = contextMax;
          EXPECT_EQ(AttentionScene(padded, sequences).attended(), expected)
              << "window " << window << ", position " << longest << ", empty " << emptySequences << ", context up to "
              << contextMax;
        }
      }
    }
  }
}

/// Large batches, where a warp takes whole chunks, at each size of the kernels and with both halves of the rows.
TEST_P(CudaAttention, LargeBatchesHaveTheSameBits) {
  for (const int64_t headDim : {64, 96, 128, 192, 256}) {
    SceneOptions options;
    options.type = GetParam();
    options.headDim = headDim;
    options.groups = 1;
    options.queryHeadsPerGroup = headDim == 96 || headDim == 256 ? 11 : 3;
    const std::vector<SceneSequence> sequences = {{1, 331}, {2, 63}};
    const std::vector<float> expected = AttentionScene(options, sequences).attended();
    options.emptySequences = 300;
    for (const int64_t contextMax : {0, 1500}) {  // chunks merged in the block, and parts
      options.contextMax = contextMax;
      EXPECT_EQ(AttentionScene(options, sequences).attended(), expected)
          << "headDim " << headDim << ", context up to " << contextMax;
    }
  }
}

/// Before anything is rounded to 16 bits: a warp for each tile, warps with whole chunks, and prefill.
TEST_P(CudaAttention, PartsHaveTheSameBitsInF32) {
  for (const int64_t headDim : {64, 96, 128, 192, 256}) {
    for (const int64_t window : {0, 300}) {
      SceneOptions options;
      options.type = GetParam();
      options.window = window;
      options.headDim = headDim;
      options.groups = 1;
      options.queryHeadsPerGroup = headDim == 96 || headDim == 256 ? 11 : 3;
      const std::vector<float> expected = AttentionScene(options, {{1, 331}}).partsOf(0);
      EXPECT_EQ(AttentionScene(options, {{1, 329, 3}}).partsOf(2), expected) << headDim << ", window " << window;
      options.emptySequences = 300;
      EXPECT_EQ(AttentionScene(options, {{1, 331}}).partsOf(0), expected) << headDim << ", window " << window;
    }
  }
}

TEST_P(CudaAttention, PartsMergeToTheSameBits) {
  for (const int64_t window : {0, 400}) {
    SceneOptions options;
    options.type = GetParam();
    options.window = window;
    options.groups = 1;
    options.headDim = 48;
    for (const int64_t tokens : {1, 9}) {
      const AttentionScene scene(options, {{1, 1100, tokens}, {2, 251, tokens}, {3, 0, 1}});
      const std::vector<float> expected = scene.attended();
      EXPECT_EQ(scene.attendedInParts([](int64_t) { return true; }), expected);
      EXPECT_EQ(scene.attendedInParts([](int64_t chunk) { return chunk % 2 == 1; }), expected)
          << "window " << window << ", " << tokens << " tokens";
    }
  }
}

#ifdef HELS_CUDA_EMULATION
/// A prompt beside single tokens: no block is there for a token that its sequence does not have.
TEST(CudaAttentionMerge, TakesBlocksForTheTokensThatThereAre) {
  const AttentionScene scene({}, {{1, 300, 40}, {2, 20}, {3, 500}});
  const DeviceBatch batch = scene.batch();
  const int64_t slots = attentionSlots(0, batch.contextMax);
  const auto parts = static_cast<size_t>(batch.tokens * scene.queryHeads() * slots);
  const DeviceBuffer numbers = upload(std::vector<float>(parts * 64)), few = upload(std::vector<float>(parts)),
                     output = upload(std::vector<uint16_t>(static_cast<size_t>(batch.tokens * scene.rowElements())));
  const uint64_t before = emulation::blocksRun();
  mergeParts(scene.model(), scene.kv(), batch, {few.as<float>(), few.as<float>(), numbers.as<float>(), slots},
             output.data(), scene.rowElements(), nullptr);
  EXPECT_EQ(emulation::blocksRun() - before, 42U * 6 * 2);  // tokens, heads, 32 dimensions each
}
#endif

TEST(CudaAttentionTurns, PartsThatDoNotFitTheWorkspaceAreDoneInTurns) {
  SceneOptions options;
  options.groups = 1;
  options.queryHeadsPerGroup = 16;
  options.headDim = 16;
  const std::vector<SceneSequence> sequences = {{1, 700}, {2, 20}, {3, 600}};
  const std::vector<float> expected = AttentionScene(options, sequences).attended();
  std::vector<SceneSequence> spread(40, SceneSequence{9, 0, 0});
  spread.insert(spread.begin(), sequences[0]);
  spread.insert(spread.end(), sequences.begin() + 1, sequences.end());
  options.contextMax = 1000000;  // 16 heads x 3907 slots x 18 floats each: 29 sequences at once
  const AttentionScene scene(options, spread);
  EXPECT_EQ(attentionWorkspaceBytes(scene.model(), scene.kv(), 43, 1000000), size_t{128} << 20);
  EXPECT_EQ(scene.attended(), expected);
}

#ifdef HELS_CUDA_EMULATION
TEST_P(CudaAttention, BitsDoNotDependOnTheSharedMemoryOfADevice) {
  for (const int64_t headDim : {64, 128, 192}) {
    SceneOptions options;
    options.type = GetParam();
    options.headDim = headDim;
    options.groups = 1;
    const std::vector<SceneSequence> sequences = {{1, 330}, {2, 250, 12}, {3, 900}};
    const std::vector<float> expected = AttentionScene(options, sequences).attended();
    for (const size_t kibibytes : {48, 64, 99}) {
      if (headDim == 192 && kibibytes == 48) continue;  // refused
      const test::SharedMemoryOfADevice device(kibibytes * 1024);
      EXPECT_EQ(AttentionScene(options, sequences).attended(), expected) << headDim << ", " << kibibytes << " KiB";
    }
  }
}

TEST(CudaAttentionShapes, TakeTheSharedMemoryThatADeviceHas) {
  const auto refused = [](size_t kibibytes, DataType type, int64_t headDim) {
    const test::SharedMemoryOfADevice device(kibibytes * 1024);
    try {
      requireAttentionFits(type, headDim);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid);
      EXPECT_EQ(std::string(error.what()).find("headDim is " + std::to_string(headDim)), 0U) << error.what();
      return true;
    }
    return false;
  };
  for (const int64_t headDim : {16, 96, 128}) EXPECT_FALSE(refused(48, DataType::kBf16, headDim));
  EXPECT_TRUE(refused(48, DataType::kF16, 192));
  EXPECT_FALSE(refused(64, DataType::kF16, 192));
  EXPECT_TRUE(refused(64, DataType::kBf16, 256));
  EXPECT_FALSE(refused(99, DataType::kBf16, 256));
  EXPECT_FALSE(refused(48, DataType::kF32, 256));
}
#endif

TEST(CudaAttentionShapes, AreRefusedByName) {
  DeviceKv kv;
  kv.headDim = 128;
  kv.blockTokens = 16;
  EXPECT_NO_THROW(validateAttention({}, kv));
  const auto refusal = [](const AttentionModel& model, const DeviceKv& shape) -> std::string {
    try {
      validateAttention(model, shape);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  for (const int64_t headDim : {0, 8, 100, 272}) {
    DeviceKv bad = kv;
    bad.headDim = headDim;
    EXPECT_NE(refusal({}, bad).find("headDim is " + std::to_string(headDim)), std::string::npos);
  }
  for (const int64_t blockTokens : {0, 8, 48, 96}) {
    DeviceKv bad = kv;
    bad.blockTokens = blockTokens;
    EXPECT_NE(refusal({}, bad).find("kvBlockTokens is " + std::to_string(blockTokens)), std::string::npos);
  }
  EXPECT_NE(refusal({1, -1, 1.0F}, kv).find("window is -1"), std::string::npos);
  EXPECT_NE(refusal({0, 0, 1.0F}, kv).find("queryHeadsPerGroup is 0"), std::string::npos);
  EXPECT_NE(refusal({1, 0, 0.0F}, kv).find("scale is 0"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Types, CudaAttention, testing::Values(DataType::kBf16, DataType::kF16, DataType::kF32),
                         [](const auto& info) { return std::string(dataTypeName(info.param)); });

}  // namespace
}  // namespace hels::cuda
#endif
