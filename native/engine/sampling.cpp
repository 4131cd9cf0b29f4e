#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/gumbel.h"
#include "kernels/cpu/exponential.h"

namespace hels {
namespace {

Candidate highestLogit(const float* logits, int64_t count, int32_t firstToken) {
  Candidate best;
  float highest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < count; ++i) {
    if (logits[i] > highest || (best.tokenId < 0 && logits[i] >= highest)) {
      highest = logits[i];
      best = {static_cast<double>(highest), firstToken + static_cast<int32_t>(i)};
    }
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

/// Token ids by falling logit, then rising id; only as many as are asked for get sorted.
class RankedTokens {
 public:
  explicit RankedTokens(const std::vector<float>& logits) : logits_(logits), order_(logits.size()) {
    std::iota(order_.begin(), order_.end(), 0);
  }
  /// The `count` highest.
  const std::vector<int32_t>& first(size_t count) {
    if (count > sorted_) {
      const auto middle = order_.begin() + static_cast<std::ptrdiff_t>(count);
      std::partial_sort(order_.begin() + static_cast<std::ptrdiff_t>(sorted_), middle, order_.end(),
                        [this](int32_t a, int32_t b) { return before(a, b); });
      sorted_ = count;
    }
    return order_;
  }

 private:
  bool before(int32_t a, int32_t b) const {
    const float logitA = key(a);
    const float logitB = key(b);
    return logitA > logitB || (logitA == logitB && a < b);
  }
  float key(int32_t token) const {  // NaN ranks last
    const float logit = logits_[static_cast<size_t>(token)];
    return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
  }

  const std::vector<float>& logits_;
  std::vector<int32_t> order_;
  size_t sorted_ = 0;
};

/// exp(logit / temperature - highest) by the fixed exp, so that all hosts cut at the same token.
double weightOf(float logit, double temperature, double highest) {
  const auto weight =
      static_cast<double>(expF32(static_cast<float>(static_cast<double>(logit) / temperature - highest)));
  return std::isnan(weight) ? 0.0 : weight;
}

/// How many of the ranked tokens top_k and then top_p keep; at least one.
size_t keptCount(const std::vector<float>& logits, const SamplingParameters& sampling, RankedTokens& ranked) {
  const size_t vocabulary = logits.size();
  const size_t kept = sampling.topK > 0 ? std::min(vocabulary, static_cast<size_t>(sampling.topK)) : vocabulary;
  if (sampling.topP >= 1.0F) return kept;
  const auto temperature = static_cast<double>(sampling.temperature);
  const double highest = static_cast<double>(logits[static_cast<size_t>(ranked.first(1)[0])]) / temperature;
  double total = 0;
  if (kept < vocabulary) {
    const std::vector<int32_t>& order = ranked.first(kept);
    for (size_t i = 0; i < kept; ++i) total += weightOf(logits[static_cast<size_t>(order[i])], temperature, highest);
  } else {
    for (const float logit : logits) total += weightOf(logit, temperature, highest);
  }
  double sum = 0;
  size_t sorted = 0;
  for (size_t i = 0; i < kept; ++i) {
    if (i == sorted) sorted = std::min(kept, std::max<size_t>(64, sorted * 4));
    sum += weightOf(logits[static_cast<size_t>(ranked.first(sorted)[i])], temperature, highest);
    if (sum >= static_cast<double>(sampling.topP) * total) return i + 1;
  }
  return kept;
}

int32_t sampleToken(const std::vector<float>& logits, const SamplingParameters& sampling, int64_t position,
                    RankedTokens& ranked) {
  const auto vocabulary = static_cast<int64_t>(logits.size());
  if (sampling.temperature == 0.0F) return bestCandidate(logits.data(), vocabulary, 0, sampling, position).tokenId;
  const size_t kept = keptCount(logits, sampling, ranked);
  if (kept == logits.size()) return bestCandidate(logits.data(), vocabulary, 0, sampling, position).tokenId;
  const GumbelNoise noise(sampling.seed, position);
  Candidate best;
  const std::vector<int32_t>& order = ranked.first(kept);
  for (size_t i = 0; i < kept; ++i) {
    offer(logits[static_cast<size_t>(order[i])], order[i], static_cast<double>(sampling.temperature), noise, best);
  }
  return best.tokenId;
}

void addLogprobs(const std::vector<float>& logits, int32_t count, RankedTokens& ranked, SampledToken& result) {
  const std::vector<int32_t>& order = ranked.first(static_cast<size_t>(std::max(1, count)));
  const auto highest = static_cast<double>(logits[static_cast<size_t>(order[0])]);
  double total = 0;
  for (const float logit : logits) total += weightOf(logit, 1.0, highest);
  const double logTotal = highest + logF64(total);
  const auto logprob = [&](int32_t token) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token)]) - logTotal);
  };
  result.logprob = logprob(result.tokenId);
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) result.topLogprobs.push_back({order[i], logprob(order[i])});
}

}  // namespace

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

SampledToken sampleRow(const std::vector<float>& logits, const SamplingParameters& sampling, int64_t position) {
  RankedTokens ranked(logits);
  SampledToken result;
  result.tokenId = sampleToken(logits, sampling, position, ranked);
  if (sampling.logprobs >= 0 && result.tokenId >= 0) addLogprobs(logits, sampling.logprobs, ranked, result);
  return result;
}

}  // namespace hels
