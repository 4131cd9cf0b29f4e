// The invariant of exact numerics for the engine on a GPU: the same bits for any split, chunking, blocks and batch.
// Runs on a GPU, or under emulation.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "reference/gpu_models.h"
#include "reference/rank_group.h"
#include "reference/reference_model.h"
#include "shared_memory_of_a_device.h"

namespace hels::cuda {
namespace {

using namespace reference;

class CudaExactness : public testing::TestWithParam<std::tuple<std::string, DataType>> {
 protected:
  void SetUp() override {
    ModelSpec spec = std::get<0>(GetParam()) == "opt" ? gpuOpt() : gpuLlama();
    if (std::get<0>(GetParam()) == "qwen3Window") {
      spec.queryKeyNorm = spec.qkvBias = spec.mlpBias = true;
      spec.slidingWindows = {9, 30};
      spec.ffnColumns = 53;
    }
    spec.weightType = std::get<1>(GetParam());
    model_ = makeTinyModel(spec, 21);
    tokens_ = randomTokens(40, spec.vocabRows, 9);
    RankGroup group(model_, {{4, 0, 0}}, gpuOptions());
    expected_ = prefillLogits(group, tokens_, 40);
  }

  TinyModel model_;
  std::vector<int32_t> tokens_;
  std::vector<float> expected_;
};

TEST_P(CudaExactness, AnySplit) {
  const std::vector<std::vector<RankShare>> splits = {
      {{2, 1, 30}, {2, 0, 0}},
      {{0, 2, 20}, {4, 0, 0}},            // no heads
      {{3, 0, 33}, {1, 0, 0}},            // no FFN columns
      {{1, 1, 10}, {2, 1, 0}, {1, 0, 0}}  // no vocabulary rows
  };
  for (size_t i = 0; i < splits.size(); ++i) {
    RankGroup group(model_, splits[i], gpuOptions());
    ASSERT_EQ(prefillLogits(group, tokens_, 40), expected_) << "split " << i;
    for (size_t rank = 0; rank < group.ranks(); ++rank) {
      EXPECT_EQ(group.engine(rank).report().fingerprint, group.engine(0).report().fingerprint);
    }
  }
}

TEST_P(CudaExactness, AnyChunkingAndBlocks) {
  std::vector<int32_t> blocks(64);
  std::iota(blocks.rbegin(), blocks.rend(), 0);
  RankGroup one(model_, {{4, 0, 0}}, gpuOptions());
  RankGroup two(model_, {{1, 1, 10}, {3, 0, 0}}, gpuOptions());
  for (const int64_t chunk : {3, 16, 33}) {
    ASSERT_EQ(prefillLogits(one, tokens_, chunk, blocks), expected_) << "chunk " << chunk;
  }
  ASSERT_EQ(prefillLogits(two, tokens_, 9), expected_);
}

TEST_P(CudaExactness, AnyBatch) {
  // The sequence rides along nine others, a decode token here and a chunk there.
  RankGroup group(model_, {{2, 1, 30}, {2, 0, 0}}, gpuOptions());
  std::vector<float> logits;
  size_t fed = 0;
  for (int64_t step = 0; fed < tokens_.size(); ++step) {
    StepBatch batch;
    for (int32_t slot = 0; slot < 9; ++slot) {
      const std::vector<int32_t> other =
          randomTokens(slot % 3 == 0 ? 4 : 1, model_.spec.vocabRows, static_cast<uint64_t>(slot));
      batch.sequences.push_back(sequenceStep(slot, other, step, {10 + 2 * slot, 11 + 2 * slot}));
    }
    const size_t count = std::min<size_t>(step % 2 == 0 ? 1 : 9, tokens_.size() - fed);
    const std::vector<int32_t> part(tokens_.begin() + static_cast<std::ptrdiff_t>(fed),
                                    tokens_.begin() + static_cast<std::ptrdiff_t>(fed + count));
    batch.sequences.insert(batch.sequences.begin() + step % 9,
                           sequenceStep(31, part, static_cast<int64_t>(fed), {5, 0, 63}));
    batch.sequences[static_cast<size_t>(step % 9)].returnLogits = true;
    const StepResult result = group.step(batch);
    logits.insert(logits.end(), result.logits.begin(), result.logits.end());
    fed += count;
  }
  ASSERT_EQ(logits, expected_);
}

#ifdef HELS_CUDA_EMULATION
TEST_P(CudaExactness, AnyDevice) {
  for (const size_t kibibytes : {48, 64, 99}) {
    const test::SharedMemoryOfADevice device(kibibytes * 1024);
    RankGroup group(model_, {{4, 0, 0}}, gpuOptions());
    for (const int64_t chunk : {12, 40}) {
      ASSERT_EQ(prefillLogits(group, tokens_, chunk), expected_) << "chunk " << chunk << ", " << kibibytes << " KiB";
    }
  }
}

TEST(CudaDevice, TooSmallForItsHeadsIsRefusedAtLoad) {
  const test::SharedMemoryOfADevice small(size_t{48} * 1024);
  ModelSpec spec = gpuLlama();
  spec.weightType = DataType::kBf16;
  spec.headDim = 256;
  const TinyModel model = makeTinyModel(spec, 1);
  try {
    RankGroup(model, {{4, 0, 0}}, gpuOptions());
    ADD_FAILURE() << "loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShapeInvalid);
    EXPECT_EQ(std::string(error.what()).find("headDim is 256; its attention takes 82944 bytes of shared memory"), 0U)
        << error.what();
  }
  const ShardSpec headless = shardsOf(spec, {{0, 1, 0}, {4, 0, 0}})[0];
  EXPECT_NO_THROW(Engine::load(spec, headless, model.source, gpuOptions()));
}
#endif

// Emulated kernels are slow: one model in f32, another in bf16. hels-native-check runs all of them on a GPU.
INSTANTIATE_TEST_SUITE_P(Types, CudaExactness,
                         testing::Combine(testing::Values("llama"), testing::Values(DataType::kF32)),
                         [](const auto& info) { return std::string(dataTypeName(std::get<1>(info.param))); });
INSTANTIATE_TEST_SUITE_P(Models, CudaExactness,
                         testing::Combine(testing::Values("qwen3Window"), testing::Values(DataType::kBf16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + dataTypeName(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace hels::cuda
#endif
