#include "engine/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "engine/gumbel.h"
#include "kernels/cpu/activation.h"
#include "kernels/cpu/exponential.h"

namespace hels {
namespace {

/// The first of the highest, whole blocks at a time without a branch inside. NaN is never the highest.
Candidate highestLogit(const float* logits, int64_t count, int32_t firstToken) {
  constexpr int64_t kLanes = 16;
  constexpr int64_t kBlock = 512;
  Candidate best;
  float highest = -std::numeric_limits<float>::infinity();
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    float lanes[kLanes];
    std::fill_n(lanes, kLanes, highest);
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
      }
    }
    for (; i < end; ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
    const float most = *std::max_element(lanes, lanes + kLanes);
    if (most == highest && best.tokenId >= 0) continue;
    const float* first = std::find(logits + begin, logits + end, most);
    if (first == logits + end) continue;  // nothing but NaN, or -Inf was not there yet
    highest = *first;
    best = {static_cast<double>(highest), firstToken + static_cast<int32_t>(first - logits)};
  }
  return best;
}

/// Offers one token to `best`, computing its noise only if it can win.
void offer(float logit, int32_t token, double temperature, const GumbelNoise& noise, Candidate& best) {
  const double value = static_cast<double>(logit) / temperature;
  const uint64_t bits = noise.bits(token);
  if (best.tokenId >= 0 && !(value + GumbelNoise::bound(bits) >= best.value)) return;
  const Candidate candidate{value + GumbelNoise::value(bits), token};
  if (!std::isnan(candidate.value) && better(candidate, best)) best = candidate;
}

/// Keys whose order is that of their tokens' rank: by logit (NaN as the lowest, both zeros alike), then by falling id.
uint64_t rankKey(float logit, uint32_t token) {
  const float ordered = std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit + 0.0F;
  const uint32_t bits = std::bit_cast<uint32_t>(ordered);
  const uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x8000'0000U;
  return uint64_t{ascending} << 32 | uint32_t{~token};
}

/// A token's weight is expF32 of this: the fixed exp, so that all hosts cut at the same token.
float exponentOf(float logit, double temperature, double highest) {
  return static_cast<float>(static_cast<double>(logit) / temperature - highest);
}

double numberOrZero(float weight) { return std::isnan(weight) ? 0.0 : static_cast<double>(weight); }

int32_t tokenOf(uint64_t rankKey) { return static_cast<int32_t>(~static_cast<uint32_t>(rankKey)); }

}  // namespace

int64_t firstNotFinite(const float* logits, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000;
  // Whole blocks without a branch inside: almost always nothing is found.
  constexpr int64_t kBlock = 1024;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    uint32_t found = 0;
    for (int64_t i = begin; i < end; ++i) {
      found |= static_cast<uint32_t>((std::bit_cast<uint32_t>(logits[i]) & kExponent) == kExponent);
    }
    if (found == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (!std::isfinite(logits[i])) return i;
    }
  }
  return -1;
}

bool better(const Candidate& candidate, const Candidate& other) {
  if (candidate.tokenId < 0) return false;
  if (other.tokenId < 0 || candidate.value > other.value) return true;
  return candidate.value == other.value && candidate.tokenId < other.tokenId;
}

Candidate bestCandidate(const float* logits, int64_t count, int32_t firstToken, const SamplingParameters& sampling,
                        int64_t position) {
  Candidate best = highestLogit(logits, count, firstToken);
  if (sampling.temperature == 0.0F || best.tokenId < 0) return best;
  const GumbelNoise noise(sampling.seed, position);
  const auto temperature = static_cast<double>(sampling.temperature);
  const int32_t favorite = best.tokenId;
  best = {};
  offer(logits[favorite - firstToken], favorite, temperature, noise, best);  // a high start lets most others be skipped
  for (int64_t i = 0; i < count; ++i) offer(logits[i], firstToken + static_cast<int32_t>(i), temperature, noise, best);
  return best;
}

bool needsWholeRow(const SamplingParameters& sampling) {
  return sampling.logprobs >= 0 || (sampling.temperature > 0.0F && (sampling.topK > 0 || sampling.topP < 1.0F));
}

RowSampler::RowSampler(int64_t vocabRows)
    : logits_(static_cast<size_t>(vocabRows)), weights_(logits_.size()), ranked_(logits_.size()) {}

