// How the ranks agree on sampled tokens: each fills its own slots of one int64 sum and leaves the others zero. One
// collective for all sequences of a step, and one more for each kGatherRowsMax whole rows beyond the first.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/collective.h"
#include "engine/sampling.h"
#include "engine/scratch.h"

namespace hels {

class Sampler {
 public:
  Sampler(const ModelSpec& model, const ShardSpec& shard, const Scratch& scratch, Collective& collective)
      : model_(model), shard_(shard), scratch_(scratch), collective_(collective) {}

  /// Starts a step with nothing to sample.
  void begin();
  /// A sequence that samples its token at `position`, from logits over this rank's vocabulary rows. May run a
  /// collective.
  void add(int32_t slot, const SamplingParameters& sampling, int64_t position, const float* logits);
  /// Agrees with the other ranks: every rank gets the same tokens, in the order of add(). Throws kNumericRange naming
  /// the slot when no logit of a sequence is a number, and what the collective throws.
  std::vector<SampledToken> finish();

 private:
  struct Request {
    int32_t slot = 0;
    SamplingParameters sampling;
    int64_t position = 0;
    Candidate candidate;  // of this rank, unless the whole row is needed
  };

  void packRow(const float* logits, int64_t row);
  void agree(bool withCandidates);
  std::vector<float> unpackRow(int64_t row) const;
  Candidate readCandidate(int64_t index) const;

  const ModelSpec& model_;
  const ShardSpec& shard_;
  const Scratch& scratch_;
  Collective& collective_;
  std::vector<Request> requests_;
  std::vector<SampledToken> results_;  // by request
  std::vector<size_t> candidates_;     // requests that a candidate suffices for
  std::vector<size_t> rows_;           // requests whose whole rows wait in the buffer
};

}  // namespace hels
