// Choosing tokens from logits. Pure functions; how ranks agree is sampler.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace hels {

/// The best token of some vocabulary rows; tokenId -1: none. Higher values win, then lower ids.
struct Candidate {
  double value = 0;
  int32_t tokenId = -1;
};

bool better(const Candidate& candidate, const Candidate& other);

/// Index of the first of logits(count) that is NaN or infinite; -1: none is.
int64_t firstNotFinite(const float* logits, int64_t count);

/// The best of logits(count), which belong to the tokens [firstToken, firstToken + count): the highest logit at
/// temperature 0, else the highest logit / temperature + Gumbel noise of (seed, position, token). NaN logits never win.
Candidate bestCandidate(const float* logits, int64_t count, int32_t firstToken, const SamplingParameters& sampling,
                        int64_t position);

/// Whether a token can be chosen from local candidates alone; else the whole row of logits is needed.
bool needsWholeRow(const SamplingParameters& sampling);

/// Samples from whole rows of logits, one after the other, in memory taken once. One thread at a time.
class RowSampler {
 public:
  explicit RowSampler(int64_t vocabRows);

  /// The row to sample from, (vocabRows): fill it, then call sample().
  std::span<float> logits() { return logits_; }

  /// top_k, then top_p of what is left, of softmax(logits / temperature); among the kept the best by logit /
  /// temperature + noise. Log-probabilities are of softmax(logits). Sets everything but `slot`; tokenId -1 when no
  /// logit is a number. Allocates nothing when result.topLogprobs has room.
  void sample(const SamplingParameters& sampling, int64_t position, SampledToken& result);

 private:
  float logitOf(uint64_t ranked) const;
  void rank();
  void sortFirst(size_t count);
  /// Sum over all tokens of exp(logit / temperature - highest), NaN counting as 0.
  double weightOfAll(double temperature, double highest);
  size_t keptCount(const SamplingParameters& sampling);
  int32_t chooseToken(const SamplingParameters& sampling, int64_t position);
  void addLogprobs(int32_t count, SampledToken& result);

  std::vector<float> logits_;
  std::vector<float> weights_;    // by token, of the last weightOfAll()
  std::vector<uint64_t> ranked_;  // tokens as keys that fall with their rank; the first sorted_ are in order
  size_t sorted_ = 0;
};

}  // namespace hels
