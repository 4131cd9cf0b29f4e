// Sampling: right in distribution, a pure function of (seed, position), and the same on any split.
#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "base/error.h"
#include "engine/gumbel.h"
#include "kernels/cpu/activation.h"
#include "kernels/cpu/exponential.h"
#include "reference/rank_group.h"

namespace hels {
namespace {

using namespace reference;

SamplingParameters parameters(float temperature, float topP, int32_t topK, uint64_t seed, int32_t logprobs = -1) {
  return {temperature, topP, topK, seed, logprobs};
}

std::vector<float> randomLogits(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, 2.0F);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& value : logits) value = normal(random);
  return logits;
}

SampledToken sampleRow(const std::vector<float>& logits, const SamplingParameters& sampling, int64_t position) {
  RowSampler sampler(static_cast<int64_t>(logits.size()));
  std::ranges::copy(logits, sampler.logits().begin());
  SampledToken result;
  sampler.sample(sampling, position, result);
  return result;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> result;
  double sum = 0.0;
  for (const float logit : logits) sum += result.emplace_back(std::exp(static_cast<double>(logit) / temperature));
  for (double& value : result) value /= sum;
  return result;
}

TEST(Log, IsAccurate) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-740.0, 700.0);
  for (int i = 0; i < 100000; ++i) {
    const double x = i % 2 == 0 ? std::exp(exponent(random) / 1.1) : 1.0 + exponent(random) * 1e-5;
    ASSERT_NEAR(logF64(x), std::log(x), 1e-15 * std::max(1e-4, std::abs(std::log(x)))) << x;
  }
  EXPECT_EQ(logF64(1.0), 0.0);
}

TEST(Gumbel, BoundHoldsAndExtremesAreFinite) {
  const uint64_t last = (uint64_t{1} << 53) - 1;
  for (const uint64_t bits : {uint64_t{0}, uint64_t{1}, last / 2, last - 1, last}) {
    EXPECT_TRUE(std::isfinite(GumbelNoise::value(bits)));
    EXPECT_LE(GumbelNoise::value(bits), GumbelNoise::bound(bits));
  }
  double sum = 0.0;
  for (int32_t token = 0; token < 200000; ++token) {
    const uint64_t bits = GumbelNoise(5, 9).bits(token);
    ASSERT_LE(GumbelNoise::value(bits), GumbelNoise::bound(bits));
    sum += GumbelNoise::value(bits);
  }
  EXPECT_NEAR(sum / 200000, 0.5772, 0.01);  // Euler's constant
}

TEST(Candidates, FollowTheSoftmax) {
  const std::vector<float> logits = randomLogits(20, 3);
  for (const double temperature : {0.7, 1.0, 2.5}) {
    const std::vector<double> expected = softmax(logits, temperature);
    std::vector<double> seen(logits.size());
    constexpr int kDraws = 40000;
    for (int position = 0; position < kDraws; ++position) {
      const Candidate best =
          bestCandidate(logits.data(), 20, 0, parameters(static_cast<float>(temperature), 1, 0, 77), position);
      seen[static_cast<size_t>(best.tokenId)] += 1.0;
    }
    double chiSquare = 0.0;
    for (size_t i = 0; i < seen.size(); ++i) {
      chiSquare += std::pow(seen[i] - kDraws * expected[i], 2) / (kDraws * expected[i]);
    }
    EXPECT_LT(chiSquare, 43.8) << "19 degrees of freedom, 0.1 %";
    EXPECT_GT(chiSquare, 5.0) << "too good to be chance";
  }
}

