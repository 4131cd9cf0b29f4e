// Sequences whose KV is placed, parked and brought back at random, on a group of ranks; every logit is compared with
// those of one rank that has everything at home.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "reference/rank_group.h"

namespace hels::reference {

/// Options of all ranks for a pool with loans: rank j has `deviceBlocks[j]` addresses itself and lends the rest of the
/// runnable ones in pieces of random sizes to random other ranks.
std::vector<EngineOptions> randomLoans(const TinyModel& model, const std::vector<RankShare>& shares,
                                       const EngineOptions& common, const std::vector<int64_t>& deviceBlocks,
                                       std::mt19937_64& random);

class KvWorld {
 public:
  struct Shape {
    int64_t sequences = 4;
    int64_t tokens = 200;      // of each sequence
    int64_t chunkMax = 60;     // of a step
    bool lowestFirst = false;  // addresses are given out in order, not at random
    bool recalls = true;       // KV moves between runnable addresses, too
  };

  KvWorld(const TinyModel& model, RankGroup& group, const EngineOptions& options, const Shape& shape, uint64_t seed);

  /// Steps until all sequences are fed; false as soon as a logit differs or when there is no end. Counts steps.
  bool run(int64_t& steps);

 private:
  struct Sequence {
    int32_t slot = 0;
    std::vector<int32_t> tokens;
    std::vector<float> expected;
    size_t fed = 0;
    std::vector<int32_t> table;
    bool parked = false;
  };

  bool step();
  void release(Sequence& sequence);
  void moveSome(StepBatch& batch);
  /// Moves all blocks of the sequence to addresses of `target`, which has enough.
  void move(Sequence& sequence, std::vector<int32_t>& source, std::vector<int32_t>& target, StepBatch& batch);
  bool feed(Sequence& sequence, int64_t room, StepBatch& batch, std::vector<std::pair<size_t, size_t>>& rows);
  int32_t take(std::vector<int32_t>& addresses);
  int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }

  const TinyModel& model_;
  RankGroup& group_;
  const EngineOptions options_;
  const Shape shape_;
  std::mt19937_64 random_;
  std::vector<Sequence> sequences_;
  std::vector<int32_t> runnable_;  // free addresses
  std::vector<int32_t> parked_;
};

}  // namespace hels::reference
