// The profiler on a GPU. Under emulation times mean nothing, but all of the code runs.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "engine/profile.h"
#include "reference/tiny_model.h"
#include "shared_memory_of_a_device.h"

namespace hels::cuda {
namespace {

ModelSpec profiledSpec() {
  ModelSpec spec = reference::tinyLlama();
  spec.headDim = 16;
  spec.maxPositions = 1024;
  spec.weightType = DataType::kBf16;
  return spec;
}
EngineOptions profiledOptions() {
  EngineOptions options;
  options.device = "cuda:0";
  options.memoryBytes = 1 << 20;
  return options;
}

TEST(CudaProfile, MeasuresDecodePrefillAndMixedPoints) {
  Profiler profiler(profiledSpec(), profiledOptions());
  EXPECT_GT(profiler.measure({false, 4, 80, 4, 56, 101}, 3), 0.0) << "all of the model: replayed";
  EXPECT_GT(profiler.measure({false, 4, 80, 2, 24, 50}, 2), 0.0);
  EXPECT_GT(profiler.measure({false, 2, 100, 0, 0, 0}, 2), 0.0) << "a rank with nothing";
  EXPECT_GT(profiler.measure({true, 20, 20 * 10, 4, 56, 101}, 1), 0.0);
  EXPECT_GT(profiler.measure({false, 3, 60, 4, 56, 101, 10, 100}, 1), 0.0) << "mixed";
}

void expectError(ErrorCode code, const std::string& part, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "no error; expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(CudaProfile, RefusesByName) {
  Profiler profiler(profiledSpec(), profiledOptions());
  expectError(ErrorCode::kShapeInvalid, "headGroups is 5", [&] { profiler.measure({false, 1, 1, 5, 0, 0}, 1); });
  expectError(ErrorCode::kShapeInvalid, "contextTokens is 5000", [&] {
    profiler.measure({false, 1, 5000, 1, 0, 0}, 1);
  });
  EngineOptions options = profiledOptions();
  options.speed = 0.5;
  expectError(ErrorCode::kShapeInvalid, "speed is 0.5", [&] { Profiler(profiledSpec(), options); });
}

#ifdef HELS_CUDA_EMULATION
TEST(CudaProfile, NeedsNoKernelsForHeadsWhereAPointHasNone) {
  const test::SharedMemoryOfADevice small(size_t{48} << 10);
  ModelSpec spec = profiledSpec();
  spec.headDim = 192;
  Profiler profiler(spec, profiledOptions());
  EXPECT_GT(profiler.measure({false, 2, 2, 0, 24, 50}, 1), 0.0);
  expectError(ErrorCode::kShapeInvalid, "headDim is 192", [&] { profiler.measure({false, 2, 2, 1, 24, 50}, 1); });
}
#endif

}  // namespace
}  // namespace hels::cuda
#endif
