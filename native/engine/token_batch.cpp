#include "engine/token_batch.h"

#include <string>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "engine/scratch.h"

namespace hels {
namespace {

enum class BlockUse : uint8_t { kNone, kRead, kWritten };

class BatchCheck {
 public:
  BatchCheck(const ModelSpec& model, const EngineOptions& options, const std::vector<int32_t>& sampledTokens)
      : model_(model),
        options_(options),
        sampledTokens_(sampledTokens),
        slotUsed_(static_cast<size_t>(options.sequencesMax)),
        blockUse_(static_cast<size_t>(options.kvBlocks)) {}

  TokenBatch flatten(const StepBatch& batch) {
    check(!batch.sequences.empty() || !batch.kvMoves.empty(), "the step has no sequences and no kvMoves");
    checkMoves(batch.kvMoves);
    TokenBatch result;
    for (index_ = 0; index_ < batch.sequences.size(); ++index_) {
      const SequenceStep& sequence = batch.sequences[index_];
      checkSlot(sequence);
      const int64_t count = checkTokens(sequence);
      checkPositions(sequence, count);
      checkSampling(sequence);
      append(sequence, count, result);
    }
    return result;
  }

 private:
  void check(bool good, const std::string& message) const {
    require(good, ErrorCode::kShapeInvalid, "step, sequence " + std::to_string(index_) + ": " + message);
  }
  /// value in [low, high)
  void checkRange(const char* field, int64_t value, int64_t low, int64_t high) const {
    if (value >= low && value < high) return;
    check(false, std::string(field) + " is " + std::to_string(value) + "; allowed is [" + std::to_string(low) + ", " +
                     std::to_string(high) + ")");
  }

  void checkMoves(const std::vector<KvMove>& moves) const {
    const int64_t addresses = options_.kvBlocks + options_.kvParkedBlocks;
    // More can name no address once; the limit comes before the set grows.
    require(static_cast<int64_t>(moves.size()) <= addresses / 2, ErrorCode::kShapeInvalid,
            "step: kvMoves has " + std::to_string(moves.size()) + " entries; allowed are up to " +
                std::to_string(addresses / 2) + " among " + std::to_string(addresses) + " addresses");
    std::unordered_set<int32_t> seen;
    for (size_t index = 0; index < moves.size(); ++index) {
      for (const auto& [field, address] : {std::pair("from", moves[index].from), std::pair("to", moves[index].to)}) {
        const std::string name =
            "step, kvMoves[" + std::to_string(index) + "]: " + field + " is " + std::to_string(address);
        require(address >= 0 && address < addresses, ErrorCode::kShapeInvalid,
                name + "; allowed is " + rangeText(0, addresses));
        require(seen.insert(address).second, ErrorCode::kShapeInvalid,
                name + "; the address is used twice in the step's moves");
      }
    }
  }

  void checkSlot(const SequenceStep& sequence) {
    checkRange("slot", sequence.slot, 0, options_.sequencesMax);
    const auto slot = static_cast<size_t>(sequence.slot);
    check(!slotUsed_[slot], "slot " + std::to_string(sequence.slot) + " is used twice in the step");
    slotUsed_[slot] = true;
  }

  int64_t checkTokens(const SequenceStep& sequence) const {
    if (sequence.takeSampled) {
      check(sequence.tokens.empty(), "takeSampled and tokens exclude each other");
      check(sampledTokens_[static_cast<size_t>(sequence.slot)] >= 0,
            "takeSampled, but nothing was sampled yet for slot " + std::to_string(sequence.slot));
      return 1;
    }
    check(!sequence.tokens.empty(), "no tokens");
    for (const int32_t token : sequence.tokens) checkRange("token", token, 0, model_.vocabRows);
    return static_cast<int64_t>(sequence.tokens.size());
  }

  void checkPositions(const SequenceStep& sequence, int64_t count) {
    checkRange("tokens", count, 1, options_.stepTokensMax + 1);
    // The table's length is no limit: blocks that are only read may be named more than once.
    checkRange("startPosition", sequence.startPosition, 0, positionsMax(model_, options_) - count + 1);
    const int64_t positions = sequence.startPosition + count;
    const int64_t needed = (positions + options_.kvBlockTokens - 1) / options_.kvBlockTokens;
    check(static_cast<int64_t>(sequence.blockTable.size()) >= needed,
          "blockTable has " + std::to_string(sequence.blockTable.size()) + " blocks; " + std::to_string(positions) +
              " positions need " + std::to_string(needed));
    const int64_t firstWritten = sequence.startPosition / options_.kvBlockTokens;
    for (int64_t i = 0; i < static_cast<int64_t>(sequence.blockTable.size()); ++i) {
      checkBlock(sequence.blockTable[static_cast<size_t>(i)], i < firstWritten);
    }
  }

  /// Sequences may share blocks that they only read: a common prefix. One that the step writes has one owner.
  void checkBlock(int32_t block, bool readOnly) {
    checkRange("block", block, 0, options_.kvBlocks);
    BlockUse& use = blockUse_[static_cast<size_t>(block)];
    check(use == BlockUse::kNone || (readOnly && use == BlockUse::kRead),
          "block " + std::to_string(block) + " is used twice in the step, and written");
    use = readOnly ? BlockUse::kRead : BlockUse::kWritten;
  }

  void checkSampling(const SequenceStep& sequence) const {
    if (!sequence.sampling) return;
    const SamplingParameters& sampling = *sequence.sampling;
    check(sampling.temperature >= 0.0F && sampling.temperature <= 100.0F,
          "temperature is " + std::to_string(sampling.temperature) + "; allowed is [0, 100]");
    check(sampling.topP > 0.0F && sampling.topP <= 1.0F,
          "topP is " + std::to_string(sampling.topP) + "; allowed is (0, 1]");
    check(sampling.topK >= 0, "topK is " + std::to_string(sampling.topK) + "; allowed is 0 (off) and above");
    checkRange("logprobs", sampling.logprobs, -1, model_.vocabRows + 1);
    checkRange("bannedTokens", static_cast<int64_t>(sequence.bannedTokens.size()), 0, model_.vocabRows);
    for (const int32_t token : sequence.bannedTokens) checkRange("banned token", token, 0, model_.vocabRows);
  }

  void append(const SequenceStep& sequence, int64_t count, TokenBatch& result) {
    const int64_t total = result.tokens() + count;
    check(total <= options_.stepTokensMax,
          "the step has more than stepTokensMax = " + std::to_string(options_.stepTokensMax) + " tokens");
    result.sequences.push_back({result.tokens(), count, sequence.startPosition, sequence.blockTable.data()});
    if (sequence.takeSampled) {
      result.tokenIds.push_back(sampledTokens_[static_cast<size_t>(sequence.slot)]);
    } else {
      result.tokenIds.insert(result.tokenIds.end(), sequence.tokens.begin(), sequence.tokens.end());
    }
    for (int64_t i = 0; i < count; ++i) {
      result.positions.push_back(sequence.startPosition + i);
      result.sequenceOf.push_back(static_cast<int32_t>(index_));
    }
  }

  const ModelSpec& model_;
  const EngineOptions& options_;
  const std::vector<int32_t>& sampledTokens_;
  std::vector<bool> slotUsed_;
  std::vector<BlockUse> blockUse_;
  size_t index_ = 0;
};

}  // namespace

TokenBatch makeTokenBatch(const StepBatch& batch, const ModelSpec& model, const EngineOptions& options,
                          const std::vector<int32_t>& sampledTokens) {
  return BatchCheck(model, options, sampledTokens).flatten(batch);
}

}  // namespace hels
