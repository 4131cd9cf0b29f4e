// The engine on a GPU in fast numerics, over a library in place of cuBLASLt: what it makes of the library's products.
#ifdef HELS_HAS_CUDA
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "engine/engine.h"
#include "fake_folder.h"
#include "reference/rank_group.h"
#include "reference/reference_model.h"

namespace hels::cuda {
namespace {

using namespace reference;

class FastEngine : public testing::TestWithParam<DataType> {
 protected:
  // The process finds the fake before any real library.
  FastEngine() : folder_(HELS_FAKE_CUBLAS_LT, "libcublasLt.so.13") {
    ::setenv("HELS_CUDA_LIBRARY_PATH", folder_.path().c_str(), 1);
  }
  ~FastEngine() override { ::unsetenv("HELS_CUDA_LIBRARY_PATH"); }

  test::FakeFolder folder_;
};

TEST_P(FastEngine, AgreesWithTheModelInF64OnOneRankAndOnTwo) {
  ModelSpec spec = tinyLlama();
  spec.headDim = 16;
  spec.weightType = GetParam();
  spec.mlpBias = true;
  const TinyModel model = makeTinyModel(spec, 11);
  const std::vector<int32_t> tokens = randomTokens(21, spec.vocabRows, 5);
  const std::vector<std::vector<double>> expected = referenceLogits(model, tokens);
  EngineOptions options = tinyOptions();
  options.device = "cuda:0";
  options.numerics = Numerics::kFast;
  const auto columns = static_cast<size_t>(spec.vocabRows);
  const std::vector<std::vector<RankShare>> splits = {{{4, 0, 0}}, {{1, 2, 9}, {3, 0, 0}}};
  for (const std::vector<RankShare>& split : splits) {
    RankGroup group(model, split, options);
    EXPECT_EQ(group.engine(0).report().gemmImplementation.rfind("cublasLt/", 0), 0U);
    EXPECT_EQ(group.engine(0).report().fingerprint.rfind("fast-1/", 0), 0U);
    const std::vector<float> logits = prefillLogits(group, tokens, 21);
    double largest = 0.0;
    double difference = 0.0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double reference = expected[i / columns][i % columns];
      largest = std::max(largest, std::abs(reference));
      difference = std::max(difference, std::abs(reference - static_cast<double>(logits[i])));
    }
    EXPECT_LT(difference / largest, GetParam() == DataType::kF32 ? 5e-5 : GetParam() == DataType::kF16 ? 4e-3 : 3e-2);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, FastEngine, testing::Values(DataType::kF32, DataType::kBf16, DataType::kF16),
                         [](const auto& info) { return std::string(dataTypeName(info.param)); });

}  // namespace
}  // namespace hels::cuda
#endif