TEST(Candidates, OfSlicesGiveTheWhole) {
  const std::vector<float> logits = randomLogits(500, 4);
  for (int64_t position = 0; position < 200; ++position) {
    const SamplingParameters sampling = parameters(position % 3 == 0 ? 0.0F : 1.3F, 1, 0, 5);
    const Candidate whole = bestCandidate(logits.data(), 500, 0, sampling, position);
    Candidate best;
    for (const auto& [begin, end] : {std::pair<int, int>{0, 123}, {123, 123}, {123, 400}, {400, 500}}) {
      const Candidate part = bestCandidate(logits.data() + begin, end - begin, begin, sampling, position);
      if (better(part, best)) best = part;
    }
    EXPECT_EQ(best.tokenId, whole.tokenId);
    EXPECT_EQ(best.value, whole.value);
  }
}

TEST(Candidates, TiesGoToTheLowestIdAndNaNNeverWins) {
  const std::vector<float> logits{NAN, 1.0F, 3.0F, 3.0F, NAN, -INFINITY};
  EXPECT_EQ(bestCandidate(logits.data(), 6, 10, parameters(0, 1, 0, 0), 0).tokenId, 12);
  const std::vector<float> none{NAN, NAN};
  EXPECT_EQ(bestCandidate(none.data(), 2, 0, parameters(1, 1, 0, 0), 0).tokenId, -1);
  EXPECT_EQ(bestCandidate(none.data(), 0, 0, parameters(0, 1, 0, 0), 0).tokenId, -1);
}

TEST(WholeRow, TopKAndTopPRestrictTheSet) {
  const std::vector<float> logits = randomLogits(300, 6);
  std::vector<int32_t> order(300);
  for (int32_t i = 0; i < 300; ++i) order[static_cast<size_t>(i)] = i;
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  const std::vector<double> probability = softmax(logits, 1.5);
  size_t nucleus = 0;
  for (double sum = 0.0; sum < 0.6; ++nucleus) sum += probability[static_cast<size_t>(order[nucleus])];
  ASSERT_GT(nucleus, 5U);
  std::set<int32_t> topK, topP, both;
  for (int64_t position = 0; position < 3000; ++position) {
    topK.insert(sampleRow(logits, parameters(1.5F, 1.0F, 5, 8), position).tokenId);
    topP.insert(sampleRow(logits, parameters(1.5F, 0.6F, 0, 8), position).tokenId);
    both.insert(sampleRow(logits, parameters(1.5F, 0.5F, 4, 8), position).tokenId);
  }
  EXPECT_EQ(topK, std::set<int32_t>(order.begin(), order.begin() + 5));
  EXPECT_EQ(topP, std::set<int32_t>(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(nucleus)));
  EXPECT_LT(both.size(), 4U);  // top_p of what top_k left
  EXPECT_EQ(sampleRow(logits, parameters(1.5F, 1e-6F, 0, 8), 3).tokenId, order[0]);
}

/// The definition of top_k and top_p, by a full sort: which tokens they keep, and which of them wins.
class SortedRow {
 public:
  SortedRow(const std::vector<float>& logits, float temperature)
      : logits_(logits), temperature_(static_cast<double>(temperature)), order_(logits.size()) {
    const auto key = [&](int32_t token) {
      const float logit = logits[static_cast<size_t>(token)];
      return std::isnan(logit) ? -INFINITY : logit;
    };
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(),
              [&](int32_t a, int32_t b) { return key(a) > key(b) || (key(a) == key(b) && a < b); });
    const double highest = static_cast<double>(logits[static_cast<size_t>(order_[0])]) / temperature_;
    for (const float logit : logits) {
      const float value = expF32(static_cast<float>(static_cast<double>(logit) / temperature_ - highest));
      weights_.push_back(std::isnan(value) ? 0.0 : static_cast<double>(value));
    }
  }

  /// The tokens that are kept, the most likely one first.
  std::vector<int32_t> kept(float topP, int32_t topK) const {
    const size_t most = topK > 0 ? std::min(order_.size(), static_cast<size_t>(topK)) : order_.size();
    double total = 0.0;  // summed by rank, or by id when all are kept
    for (size_t i = 0; i < most; ++i) total += weights_[most < order_.size() ? static_cast<size_t>(order_[i]) : i];
    double sum = 0.0;
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < most; ++i) {
      tokens.push_back(order_[i]);
      sum += weights_[static_cast<size_t>(order_[i])];
      if (topP < 1.0F && sum >= static_cast<double>(topP) * total) break;
    }
    return tokens;
  }

  int32_t sample(const std::vector<int32_t>& kept, uint64_t seed, int64_t position) const {
    Candidate best;
    const GumbelNoise noise(seed, position);
    for (const int32_t token : kept) {
      const double scaled = static_cast<double>(logits_[static_cast<size_t>(token)]) / temperature_;
      const Candidate candidate{scaled + GumbelNoise::value(noise.bits(token)), token};
      if (!std::isnan(candidate.value) && better(candidate, best)) best = candidate;
    }
    return best.tokenId;
  }

 private:
  std::vector<float> logits_;
  double temperature_;
  std::vector<int32_t> order_;
  std::vector<double> weights_;
};

