#include "kernels/cpu/norm.h"

#include <cmath>

namespace hels {
namespace {

constexpr int64_t kLanes = 8;

/// Sum of term(x[i]) in f64.
template <typename Term>
double laneSum(const float* x, int64_t count, const Term& term) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(static_cast<double>(x[i + lane]));
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) lanes[lane] += term(static_cast<double>(x[i]));
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

}  // namespace

void rmsNorm(const float* x, const float* weight, int64_t count, double epsilon, float* y) {
  const double squares = laneSum(x, count, [](double value) { return value * value; });
  const auto scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(count) + epsilon));
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] * scale * weight[i];
}

void layerNorm(const float* x, const float* weight, const float* bias, int64_t count, double epsilon, float* y) {
  const double mean = laneSum(x, count, [](double value) { return value; }) / static_cast<double>(count);
  const double squares = laneSum(x, count, [mean](double value) { return (value - mean) * (value - mean); });
  const auto scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(count) + epsilon));
  const auto center = static_cast<float>(mean);
  for (int64_t i = 0; i < count; ++i) y[i] = (x[i] - center) * scale * weight[i] + bias[i];
}

}  // namespace hels
