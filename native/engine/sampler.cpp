#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/cpu/parallel.h"

namespace hels {
namespace {

constexpr int64_t kSlotValues = 2;  // value bits; token id + 1, 0 = none, or -(token id + 1) of a broken logit

/// Two f32 patterns per int64; ranks fill disjoint bits, so a sum carries nothing over.
int64_t packedRowSize(const ModelSpec& model) { return divCeil(model.vocabRows, 2); }

/// Of the logits of the tokens `rows`.
void ban(const std::vector<int32_t>& tokens, const Range& rows, float* logits) {
  for (const int32_t token : tokens) {
    if (token >= rows.begin && token < rows.end) logits[token - rows.begin] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace

Sampler::Sampler(const ModelSpec& model, const ShardSpec& shard, int threads, const Scratch& scratch,
                 Collective& collective)
    : model_(model),
      shard_(shard),
      threads_(threads),
      scratch_(scratch),
      collective_(collective),
      rowSamplers_(static_cast<size_t>(threads), RowSampler(model.vocabRows)) {}

void Sampler::begin() {
  requests_.clear();
  results_.clear();
  rows_.clear();
}

void Sampler::add(std::span<const LogitsRow> rows) {
  const size_t first = requests_.size();
  for (const LogitsRow& row : rows) {
    requests_.push_back({row.sequence->slot, *row.sequence->sampling, row.position});
    results_.emplace_back().slot = row.sequence->slot;
  }
  const int64_t count = shard_.vocabRows.size();
  const auto firstToken = static_cast<int32_t>(shard_.vocabRows.begin);
  parallelFor(threads_, static_cast<int64_t>(rows.size()), [&](int64_t i) {
    const LogitsRow& row = rows[static_cast<size_t>(i)];
    Request& request = requests_[first + static_cast<size_t>(i)];
    if (const int64_t broken = firstNotFinite(row.logits, count); broken >= 0) {
      request.brokenToken = firstToken + static_cast<int32_t>(broken);
      request.brokenLogit = row.logits[broken];
    }
    ban(row.sequence->bannedTokens, shard_.vocabRows, row.logits);
    if (!needsWholeRow(request.sampling)) {
      request.candidate = bestCandidate(row.logits, count, firstToken, request.sampling, row.position);
    }
  });
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!needsWholeRow(requests_[first + i].sampling)) continue;
    if (rows_.size() == static_cast<size_t>(kGatherRowsMax)) agree(false);
    packRow(rows[i].logits, static_cast<int64_t>(rows_.size()));
    rows_.push_back(first + i);
  }
}

void Sampler::packRow(const float* logits, int64_t row) {
  int64_t* target = scratch_.sampling + row * packedRowSize(model_);
  std::fill_n(target, packedRowSize(model_), 0);
  for (int64_t i = 0; i < shard_.vocabRows.size(); ++i) {
    const int64_t token = shard_.vocabRows.begin + i;
    const uint64_t bits = std::bit_cast<uint32_t>(logits[i]);
    target[token / 2] |= static_cast<int64_t>(bits << (token % 2 * 32));
  }
}

void Sampler::unpackRow(int64_t row, std::span<float> logits) const {
  const int64_t* source = scratch_.sampling + row * packedRowSize(model_);
  for (size_t token = 0; token < logits.size(); ++token) {
    const auto bits = static_cast<uint64_t>(source[token / 2]) >> (token % 2 * 32);
    logits[token] = std::bit_cast<float>(static_cast<uint32_t>(bits));
  }
}

/// Takes the tokens of the waiting rows.
void Sampler::sampleRows() {
  for (const size_t index : rows_) {
    results_[index].topLogprobs.reserve(static_cast<size_t>(std::max(0, requests_[index].sampling.logprobs)));
  }
  parallelForDynamic(threads_, static_cast<int64_t>(rows_.size()), [&](int64_t row, int thread) {
    RowSampler& sampler = rowSamplers_[static_cast<size_t>(thread)];
    const size_t index = rows_[static_cast<size_t>(row)];
    unpackRow(row, sampler.logits());
    sampler.sample(requests_[index].sampling, requests_[index].position, results_[index]);
  });
}

void Sampler::writeSlot(const Request& request, int64_t* slot) const {
  if (request.brokenToken >= 0) {
    slot[0] = std::bit_cast<int64_t>(static_cast<double>(request.brokenLogit));
    slot[1] = -(int64_t{request.brokenToken} + 1);
  } else {
    slot[0] = std::bit_cast<int64_t>(request.candidate.value);
    slot[1] = request.candidate.tokenId + 1;
  }
}

/// Sums the waiting rows, and the slots [request][rank] behind them; takes the results.
void Sampler::agree(bool withSlots) {
  const int64_t rowsSize = static_cast<int64_t>(rows_.size()) * packedRowSize(model_);
  const int64_t slotsSize = withSlots ? static_cast<int64_t>(requests_.size()) * shard_.ranks * kSlotValues : 0;
  int64_t* slots = scratch_.sampling + rowsSize;
  std::fill_n(slots, slotsSize, 0);
  for (size_t i = 0; withSlots && i < requests_.size(); ++i) {
    writeSlot(requests_[i], slots + (static_cast<int64_t>(i) * shard_.ranks + shard_.rank) * kSlotValues);
  }
  collective_.sum({scratch_.sampling, static_cast<size_t>(rowsSize + slotsSize)});

  for (size_t i = 0; withSlots && i < requests_.size(); ++i) refuseBroken(static_cast<int64_t>(i));
  sampleRows();
  for (size_t i = 0; withSlots && i < requests_.size(); ++i) {
    if (needsWholeRow(requests_[i].sampling)) continue;
    results_[i].tokenId = readCandidate(static_cast<int64_t>(i)).tokenId;
  }
  rows_.clear();
}

/// Throws, on every rank alike, when a rank's slot of the request says that a logit is NaN or infinite; call before
/// `rows_` is cleared.
void Sampler::refuseBroken(int64_t index) const {
  const int64_t* slots = scratch_.sampling + static_cast<int64_t>(rows_.size()) * packedRowSize(model_);
  for (int64_t rank = 0; rank < shard_.ranks; ++rank) {
    const int64_t* slot = slots + (index * shard_.ranks + rank) * kSlotValues;
    if (slot[1] >= 0) continue;
    const Request& request = requests_[static_cast<size_t>(index)];
    throw Error(ErrorCode::kNumericRange,
                "the logit of token " + std::to_string(-slot[1] - 1) + " on rank " + std::to_string(rank) + " is " +
                    std::to_string(std::bit_cast<double>(slot[0])) + " for slot " + std::to_string(request.slot) +
                    " at position " + std::to_string(request.position) +
                    ": the model's output overflows; its weights or their type do not fit");
  }
}

/// The best of all ranks' candidates; call before `rows_` is cleared.
Candidate Sampler::readCandidate(int64_t index) const {
  const int64_t* slots = scratch_.sampling + static_cast<int64_t>(rows_.size()) * packedRowSize(model_);
  Candidate best;
  for (int64_t rank = 0; rank < shard_.ranks; ++rank) {
    const int64_t* slot = slots + (index * shard_.ranks + rank) * kSlotValues;
    const Candidate candidate{std::bit_cast<double>(slot[0]), static_cast<int32_t>(slot[1] - 1)};
    if (better(candidate, best)) best = candidate;
  }
  return best;
}

std::vector<SampledToken> Sampler::finish() {
  if (requests_.empty()) return {};
  agree(true);
  return std::move(results_);
}

}  // namespace hels
