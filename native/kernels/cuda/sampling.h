// Choosing tokens on the device, each rank among its vocabulary rows: the best candidate of engine/sampling.h, to the
// bit, in the slots in which the ranks agree (engine/sampler.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace hels::cuda {

/// What one row of logits is sampled with; an array of them lies in device memory.
struct SampleRequest {
  uint64_t seed = 0;
  int64_t position = 0;  // of the token to be sampled
  float temperature = 0.0F;
  int32_t slot = -1;  // of the sequence; -1: the row does not sample
};

/// Values of a rank in a request's slots: the candidate's value as bits and its token + 1, 0 = none; or the bits of a
/// broken logit, as f64, and -(token + 1).
inline constexpr int64_t kSlotValues = 2;

struct Sampling {
  const float* logits = nullptr;  // (rows, stride)
  int64_t stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;                      // vocabulary rows of this rank; may be 0
  int32_t firstToken = 0;                   // of column 0
  const SampleRequest* requests = nullptr;  // (rows)
  bool noise = false;                       // whether any request has a temperature above 0
  int64_t rank = 0;
  int64_t ranks = 1;
  int64_t* slots = nullptr;  // (rows, ranks, kSlotValues)
};

size_t samplingWorkspaceBytes(int64_t rows, int64_t columns);

/// Writes the rank's own slots of every request and zeros to the other ranks'.
void sampleCandidates(const Sampling& sampling, std::byte* workspace, cudaStream_t stream);

/// After the slots were summed over the ranks: sampled[slot] = the best of all ranks' candidates, for requests that
/// have a slot and a candidate.
void keepSampled(const Sampling& sampling, int32_t* sampled, cudaStream_t stream);

}  // namespace hels::cuda
