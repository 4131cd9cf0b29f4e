// Row-parallel sums in int64 fixed point: addition of integers is associative, so neither the order nor the grouping of
// partial sums over head groups, FFN granules and ranks can change a bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cpu/isa.h"

namespace hels {

/// Scale of the fixed point, 2^32: a constant of the numerics version.
inline constexpr double kFixedPointScale = 4294967296.0;
/// Partials must be below 2^24 in magnitude, so one takes 57 bits ...
inline constexpr float kFixedPointLimit = 16777216.0F;
/// ... and at most 127 of them can be summed before int64 could wrap.
inline constexpr int64_t kFixedPointPartialsMax = 127;

inline bool inFixedPointRange(float value) { return std::fabs(value) < kFixedPointLimit; }  // false for NaN

/// Round to nearest, ties to even. `value` must be in range.
inline int64_t toFixedPoint(float value) {
  return static_cast<int64_t>(std::nearbyint(static_cast<double>(value) * kFixedPointScale));
}

/// residual[i] += fromFixedPoint(sums[i]), or that + bias[i] if there is a bias.
void addFromFixedPoint(const int64_t* sums, const float* bias, int64_t count, float* residual, Isa isa);

inline float fromFixedPoint(int64_t value) { return static_cast<float>(static_cast<double>(value) / kFixedPointScale); }

}  // namespace hels
