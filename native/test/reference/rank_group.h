// All ranks of a split in one process: engines on threads with the local communicator, stepped together.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "engine/engine.h"
#include "reference/tiny_model.h"

namespace hels::reference {

/// One rank's sizes: head groups, FFN granules, vocabulary rows.
struct RankShare {
  int64_t headGroups = 0;
  int64_t ffnGranules = 0;
  int64_t vocabRows = 0;
};

/// The shards of adjacent ranges; the last rank's FFN columns and vocabulary rows take what is left.
std::vector<ShardSpec> shardsOf(const ModelSpec& model, const std::vector<RankShare>& shares);

/// f32 exact, one thread, 64 blocks of 16 tokens, 128 tokens of a step, 32 sequences.
EngineOptions tinyOptions();

/// Throws what the first rank threw that did not fail only because another one did; nothing when none failed. By rank,
/// null: no failure.
void rethrowCause(const std::vector<std::exception_ptr>& failures);

class RankGroup {
 public:
  RankGroup(const TinyModel& model, const std::vector<RankShare>& shares, const EngineOptions& options = tinyOptions());
  /// Each rank its own options.
  RankGroup(const TinyModel& model, const std::vector<RankShare>& shares, const std::vector<EngineOptions>& options);

  /// The group of the next plan: each rank takes over from its entry of `predecessors`, null for one that is new.
  RankGroup(const TinyModel& model, const std::vector<RankShare>& shares, const std::vector<EngineOptions>& options,
            std::vector<std::unique_ptr<Engine>> predecessors);

  /// The engines, which this group has no more.
  std::vector<std::unique_ptr<Engine>> takeEngines() { return std::move(engines_); }
  /// By rank.
  std::vector<Range> headGroups() const;
  /// migrateKv() of all ranks; throws as rethrowCause().
  std::vector<KvMigrationResult> migrateKv(const KvMigration& migration);

  /// Steps all ranks; throws as rethrowCause(). Sampled tokens are checked to be equal on all ranks; logits are whole
  /// rows of the vocabulary.
  StepResult step(const StepBatch& batch);

  Engine& engine(size_t rank) { return *engines_[rank]; }
  size_t ranks() const { return engines_.size(); }

 private:
  /// Calls `body(rank)` on a thread for each rank; throws as rethrowCause().
  void onAllRanks(const std::function<void(size_t)>& body);
  StepResult merged(const std::vector<StepResult>& results) const;

  int64_t vocabRows_;
  std::vector<ShardSpec> shards_;
  std::vector<std::unique_ptr<Engine>> engines_;
};

/// A sequence's part of a step; positions [start, start + tokens), blocks from the table for all of `positions`.
SequenceStep sequenceStep(int32_t slot, const std::vector<int32_t>& tokens, int64_t start,
                          const std::vector<int32_t>& blocks);

/// Logits of all positions of one sequence, fed in chunks of at most `chunk` tokens.
std::vector<float> prefillLogits(RankGroup& group, const std::vector<int32_t>& tokens, int64_t chunk,
                                 const std::vector<int32_t>& blocks = {});

}  // namespace hels::reference