TEST(WholeRow, IsTheChoiceOfAFullSort) {
  for (const int64_t vocabulary : {1, 7, 64, 65, 333, 5000}) {
    std::vector<float> logits = randomLogits(vocabulary, 12);
    for (size_t i = 3; i < logits.size(); i += 5) logits[i] = logits[i - 2];  // ties
    for (size_t i = 4; i < logits.size(); i += 50) logits[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? -0.0F : 0.0F;
    const SortedRow sorted(logits, 1.3F);
    for (const float topP : {1.0F, 0.999F, 0.9F, 0.3F}) {
      for (const int32_t topK : {0, 1, 40, 64, 300}) {
        const std::vector<int32_t> kept = sorted.kept(topP, topK);
        const int64_t positions = kept.size() > 300 ? 6 : 20;  // noise for each token takes its time
        for (int64_t position = 0; position < positions; ++position) {
          ASSERT_EQ(sampleRow(logits, parameters(1.3F, topP, topK, 4), position).tokenId,
                    sorted.sample(kept, 4, position))
              << vocabulary << " tokens, top_p " << topP << ", top_k " << topK;
        }
      }
    }
  }
}

TEST(Exponential, HasTheSameBitsOnEveryInstructionSet) {
  std::vector<float> values = randomLogits(1003, 14);
  for (float& value : values) value *= 30.0F;
  values[5] = NAN;
  values[6] = INFINITY;
  values[7] = -INFINITY;
  std::vector<float> portable = values;
  exponentials(portable.data(), 1003, Isa::kPortable);
  exponentials(values.data(), 1003, bestIsa());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(portable[i])) << i;
  }
}

TEST(WholeRow, IsThePlainChoiceWhenNothingIsFiltered) {
  const std::vector<float> logits = randomLogits(300, 6);
  for (int64_t position = 0; position < 100; ++position) {
    const SamplingParameters sampling = parameters(0.9F, 1.0F, 0, 8, 3);
    EXPECT_EQ(sampleRow(logits, sampling, position).tokenId,
              bestCandidate(logits.data(), 300, 0, sampling, position).tokenId);
  }
}

TEST(WholeRow, LogprobsAreOfTheRawLogits) {
  const std::vector<float> logits = randomLogits(200, 9);
  const SampledToken token = sampleRow(logits, parameters(2.0F, 0.9F, 50, 8, 4), 17);
  const std::vector<double> probability = softmax(logits, 1.0);
  EXPECT_NEAR(token.logprob, std::log(probability[static_cast<size_t>(token.tokenId)]), 1e-5);
  ASSERT_EQ(token.topLogprobs.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(token.topLogprobs[i].logprob, std::log(probability[static_cast<size_t>(token.topLogprobs[i].tokenId)]),
                1e-5);
    if (i > 0) {
      EXPECT_GE(token.topLogprobs[i - 1].logprob, token.topLogprobs[i].logprob);
    }
  }
  EXPECT_TRUE(sampleRow(logits, parameters(0, 1, 0, 0, 0), 1).topLogprobs.empty());
}

