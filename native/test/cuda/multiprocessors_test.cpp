#include "kernels/cuda/multiprocessors.h"

#include <gtest/gtest.h>

namespace hels::cuda {
namespace {

TEST(Multiprocessors, AStreamUsesSome) { EXPECT_GE(countMultiprocessors(nullptr), 1); }

}  // namespace
}  // namespace hels::cuda
