// Rotary position embedding (Su et al. 2021) in the half-rotation form of Hugging Face: element i of a head turns with
// element i + headDim / 2 by the angle position * frequency[i].
#pragma once

#include <cstdint>
#include <vector>

#include "model/model_spec.h"

namespace hels {

/// frequencies[i] = ropeTheta^(-2 i / headDim), i < headDim / 2, scaled as the model asks: `linear` divides by
/// ropeFactor; `llama3` divides only long wavelengths and blends between (formula of Hugging Face
/// `_compute_llama3_parameters`).
std::vector<float> ropeFrequencies(const ModelSpec& model);

/// Fills table(2, headDim / 2): cosines, then sines of one position.
void fillRopeRow(const std::vector<float>& frequencies, int64_t position, float* table);

/// Turns one head in place by the row of its position.
void applyRope(float* head, const float* table, int64_t headDim);

}  // namespace hels
