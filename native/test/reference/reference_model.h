// The forward pass in plain f64 loops, written from the papers and Hugging Face's model descriptions; shares no code
// with the engine.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/tiny_model.h"

namespace hels::reference {

/// logits[position][token] of one sequence, computed without a cache.
std::vector<std::vector<double>> referenceLogits(const TinyModel& model, const std::vector<int32_t>& tokens);

}  // namespace hels::reference
