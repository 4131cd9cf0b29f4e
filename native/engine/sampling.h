// Choosing tokens from logits. Pure functions; how ranks agree is sampler.h.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace hels {

/// The best token of some vocabulary rows; tokenId -1: none. Higher values win, then lower ids.
struct Candidate {
  double value = 0;
  int32_t tokenId = -1;
};

bool better(const Candidate& candidate, const Candidate& other);

/// The best of logits(count), which belong to the tokens [firstToken, firstToken + count): the highest logit at
/// temperature 0, else the highest logit / temperature + Gumbel noise of (seed, position, token). NaN logits never win.
Candidate bestCandidate(const float* logits, int64_t count, int32_t firstToken, const SamplingParameters& sampling,
                        int64_t position);

/// Whether a token can be chosen from local candidates alone; else the whole row of logits is needed.
bool needsWholeRow(const SamplingParameters& sampling);

/// Samples from a whole row, logits(vocabRows): top_k, then top_p of what is left, of softmax(logits / temperature);
/// among the kept the best by logit / temperature + noise. Log-probabilities are of softmax(logits). Sets everything
/// but `slot`; tokenId -1 when no logit is a number.
SampledToken sampleRow(const std::vector<float>& logits, const SamplingParameters& sampling, int64_t position);

}  // namespace hels
