// Measures what a step's collectives cost between the actual ranks: all of them at once, as in service, so that ranks
// that share cores get in each other's way as they will.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "comm/communicator.h"

namespace hels {

/// The sums of one forward step of `tokens` tokens: `sums` of tokens * hiddenSize values, and one of
/// tokens * ranks * 2 values, in which the ranks agree on the sampled tokens.
struct ProbeLoad {
  std::vector<int64_t> tokens;
  int64_t hiddenSize = 0;
  int64_t sums = 0;
  /// Of each token count, at most and at least 1; fewer when the mean rank has spent `budget` on the whole probe.
  int repetitions = 1;
  std::chrono::nanoseconds budget{0};
  /// Of each sum.
  std::chrono::nanoseconds deadline{0};
};

/// Seconds of one step's collectives on this rank, for each entry of load.tokens: medians over the repetitions, each of
/// which begins when the last rank is there. Every rank calls with an equal load. Throws as allReduceSum.
std::vector<double> probeCollective(Communicator& communicator, const ProbeLoad& load);

}  // namespace hels
