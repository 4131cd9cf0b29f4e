#include "engine/cuda/cuda_remote_plan.h"

#include <algorithm>
#include <set>

#include "engine/cuda/cuda_memory.h"
#include "kernels/cpu/gemm.h"

namespace hels::cuda {
namespace {

constexpr size_t kAlignment = 16;
/// Parts of all heads of a turn, in floats, where one token does not take more.
constexpr int64_t kPartFloats = int64_t{16} << 20;

std::set<int64_t> windowsOf(const ModelSpec& model) {
  if (model.slidingWindows.empty()) return {0};
  return {model.slidingWindows.begin(), model.slidingWindows.end()};
}

RemoteFormat formatOf(const ModelSpec& model) {
  return {kAttentionChunkTokens, static_cast<int64_t>(bytesOf(model.weightType)), false};
}

/// The tokens of `range`, counted from its first; sequences without any of them have none.
TokenBatch sliceOf(const TokenBatch& tokens, const TokenRange& range) {
  TokenBatch slice;
  const auto part = [&](const auto& all) {
    return std::vector(all.begin() + range.first, all.begin() + range.first + range.count);
  };
  slice.tokenIds = part(tokens.tokenIds);
  slice.positions = part(tokens.positions);
  slice.sequenceOf = part(tokens.sequenceOf);
  for (const BatchSequence& whole : tokens.sequences) {
    const int64_t first = std::max(whole.firstToken, range.first);
    const int64_t end = std::min(whole.firstToken + whole.tokens, range.first + range.count);
    BatchSequence& sequence = slice.sequences.emplace_back(whole);
    sequence.tokens = std::max<int64_t>(0, end - first);
    sequence.firstToken = sequence.tokens == 0 ? 0 : first - range.first;
    sequence.startPosition = whole.startPosition + (sequence.tokens == 0 ? 0 : first - whole.firstToken);
  }
  return slice;
}

}  // namespace

int32_t HeldKv::blockOf(int64_t address) const {
  int64_t before = 0;
  for (const KvLoan& loan : loans) {
    if (loan.blocks.begin <= address && address < loan.blocks.end) {
      return static_cast<int32_t>(before + address - loan.blocks.begin);
    }
    before += loan.blocks.size();
  }
  return -1;
}

std::vector<HeldKv> heldKvOf(const KvHomes& homes, const KvShape& shape, std::byte* data) {
  std::vector<HeldKv> held;
  for (const KvLoan& loan : homes.loans) {  // by owner, then ascending addresses
    if (loan.holder != homes.rank) continue;
    if (held.empty() || held.back().owner != loan.owner) {
      HeldKv& fresh = held.emplace_back();
      fresh.owner = loan.owner;
      fresh.kv.shape = shape;
      fresh.kv.shape.headGroups = loan.headGroups.size();
      fresh.kv.shape.blocks = 0;
    }
    held.back().loans.push_back(loan);
    held.back().kv.shape.blocks += loan.blocks.size();
  }
  for (HeldKv& one : held) {
    one.kv.data = data;
    if (data != nullptr) data += one.kv.shape.sizeBytes();
  }
  return held;
}

CudaRemotePlan::CudaRemotePlan(const ModelSpec& model, const EngineOptions& options, const KvHomes& homes,
                               const std::vector<HeldKv>& held)
    : model_(model),
      options_(options),
      homes_(homes),
      held_(held),
      sizes_(model, options.kvBlockTokens, formatOf(model)),
      turnTokensLimit_(options.stepTokensMax) {}

int64_t CudaRemotePlan::tokensAtOnce(int64_t slots) const {
  const int64_t heads = model_.headGroups * model_.queryHeadsPerGroup;
  return std::clamp<int64_t>(kPartFloats / (heads * slots * sizes_.partFloats()), 1, turnTokensLimit_);
}

int64_t CudaRemotePlan::turnTokensMax() const { return tokensAtOnce(1); }

int64_t CudaRemotePlan::partsMax(int64_t groups) const {
  const int64_t slots = attentionSlots(0, largestStep(model_, options_).contextMax);
  int64_t most = 0;
  for (int64_t some = 1; some <= slots; ++some) most = std::max(most, tokensAtOnce(some) * some);
  return most * groups * model_.queryHeadsPerGroup;
}

size_t CudaRemotePlan::measure() const {
  const StepShape largest = largestStep(model_, options_);
  const auto roles = static_cast<int64_t>(held_.size()) + 1;
  const int64_t chunks = divCeil(largest.contextMax, kAttentionChunkTokens);
  const int64_t homes =
      roles * largest.sequences * (chunks + largest.tableBlocks * static_cast<int64_t>(sizeof(int32_t)));
  int64_t turns = 0;
  int64_t entries = 0;
  for (const int64_t window : windowsOf(model_)) {
    const int64_t slots = attentionSlots(window, largest.contextMax);
    turns += divCeil(largest.tokens, tokensAtOnce(slots));
    entries += largest.tokens * slots * roles;
  }
  const auto windows = static_cast<int64_t>(windowsOf(model_).size());
  const int64_t bytes = homes + turns * 3 * largest.sequences * static_cast<int64_t>(sizeof(int32_t)) +
                        entries * static_cast<int64_t>(sizeof(PartsEntry)) +
                        windows * largest.tokens * roles * static_cast<int64_t>(sizeof(int32_t));
  const int64_t pieces = 2 * roles + turns * (3 + 2 * homes_.ranks * roles);
  return static_cast<size_t>(bytes) + static_cast<size_t>(pieces) * kAlignment;
}

template <typename Element>
size_t CudaRemotePlan::append(const std::vector<Element>& elements) {
  const size_t offset = (tables_.size() + kAlignment - 1) / kAlignment * kAlignment;
  const auto* bytes = reinterpret_cast<const std::byte*>(elements.data());
  tables_.resize(offset);
  tables_.insert(tables_.end(), bytes, bytes + elements.size() * sizeof(Element));
  return offset;
}

void CudaRemotePlan::write(const TokenBatch& tokens, const StepShape& shape) {
  tables_.clear();
  windows_.clear();
  writeHomes(tokens, shape);
  for (const int64_t window : windowsOf(model_)) {
    Window& target = windows_[window];
    const int64_t count = tokensAtOnce(attentionSlots(window, shape.contextMax));
    for (int64_t first = 0; first < tokens.tokens(); first += count) {
      const RemoteTurn& turn =
          target.turns.emplace_back(turnOf(tokens, {first, std::min(count, tokens.tokens() - first)}, window));
      target.active = target.active || turn.plan.first || turn.plan.second;
      target.lends =
          target.lends || std::ranges::any_of(turn.plan.sources, [](const auto& some) { return !some.empty(); });
    }
  }
}

/// Where each sequence's chunks and blocks lie.
void CudaRemotePlan::writeHomes(const TokenBatch& tokens, const StepShape& shape) {
  chunkStride_ = divCeil(shape.contextMax, kAttentionChunkTokens);
  const size_t sequences = tokens.sequences.size();
  std::vector<uint8_t> own(sequences * static_cast<size_t>(chunkStride_), 0);
  std::vector<std::vector<uint8_t>> chunks(held_.size(), own);
  std::vector<std::vector<int32_t>> blocks(
      held_.size(), std::vector<int32_t>(sequences * static_cast<size_t>(shape.tableBlocks), -1));
  for (size_t index = 0; index < sequences; ++index) {
    const BatchSequence& sequence = tokens.sequences[index];
    const int64_t end = divCeil(sequence.startPosition + sequence.tokens, options_.kvBlockTokens);
    for (int64_t block = 0; block < end; ++block) {
      const int32_t address = sequence.blockTable[block];
      const auto mark = [&](std::vector<uint8_t>& here) {
        const int64_t first = block * options_.kvBlockTokens / kAttentionChunkTokens;
        const int64_t count = std::min(options_.kvBlockTokens / kAttentionChunkTokens, chunkStride_ - first);
        std::fill_n(here.begin() + static_cast<int64_t>(index) * chunkStride_ + first, count, uint8_t{1});
      };
      if (address < homes_.deviceBlocks) mark(own);
      for (size_t i = 0; i < held_.size(); ++i) {
        const int32_t place = held_[i].blockOf(address);
        if (place < 0) continue;
        mark(chunks[i]);
        blocks[i][index * static_cast<size_t>(shape.tableBlocks) + static_cast<size_t>(block)] = place;
      }
    }
  }
  ownChunks_ = append(own);
  heldChunks_.clear();
  heldTables_.clear();
  for (size_t i = 0; i < held_.size(); ++i) {
    heldChunks_.push_back(append(chunks[i]));
    heldTables_.push_back(append(blocks[i]));
  }
}

RemoteTurn CudaRemotePlan::turnOf(const TokenBatch& tokens, const TokenRange& range, int64_t window) {
  const TokenBatch slice = sliceOf(tokens, range);
  RemoteTurn turn;
  turn.tokens = range;
  turn.plan = planRemote(slice, homes_, sizes_, window);
  writeSequences(slice, turn);
  for (const RemoteTraffic& traffic : turn.plan.traffic) turn.traffic.push_back(trafficOf(slice, traffic, window));
  return turn;
}

void CudaRemotePlan::writeSequences(const TokenBatch& turn, RemoteTurn& target) {
  std::vector<int32_t> first;
  std::vector<int32_t> count;
  std::vector<int32_t> start;
  for (const BatchSequence& sequence : turn.sequences) {
    first.push_back(static_cast<int32_t>(sequence.firstToken));
    count.push_back(static_cast<int32_t>(sequence.tokens));
    start.push_back(static_cast<int32_t>(sequence.startPosition));
    target.tokensPerSequenceMax = std::max(target.tokensPerSequenceMax, sequence.tokens);
  }
  target.firstToken = append(first);
  target.tokenCount = append(count);
  target.startPosition = append(start);
}

TurnTraffic CudaRemotePlan::trafficOf(const TokenBatch& turn, const RemoteTraffic& traffic, int64_t window) {
  const bool holds = traffic.loan.holder == homes_.rank;
  if (!holds && traffic.loan.owner != homes_.rank) return {};
  std::vector<PartsEntry> entries;
  for (const RemoteChunk& chunk : traffic.chunks) {
    for (int64_t i = 0; i < chunk.tokens.count; ++i) {
      const int64_t token = chunk.tokens.first + i;
      const int64_t position = turn.positions[static_cast<size_t>(token)];
      const int64_t firstSeen = window == 0 ? 0 : std::max<int64_t>(0, position - window + 1);
      entries.push_back({static_cast<int32_t>(token),
                         static_cast<int32_t>(chunk.chunk - firstSeen / kAttentionChunkTokens),
                         static_cast<int32_t>(chunk.firstRow + i * model_.queryHeadsPerGroup)});
    }
  }
  TurnTraffic result;
  result.entryCount = static_cast<int64_t>(entries.size());
  result.entries = append(entries);
  if (!holds) return result;
  const HeldKv& held = *std::ranges::find(held_, traffic.loan.owner, &HeldKv::owner);
  std::vector<int32_t> slots;
  for (const int64_t token : traffic.stored) slots.push_back(slotOf(turn, held, token));
  result.slots = append(slots);
  return result;
}

int32_t CudaRemotePlan::slotOf(const TokenBatch& turn, const HeldKv& held, int64_t token) const {
  const int64_t position = turn.positions[static_cast<size_t>(token)];
  const auto index = static_cast<size_t>(turn.sequenceOf[static_cast<size_t>(token)]);
  const int32_t address = turn.sequences[index].blockTable[position / options_.kvBlockTokens];
  const int64_t block = held.blockOf(address);
  return static_cast<int32_t>(block * options_.kvBlockTokens + position % options_.kvBlockTokens);
}

}  // namespace hels::cuda
