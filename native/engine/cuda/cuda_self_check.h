// What a GPU's products give for known values: checked against each other, and hashed into a fingerprint.
#pragma once

#include <string>

#include "engine/cuda/cuda_products.h"
#include "engine/engine.h"

namespace hels::cuda {

/// "cuda-1/NVIDIA H200/chain/cuda-sm90/bf16:HASH": equal fingerprints promise equal bits. In exact numerics throws
/// kInternal when the bits of a product depend on the number of rows or the slice of columns. For the current device,
/// of which it takes some memory while it runs.
std::string cudaFingerprint(const ModelSpec& model, const EngineOptions& options, CudaProducts& products,
                            cudaStream_t stream);

}  // namespace hels::cuda
