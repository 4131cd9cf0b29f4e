#include "comm/collective_probe.h"

#include <algorithm>
#include <span>

#include "base/error.h"

namespace hels {
namespace {

using Clock = std::chrono::steady_clock;

/// Sums of one repetition at most: a deep model's are measured in part and scaled.
constexpr int64_t kSumsMax = 32;
/// What each rank adds for a token when the ranks agree on a sampled token: a value and an id.
constexpr int64_t kSamplingValues = 2;

double medianOf(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double secondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

std::vector<double> probeCollective(Communicator& communicator, const ProbeLoad& load) {
  require(load.hiddenSize >= 1 && load.sums >= 1 && load.repetitions >= 1 && !load.tokens.empty(),
          ErrorCode::kShapeInvalid, "a probe needs token counts, and hiddenSize, sums and repetitions of 1 or more");
  const int64_t tokensMax = *std::max_element(load.tokens.begin(), load.tokens.end());
  const int64_t samplingWidth = communicator.ranks() * kSamplingValues;
  std::vector<int64_t> values(static_cast<size_t>(tokensMax * std::max(load.hiddenSize, samplingWidth)));
  const auto sum = [&](int64_t count) {
    communicator.allReduceSum(std::span(values).first(static_cast<size_t>(count)), load.deadline);
  };
  const int64_t measuredSums = std::min(load.sums, kSumsMax);
  const double scale = static_cast<double>(load.sums) / static_cast<double>(measuredSums);
  const auto start = Clock::now();
  std::vector<std::vector<double>> seconds(load.tokens.size());
  // Round by round over all token counts: a disturbance spoils one value of each rather than all of one.
  for (int repetition = 0; repetition < load.repetitions; ++repetition) {
    // The ranks add up what they have spent, so that all of them stop after the same round.
    int64_t spent = (Clock::now() - start) / std::chrono::nanoseconds(1);
    communicator.allReduceSum({&spent, 1}, load.deadline);
    if (repetition > 0 && spent > load.budget.count() * communicator.ranks()) break;
    for (size_t i = 0; i < load.tokens.size(); ++i) {
      const int64_t tokens = load.tokens[i];
      sum(1);  // the start line
      const auto begin = Clock::now();
      for (int64_t done = 0; done < measuredSums; ++done) sum(tokens * load.hiddenSize);
      const double layers = secondsSince(begin) * scale;
      const auto sampling = Clock::now();
      sum(tokens * samplingWidth);
      seconds[i].push_back(layers + secondsSince(sampling));
    }
  }
  std::vector<double> medians;
  medians.reserve(seconds.size());
  for (std::vector<double>& measured : seconds) medians.push_back(medianOf(measured));
  return medians;
}

}  // namespace hels