void RowSampler::sample(const SamplingParameters& sampling, int64_t position, SampledToken& result) {
  rank();
  result.tokenId = chooseToken(sampling, position);
  if (sampling.logprobs >= 0 && result.tokenId >= 0) addLogprobs(sampling.logprobs, result);
}

float RowSampler::logitOf(uint64_t ranked) const { return logits_[static_cast<size_t>(tokenOf(ranked))]; }

void RowSampler::rank() {
  for (size_t token = 0; token < logits_.size(); ++token) {
    ranked_[token] = rankKey(logits_[token], static_cast<uint32_t>(token));
  }
  sorted_ = 0;
}

/// Puts the `count` highest in order: few by a heap, which most tokens never enter, many by a split before the sort.
void RowSampler::sortFirst(size_t count) {
  constexpr size_t kHeapMax = 256;
  if (count <= sorted_) return;
  const auto begin = ranked_.begin() + static_cast<std::ptrdiff_t>(sorted_);
  const auto end = ranked_.begin() + static_cast<std::ptrdiff_t>(count);
  if (count - sorted_ <= kHeapMax) {
    std::partial_sort(begin, end, ranked_.end(), std::greater<>());
  } else {
    if (end != ranked_.end()) std::nth_element(begin, end, ranked_.end(), std::greater<>());
    std::sort(begin, end, std::greater<>());
  }
  sorted_ = count;
}

double RowSampler::weightOfAll(double temperature, double highest) {
  for (size_t token = 0; token < logits_.size(); ++token) {
    weights_[token] = exponentOf(logits_[token], temperature, highest);
  }
  exponentials(weights_.data(), static_cast<int64_t>(weights_.size()), bestIsa());
  double total = 0;
  for (const float weight : weights_) total += numberOrZero(weight);
  return total;
}

/// How many of the ranked tokens top_k and then top_p keep; at least one.
size_t RowSampler::keptCount(const SamplingParameters& sampling) {
  const size_t vocabulary = logits_.size();
  const size_t kept = sampling.topK > 0 ? std::min(vocabulary, static_cast<size_t>(sampling.topK)) : vocabulary;
  if (sampling.topP >= 1.0F) return kept;
  sortFirst(1);
  const auto temperature = static_cast<double>(sampling.temperature);
  const double highest = static_cast<double>(logitOf(ranked_[0])) / temperature;
  const auto weightOf = [&](size_t rank) {
    return numberOrZero(expF32(exponentOf(logitOf(ranked_[rank]), temperature, highest)));
  };
  double total = 0;
  if (kept < vocabulary) {
    sortFirst(kept);
    for (size_t i = 0; i < kept; ++i) total += weightOf(i);
  } else {
    total = weightOfAll(temperature, highest);
  }
  constexpr size_t kFirstSorted = 64;
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    if (i >= sorted_) sortFirst(std::min(kept, std::max(kFirstSorted, sorted_ * 4)));
    sum += weightOf(i);
    if (sum >= static_cast<double>(sampling.topP) * total) return i + 1;
  }
  return kept;
}

int32_t RowSampler::chooseToken(const SamplingParameters& sampling, int64_t position) {
  const auto vocabulary = static_cast<int64_t>(logits_.size());
  const size_t kept = sampling.temperature == 0.0F ? logits_.size() : keptCount(sampling);
  if (kept == logits_.size()) return bestCandidate(logits_.data(), vocabulary, 0, sampling, position).tokenId;
  sortFirst(kept);
  const GumbelNoise noise(sampling.seed, position);
  Candidate best;
  for (size_t i = 0; i < kept; ++i) {
    offer(logitOf(ranked_[i]), tokenOf(ranked_[i]), static_cast<double>(sampling.temperature), noise, best);
  }
  return best.tokenId;
}

void RowSampler::addLogprobs(int32_t count, SampledToken& result) {
  sortFirst(static_cast<size_t>(std::max(1, count)));
  const auto highest = static_cast<double>(logitOf(ranked_[0]));
  const double logTotal = highest + logF64(weightOfAll(1.0, highest));
  const auto logprob = [&](int32_t token) {
    return static_cast<float>(static_cast<double>(logits_[static_cast<size_t>(token)]) - logTotal);
  };
  result.logprob = logprob(result.tokenId);
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    result.topLogprobs.push_back({tokenOf(ranked_[i]), logprob(tokenOf(ranked_[i]))});
  }
}

}  // namespace hels
