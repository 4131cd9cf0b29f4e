// How the ranks agree on sampled tokens: each fills its own slots of one int64 sum and leaves the others zero. One
// collective for all sequences of a step, and one more for each kGatherRowsMax whole rows beyond the first.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/collective.h"
#include "engine/sampling.h"
#include "engine/scratch.h"

namespace hels {

/// A sequence that samples its token at `position`, from logits over this rank's vocabulary rows.
struct LogitsRow {
  const SequenceStep* sequence = nullptr;
  int64_t position = 0;
  float* logits = nullptr;
};

class Sampler {
 public:
  Sampler(const ModelSpec& model, const ShardSpec& shard, int threads, const Scratch& scratch, Collective& collective);

  /// Starts a step with nothing to sample.
  void begin();
  /// Sequences that sample. May run collectives; the logits are not needed after the call: those of banned tokens
  /// become -infinity.
  void add(std::span<const LogitsRow> rows);
  /// Agrees with the other ranks: every rank gets the same tokens, in the order of add(). Throws, on every rank,
  /// kNumericRange naming slot, position, token and rank of a logit that is NaN or infinite, and what the collective
  /// throws.
  std::vector<SampledToken> finish();

 private:
  struct Request {
    int32_t slot = 0;
    SamplingParameters sampling;
    int64_t position = 0;
    Candidate candidate = {};  // of this rank, unless the whole row is needed
    int32_t brokenToken = -1;  // the first of this rank's whose logit is NaN or infinite
    float brokenLogit = 0;
  };

  void packRow(const float* logits, int64_t row);
  void agree(bool withSlots);
  void unpackRow(int64_t row, std::span<float> logits) const;
  void sampleRows();
  void writeSlot(const Request& request, int64_t* slot) const;
  void refuseBroken(int64_t index) const;
  Candidate readCandidate(int64_t index) const;

  const ModelSpec& model_;
  const ShardSpec& shard_;
  const int threads_;
  const Scratch& scratch_;
  Collective& collective_;
  std::vector<RowSampler> rowSamplers_;  // by thread
  std::vector<Request> requests_;
  std::vector<SampledToken> results_;  // by request
  std::vector<size_t> rows_;           // requests whose whole rows wait in the buffer
};

}  // namespace hels