/// Tokens of 20 sequences over several steps, every second one by takeSampled.
std::vector<int32_t> generate(const std::vector<RankShare>& shares, uint64_t seed) {
  const TinyModel model = makeTinyModel(tinyLlama(), 2);
  RankGroup group(model, shares);
  std::vector<int32_t> generated;
  for (int64_t step = 0; step < 6; ++step) {
    StepBatch batch;
    for (int32_t slot = 0; slot < 20; ++slot) {
      const int64_t start = step == 0 ? 0 : step + 2;
      SequenceStep sequence =
          sequenceStep(slot, step == 0 ? std::vector<int32_t>{slot, 2, 3} : std::vector<int32_t>{}, start, {slot});
      sequence.takeSampled = step > 0;
      sequence.sampling = parameters(slot % 4 == 0 ? 0.0F : 1.2F, slot % 4 == 2 ? 0.8F : 1.0F, slot % 4 == 3 ? 7 : 0,
                                     seed, slot > 10 ? 2 : -1);
      batch.sequences.push_back(sequence);
    }
    const StepResult result = group.step(batch);
    for (size_t i = 0; i < result.sampled.size(); ++i) {
      EXPECT_EQ(result.sampled[i].slot, static_cast<int32_t>(i));
      generated.push_back(result.sampled[i].tokenId);
    }
  }
  return generated;
}

TEST(Engine, SamplesTheSameTokensOnAnySplit) {
  const std::vector<int32_t> expected = generate({{4, 0, 0}}, 42);
  EXPECT_EQ(expected.size(), 120U);
  EXPECT_EQ(generate({{4, 0, 0}}, 42), expected);
  EXPECT_NE(generate({{4, 0, 0}}, 43), expected);
  EXPECT_EQ(generate({{2, 1, 30}, {2, 0, 0}}, 42), expected);
  EXPECT_EQ(generate({{0, 1, 0}, {2, 1, 40}, {2, 0, 0}}, 42), expected);
}

TEST(Engine, GreedyTakesTheHighestLogit) {
  const TinyModel model = makeTinyModel(tinyLlama(), 2);
  RankGroup group(model, {{2, 1, 30}, {2, 0, 0}});
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(3, {5, 6, 7}, 0, {0}));
  batch.sequences[0].returnLogits = true;
  batch.sequences[0].sampling = SamplingParameters{};
  const StepResult result = group.step(batch);
  const auto last = result.logits.end() - 101;
  ASSERT_EQ(result.sampled.size(), 1U);
  EXPECT_EQ(result.sampled[0].tokenId, std::max_element(last, result.logits.end()) - last);
}

/// One sequence each: greedy, with a temperature, through whole rows, with logprobs of all but one of the 101 tokens.
StepBatch everySampling() {
  StepBatch batch;
  for (const SamplingParameters& sampling : {parameters(0, 1, 0, 0), parameters(1.2F, 1, 0, 7),
                                             parameters(1.2F, 0.9F, 20, 7), parameters(0, 1, 0, 0, 100)}) {
    const auto slot = static_cast<int32_t>(batch.sequences.size());
    batch.sequences.push_back(sequenceStep(slot, {5, 6, slot}, 0, {slot}));
    batch.sequences.back().sampling = sampling;
  }
  return batch;
}

