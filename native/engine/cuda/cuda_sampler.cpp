#include "engine/cuda/cuda_sampler.h"

#include <bit>
#include <string>

#include "base/cuda/check.h"
#include "base/error.h"
#include "engine/sampling.h"
#include "kernels/cuda/sampling.h"

namespace hels::cuda {

CudaSampler::CudaSampler(const ShardSpec& shard, const EngineOptions& options, int64_t layers,
                         const CudaScratch& scratch, CudaCollective& collective)
    : shard_(shard),
      slotsOffset_(slotsOffset(layers)),
      scratch_(scratch),
      collective_(collective),
      host_(slotsOffset_ + static_cast<size_t>(samplingRowsMax(options) * shard.ranks * kSlotValues) * sizeof(int64_t),
            "a step's results") {}

void CudaSampler::enqueue(const StepMetadata& metadata, bool noise, cudaStream_t stream) {
  Sampling sampling;
  sampling.logits = scratch_.logits;
  sampling.stride = scratch_.logitsStride;
  sampling.rows = metadata.shape().logitRows;
  sampling.columns = shard_.vocabRows.size();
  sampling.firstToken = static_cast<int32_t>(shard_.vocabRows.begin);
  sampling.requests = metadata.requests();
  sampling.noise = noise;
  sampling.rank = shard_.rank;
  sampling.ranks = shard_.ranks;
  sampling.slots = scratch_.slots;
  sampleCandidates(sampling, scratch_.samplingWorkspace, stream);
  collective_.sum(scratch_.slots, sampling.rows * sampling.ranks * kSlotValues, stream);
  keepSampled(sampling, scratch_.sampled, stream);
}

void CudaSampler::download(int64_t requests, cudaStream_t stream) {
  const size_t slots = static_cast<size_t>(requests * shard_.ranks * kSlotValues) * sizeof(int64_t);
  check(cudaMemcpyAsync(host_.data(), scratch_.results, slotsOffset_ + slots, cudaMemcpyDeviceToHost, stream),
        "copy of a step's results");
}

std::vector<SampledToken> CudaSampler::read(const StepBatch& batch, const TokenBatch& tokens,
                                            const std::vector<LogitRow>& rows) const {
  std::vector<SampledToken> result;
  result.reserve(rows.size());
  for (const LogitRow& row : rows) {
    const int32_t slot = batch.sequences[static_cast<size_t>(row.sequence)].slot;
    const int64_t position = tokens.positions[static_cast<size_t>(row.token)] + 1;
    result.push_back(readRow(static_cast<int64_t>(result.size()), slot, position));
  }
  return result;
}

SampledToken CudaSampler::readRow(int64_t row, int32_t slot, int64_t position) const {
  const auto* slots = reinterpret_cast<const int64_t*>(host_.data() + slotsOffset_) + row * shard_.ranks * kSlotValues;
  Candidate best;
  for (int64_t rank = 0; rank < shard_.ranks; ++rank) {
    const auto value = std::bit_cast<double>(slots[rank * kSlotValues]);
    const int64_t token = slots[rank * kSlotValues + 1];
    require(token >= 0, ErrorCode::kNumericRange,
            "the logit of token " + std::to_string(-token - 1) + " on rank " + std::to_string(rank) + " is " +
                std::to_string(value) + " for slot " + std::to_string(slot) + " at position " +
                std::to_string(position) + ": the model's output overflows; its weights or their type do not fit");
    const Candidate candidate{value, static_cast<int32_t>(token - 1)};
    if (better(candidate, best)) best = candidate;
  }
  SampledToken sampled;
  sampled.slot = slot;
  sampled.tokenId = best.tokenId;
  return sampled;
}

}  // namespace hels::cuda
