// Normalization of one row. Sums run in f64 in eight lanes by index mod 8 and a fixed tree, so a row's bits are its
// own.
#pragma once

#include <cstdint>

namespace hels {

/// y = x / sqrt(mean(x^2) + epsilon) * weight. `y` may be `x`. (Zhang and Sennrich 2019; order of Hugging Face
/// LlamaRMSNorm.)
void rmsNorm(const float* x, const float* weight, int64_t count, double epsilon, float* y);

/// y = (x - mean) / sqrt(variance + epsilon) * weight + bias. `y` may be `x`. (Ba, Kiros and Hinton 2016.)
void layerNorm(const float* x, const float* weight, const float* bias, int64_t count, double epsilon, float* y);

}  // namespace hels
