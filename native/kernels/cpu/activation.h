// Element-wise functions, in place: activations of the MLP, and the exponential of sampling.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace hels {

/// values[i] = values[i] / (1 + exp(-values[i])), with the project's own exp; times factors[i] if there are factors.
void silu(float* values, const float* factors, int64_t count, Isa isa);
/// values[i] = max(values[i], 0), NaN stays NaN; times factors[i] if there are factors.
void relu(float* values, const float* factors, int64_t count);
/// values[i] = expF32(values[i]).
void exponentials(float* values, int64_t count, Isa isa);

}  // namespace hels
