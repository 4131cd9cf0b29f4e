#include "reference/kv_world.h"

#include <algorithm>
#include <numeric>

namespace hels::reference {
namespace {

constexpr int64_t kStepsMax = 5000;

}  // namespace

std::vector<EngineOptions> randomLoans(const TinyModel& model, const std::vector<RankShare>& shares,
                                       const EngineOptions& common, const std::vector<int64_t>& deviceBlocks,
                                       std::mt19937_64& random) {
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  const std::vector<ShardSpec> shards = shardsOf(model.spec, shares);
  std::vector<KvLoan> loans;
  for (size_t owner = 0; owner < shares.size(); ++owner) {
    if (shards[owner].headGroups.empty()) continue;
    for (int64_t begin = deviceBlocks[owner]; begin < common.kvBlocks;) {
      const int64_t end = draw(begin + 1, common.kvBlocks);
      const int64_t other = draw(0, static_cast<int64_t>(shares.size()) - 2);
      const auto holder = static_cast<int>(other < static_cast<int64_t>(owner) ? other : other + 1);
      loans.push_back({static_cast<int>(owner), holder, {begin, end}, shards[owner].headGroups});
      begin = end;
    }
  }
  std::ranges::shuffle(loans, random);
  std::vector<EngineOptions> options(shares.size(), common);
  for (size_t rank = 0; rank < shares.size(); ++rank) {
    options[rank].kvDeviceBlocks = deviceBlocks[rank];
    options[rank].kvLoans = loans;
  }
  return options;
}

KvWorld::KvWorld(const TinyModel& model, RankGroup& group, const EngineOptions& options, const Shape& shape,
                 uint64_t seed)
    : model_(model), group_(group), options_(options), shape_(shape), random_(seed) {
  EngineOptions aloneOptions = tinyOptions();
  aloneOptions.device = options.device;
  aloneOptions.kvBlocks = 64;
  RankGroup alone(model, {{model.spec.headGroups, 0, 0}}, aloneOptions);
  for (int64_t i = 0; i < shape.sequences; ++i) {
    Sequence sequence;
    sequence.slot = static_cast<int32_t>(i);
    sequence.tokens =
        randomTokens(draw(shape.tokens / 2, shape.tokens), model.spec.vocabRows, seed * 100 + static_cast<uint64_t>(i));
    sequence.expected = prefillLogits(alone, sequence.tokens, 128);
    sequences_.push_back(std::move(sequence));
  }
  runnable_.resize(static_cast<size_t>(options.kvBlocks));
  std::iota(runnable_.rbegin(), runnable_.rend(), 0);
  parked_.resize(static_cast<size_t>(options.kvParkedBlocks));
  std::iota(parked_.rbegin(), parked_.rend(), static_cast<int32_t>(options.kvBlocks));
  if (shape.lowestFirst) return;
  std::ranges::shuffle(runnable_, random_);
  std::ranges::shuffle(parked_, random_);
}

int32_t KvWorld::take(std::vector<int32_t>& addresses) {
  const int32_t address = addresses.back();
  addresses.pop_back();
  return address;
}

bool KvWorld::run(int64_t& steps) {
  const auto unfinished = [](const Sequence& sequence) { return sequence.fed < sequence.tokens.size(); };
  while (std::ranges::any_of(sequences_, unfinished)) {
    if (++steps > kStepsMax || !step()) return false;
  }
  return true;
}

/// Parks or brings back sequences; addresses that are freed are used again from the next step on.
void KvWorld::moveSome(StepBatch& batch) {
  std::vector<int32_t> freed;
  std::vector<int32_t> freedParked;
  for (Sequence& sequence : sequences_) {
    if (sequence.table.empty() || draw(0, 3) > 0) continue;
    if (sequence.parked && runnable_.size() >= sequence.table.size()) {
      move(sequence, freedParked, runnable_, batch);
    } else if (shape_.recalls && !sequence.parked && draw(0, 2) == 0 && runnable_.size() >= sequence.table.size()) {
      move(sequence, freed, runnable_, batch);  // home from a loan, among others
      continue;
    } else if (!sequence.parked && parked_.size() >= sequence.table.size()) {
      move(sequence, freed, parked_, batch);
    } else {
      continue;
    }
    sequence.parked = !sequence.parked;
  }
  runnable_.insert(runnable_.begin(), freed.begin(), freed.end());
  parked_.insert(parked_.begin(), freedParked.begin(), freedParked.end());
}

void KvWorld::move(Sequence& sequence, std::vector<int32_t>& source, std::vector<int32_t>& target, StepBatch& batch) {
  for (int32_t& address : sequence.table) {
    const int32_t to = take(target);
    batch.kvMoves.push_back({address, to});
    source.push_back(address);
    address = to;
  }
}

/// Adds a piece of the sequence to the step; false when there is no room for it.
bool KvWorld::feed(Sequence& sequence, int64_t room, StepBatch& batch, std::vector<std::pair<size_t, size_t>>& rows) {
  const auto left = static_cast<int64_t>(sequence.tokens.size() - sequence.fed);
  if (sequence.parked || left == 0 || room == 0 || draw(0, 4) == 0) return false;
  const int64_t wanted = draw(0, 1) == 0 ? 1 : draw(1, shape_.chunkMax);
  const auto count = static_cast<size_t>(std::min({wanted, left, room}));
  const size_t blockTokens = static_cast<size_t>(options_.kvBlockTokens);
  const size_t needed = (sequence.fed + count + blockTokens - 1) / blockTokens;
  if (needed > sequence.table.size() + runnable_.size()) return false;
  while (sequence.table.size() < needed) sequence.table.push_back(take(runnable_));
  SequenceStep part;
  part.slot = sequence.slot;
  part.startPosition = static_cast<int64_t>(sequence.fed);
  part.tokens.assign(sequence.tokens.begin() + static_cast<std::ptrdiff_t>(sequence.fed),
                     sequence.tokens.begin() + static_cast<std::ptrdiff_t>(sequence.fed + count));
  part.blockTable = sequence.table;
  part.returnLogits = true;
  rows.emplace_back(static_cast<size_t>(&sequence - sequences_.data()), sequence.fed);
  sequence.fed += count;
  batch.sequences.push_back(std::move(part));
  return true;
}

/// Gives the sequence's addresses back; one that is not finished begins again.
void KvWorld::release(Sequence& sequence) {
  std::vector<int32_t>& addresses = sequence.parked ? parked_ : runnable_;
  addresses.insert(addresses.begin(), sequence.table.begin(), sequence.table.end());
  if (sequence.fed < sequence.tokens.size()) sequence.fed = 0;
  sequence.table.clear();
  sequence.parked = false;
}

bool KvWorld::step() {
  StepBatch batch;
  moveSome(batch);
  std::vector<std::pair<size_t, size_t>> rows;  // sequence, first position
  int64_t room = options_.stepTokensMax;
  for (Sequence& sequence : sequences_) {
    if (feed(sequence, room, batch, rows)) room -= static_cast<int64_t>(batch.sequences.back().tokens.size());
  }
  if (batch.sequences.empty()) release(sequences_[static_cast<size_t>(draw(0, shape_.sequences - 1))]);
  for (Sequence& sequence : sequences_) {
    if (sequence.fed == sequence.tokens.size()) release(sequence);
  }
  if (batch.sequences.empty() && batch.kvMoves.empty()) return true;
  const std::vector<float> logits = group_.step(batch).logits;
  const auto vocabulary = static_cast<size_t>(model_.spec.vocabRows);
  auto got = logits.begin();
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto count = static_cast<std::ptrdiff_t>(batch.sequences[i].tokens.size() * vocabulary);
    const auto& expected = sequences_[rows[i].first].expected;
    const auto first = expected.begin() + static_cast<std::ptrdiff_t>(rows[i].second * vocabulary);
    if (!std::equal(got, got + count, first, first + count)) return false;
    got += count;
  }
  return got == logits.end();
}

}  // namespace hels::reference