TEST(Engine, SamplesNoBannedTokenOnAnySplit) {
  const TinyModel model = makeTinyModel(tinyLlama(), 2);
  RankGroup alone(model, {{4, 0, 0}});
  RankGroup split(model, {{0, 1, 0}, {2, 1, 40}, {2, 0, 0}});
  const StepBatch free = everySampling();
  const std::vector<SampledToken> unbanned = alone.step(free).sampled;
  for (size_t banned = 0; banned < free.sequences.size(); ++banned) {
    StepBatch batch = free;
    const int32_t token = unbanned[banned].tokenId;
    batch.sequences[banned].bannedTokens = {token};
    const std::vector<SampledToken> sampled = alone.step(batch).sampled;
    const std::vector<SampledToken> onSplit = split.step(batch).sampled;
    for (size_t i = 0; i < sampled.size(); ++i) {
      EXPECT_EQ(onSplit[i].tokenId, sampled[i].tokenId);
      EXPECT_EQ(sampled[i].tokenId == unbanned[i].tokenId, i != banned);
    }
    if (batch.sequences[banned].sampling->logprobs < 0) continue;
    double sum = 0.0;
    for (const TokenLogprob& top : sampled[banned].topLogprobs) {
      EXPECT_NE(top.tokenId, token);
      sum += std::exp(static_cast<double>(top.logprob));
    }
    EXPECT_NEAR(sum, 1.0, 1e-5) << "of what can be sampled";
  }
}

TEST(Engine, GreedyTakesTheHighestLogitThatIsNotBanned) {
  const TinyModel model = makeTinyModel(tinyLlama(), 2);
  RankGroup group(model, {{2, 1, 30}, {2, 0, 0}});
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(3, {5, 6, 7}, 0, {0}));
  batch.sequences[0].returnLogits = true;
  batch.sequences[0].sampling = SamplingParameters{};
  std::vector<float> expected;
  for (int32_t banned = 0; banned < 100; ++banned) {
    const StepResult result = group.step(batch);
    std::vector<float> last(result.logits.end() - 101, result.logits.end());
    if (banned == 0) expected = last;
    ASSERT_EQ(last, expected) << "what is returned is as computed";
    for (const int32_t token : batch.sequences[0].bannedTokens) last[static_cast<size_t>(token)] = -INFINITY;
    const auto highest = static_cast<int32_t>(std::ranges::max_element(last) - last.begin());
    ASSERT_EQ(result.sampled[0].tokenId, highest);
    batch.sequences[0].bannedTokens.push_back(highest);
  }
}

/// The error of a step whose logit of `token` overflows; empty when a token came out instead.
std::string overflowError(const std::vector<RankShare>& shares, int64_t token, const SamplingParameters& sampling) {
  const TinyModel model = makeTinyModel(tinyLlama(), 2);
  auto& head = const_cast<TensorView&>(*model.source->find("lm_head.weight"));
  std::vector<float> weights(head.sizeBytes / sizeof(float));
  std::memcpy(weights.data(), head.data, head.sizeBytes);
  const int64_t hidden = tinyLlama().hiddenSize;
  std::fill_n(weights.begin() + token * hidden, hidden, std::numeric_limits<float>::max());
  head.data = reinterpret_cast<const std::byte*>(weights.data());
  RankGroup group(model, shares);
  StepBatch batch;
  batch.sequences.push_back(sequenceStep(3, {5, 6, 7}, 0, {0}));
  batch.sequences[0].sampling = sampling;
  try {
    group.step(batch);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumericRange);
    return error.what();
  }
  return "";
}

TEST(Engine, ALogitThatOverflowsIsAnErrorThatNamesIt) {
  for (const SamplingParameters& sampling :
       {parameters(0, 1, 0, 0), parameters(1.2F, 1, 0, 7), parameters(1.2F, 0.9F, 0, 7), parameters(0, 1, 0, 0, 3)}) {
    for (const int64_t token : {0, 29, 30, 57, 100}) {
      const std::string alone = overflowError({{4, 0, 0}}, token, sampling);
      EXPECT_NE(alone.find("token " + std::to_string(token) + " on rank 0"), std::string::npos) << alone;
      EXPECT_NE(alone.find("slot 3 at position 3"), std::string::npos) << alone;
      const std::string split = overflowError({{2, 1, 30}, {2, 0, 0}}, token, sampling);
      const std::string rank = token < 30 ? " on rank 0" : " on rank 1";
      EXPECT_NE(split.find("token " + std::to_string(token) + rank), std::string::npos) << split;
    }
  }
}

}  // namespace
}  // namespace hels
