// The known answers an engine computes at load: that exact numerics hold on this processor at this model's shapes, and
// a fingerprint of all bits that products, attention and the other kernels give.
#pragma once

#include <string>

#include "engine/engine.h"
#include "kernels/cpu/gemm.h"

namespace hels {

/// Ranks with equal fingerprints give equal bits: "chain-N/bf16:0123456789abcdef". In exact mode throws kInternal
/// naming the check that failed: products must not depend on rows, columns' slice, granules' grouping, threads or
/// instruction set. In fast mode nothing is promised; the fingerprint names the implementation.
std::string selfCheck(const ModelSpec& model, const EngineOptions& options, Gemm& gemm);

}  // namespace hels
