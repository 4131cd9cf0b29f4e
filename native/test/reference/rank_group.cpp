#include "reference/rank_group.h"

#include <algorithm>
#include <exception>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "base/error.h"
#include "comm/local_communicator.h"

namespace hels::reference {

std::vector<ShardSpec> shardsOf(const ModelSpec& model, const std::vector<RankShare>& shares) {
  std::vector<ShardSpec> shards;
  ShardSpec next{0, static_cast<int>(shares.size()), {0, 0}, {0, 0}, {0, 0}};
  for (const RankShare& share : shares) {
    const bool last = shards.size() + 1 == shares.size();
    next.headGroups = {next.headGroups.end, next.headGroups.end + share.headGroups};
    next.ffnColumns = {next.ffnColumns.end,
                       last ? model.ffnColumns : next.ffnColumns.end + share.ffnGranules * model.ffnGranule};
    next.vocabRows = {next.vocabRows.end, last ? model.vocabRows : next.vocabRows.end + share.vocabRows};
    shards.push_back(next);
    ++next.rank;
  }
  return shards;
}

EngineOptions tinyOptions() {
  EngineOptions options;
  options.kvBlocks = 64;
  options.stepTokensMax = 128;
  options.sequencesMax = 32;
  return options;
}

RankGroup::RankGroup(const TinyModel& model, const std::vector<RankShare>& shares, const EngineOptions& options)
    : RankGroup(model, shares, std::vector<EngineOptions>(shares.size(), options)) {}

RankGroup::RankGroup(const TinyModel& model, const std::vector<RankShare>& shares,
                     const std::vector<EngineOptions>& options)
    : RankGroup(model, shares, options, std::vector<std::unique_ptr<Engine>>(shares.size())) {}

RankGroup::RankGroup(const TinyModel& model, const std::vector<RankShare>& shares,
                     const std::vector<EngineOptions>& options, std::vector<std::unique_ptr<Engine>> predecessors)
    : vocabRows_(model.spec.vocabRows), shards_(shardsOf(model.spec, shares)) {
  const auto communicators = createLocalGroup(static_cast<int>(shares.size()));
  for (size_t rank = 0; rank < shards_.size(); ++rank) {
    engines_.push_back(
        Engine::load(model.spec, shards_[rank], model.source, options[rank], std::move(predecessors[rank])));
    if (shards_.size() > 1) engines_.back()->connect(communicators[rank]);
  }
}

namespace {

/// Whether a rank failed only because another one did.
bool followsAnother(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return error.code() == ErrorCode::kPeerLost || error.code() == ErrorCode::kAborted;
  } catch (...) {
    return false;
  }
}

/// The first failure that is no consequence of another rank's, else the first; null without one.
std::exception_ptr causeOf(const std::vector<std::exception_ptr>& failures) {
  std::exception_ptr first;
  for (const std::exception_ptr& failure : failures) {
    if (!failure) continue;
    if (!followsAnother(failure)) return failure;
    if (!first) first = failure;
  }
  return first;
}

}  // namespace

void rethrowCause(const std::vector<std::exception_ptr>& failures) {
  if (const std::exception_ptr cause = causeOf(failures)) std::rethrow_exception(cause);
}

void RankGroup::onAllRanks(const std::function<void(size_t)>& body) {
  std::vector<std::exception_ptr> failures(engines_.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < engines_.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(rank);
      } catch (...) {
        failures[rank] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  rethrowCause(failures);
}

StepResult RankGroup::step(const StepBatch& batch) {
  std::vector<StepResult> results(engines_.size());
  onAllRanks([&](size_t rank) { results[rank] = engines_[rank]->step(batch); });
  return merged(results);
}

std::vector<Range> RankGroup::headGroups() const {
  std::vector<Range> ranges;
  for (const ShardSpec& shard : shards_) ranges.push_back(shard.headGroups);
  return ranges;
}

std::vector<KvMigrationResult> RankGroup::migrateKv(const KvMigration& migration) {
  std::vector<KvMigrationResult> results(engines_.size());
  onAllRanks([&](size_t rank) { results[rank] = engines_[rank]->migrateKv(migration); });
  return results;
}

StepResult RankGroup::merged(const std::vector<StepResult>& results) const {
  StepResult whole = results.front();
  for (const StepResult& result : results) {
    const bool equal = std::equal(result.sampled.begin(), result.sampled.end(), whole.sampled.begin(),
                                  whole.sampled.end(), [](const SampledToken& a, const SampledToken& b) {
                                    return a.slot == b.slot && a.tokenId == b.tokenId && a.logprob == b.logprob &&
                                           a.topLogprobs.size() == b.topLogprobs.size();
                                  });
    if (!equal) throw std::runtime_error("the ranks sampled different tokens");
  }
  const auto columnsOf = [&](size_t rank) { return static_cast<size_t>(shards_[rank].vocabRows.size()); };
  size_t rows = 0;
  for (size_t rank = 0; rank < results.size(); ++rank) {
    if (columnsOf(rank) > 0) rows = results[rank].logits.size() / columnsOf(rank);
  }
  whole.logits.assign(rows * static_cast<size_t>(vocabRows_), 0.0F);
  for (size_t rank = 0; rank < results.size(); ++rank) {
    for (size_t row = 0; row < rows; ++row) {
      std::copy_n(results[rank].logits.begin() + static_cast<std::ptrdiff_t>(row * columnsOf(rank)), columnsOf(rank),
                  whole.logits.begin() + static_cast<std::ptrdiff_t>(row) * vocabRows_ + shards_[rank].vocabRows.begin);
    }
  }
  return whole;
}

SequenceStep sequenceStep(int32_t slot, const std::vector<int32_t>& tokens, int64_t start,
                          const std::vector<int32_t>& blocks) {
  SequenceStep sequence;
  sequence.slot = slot;
  sequence.tokens = tokens;
  sequence.startPosition = start;
  const auto needed = (static_cast<size_t>(start) + std::max<size_t>(1, tokens.size()) + 15) / 16;
  sequence.blockTable.assign(blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(needed));
  return sequence;
}

std::vector<float> prefillLogits(RankGroup& group, const std::vector<int32_t>& tokens, int64_t chunk,
                                 const std::vector<int32_t>& blocks) {
  std::vector<int32_t> table = blocks;
  if (table.empty()) {
    table.resize(64);
    std::iota(table.begin(), table.end(), 0);
  }
  std::vector<float> logits;
  for (size_t start = 0; start < tokens.size(); start += static_cast<size_t>(chunk)) {
    const size_t end = std::min(tokens.size(), start + static_cast<size_t>(chunk));
    const std::vector<int32_t> part(tokens.begin() + static_cast<std::ptrdiff_t>(start),
                                    tokens.begin() + static_cast<std::ptrdiff_t>(end));
    StepBatch batch;
    batch.sequences.push_back(sequenceStep(0, part, static_cast<int64_t>(start), table));
    batch.sequences.back().returnLogits = true;
    const StepResult result = group.step(batch);
    logits.insert(logits.end(), result.logits.begin(), result.logits.end());
  }
  return logits;
}

}  // namespace hels::reference
