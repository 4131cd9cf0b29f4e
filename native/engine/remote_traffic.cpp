#include "engine/remote_traffic.h"

#include <algorithm>
#include <array>
#include <map>
#include <unordered_map>

#include "kernels/cpu/gemm.h"

namespace hels {
namespace {

/// A block of a sequence that some rank has lent and some row sees.
struct LentBlock {
  int64_t sequence = 0;
  int64_t block = 0;
};

/// A chunk in a lent block, and the rows that see it.
struct SeenChunk {
  int64_t sequence = 0;
  int64_t chunk = 0;
  int32_t address = 0;
  TokenRange tokens;
};

/// Finds out what one owner's KV at its holders means for the step.
class OwnerPlanner {
 public:
  OwnerPlanner(const TokenBatch& batch, const KvHomes& homes, const RemoteSizes& sizes, int64_t window, int owner)
      : batch_(batch),
        homes_(homes),
        sizes_(sizes),
        window_(window),
        owner_(owner),
        firstLent_(std::ranges::find(homes.loans, owner, &KvLoan::owner)->blocks.begin) {}

  void run(std::span<const LentBlock> blocks, RemotePlan& plan) {
    for (const LentBlock& lent : blocks) visit(lent);
    for (auto& [holder, found] : byHolder_) {
      decide(found, owner_ == homes_.rank ? &plan : nullptr, plan.traffic.size());
      plan.first = plan.first || sizes_.firstBytes(found.traffic) > 0;
      plan.second = plan.second || sizes_.secondBytes(found.traffic) > 0;
      plan.traffic.push_back(std::move(found.traffic));
    }
  }

 private:
  struct AtHolder {
    RemoteTraffic traffic;
    std::vector<SeenChunk> chunks;
    std::unordered_map<int32_t, int64_t> rowsOfBlock;  // of each head group, all sequences
  };

  void visit(const LentBlock& lent) {
    const BatchSequence& sequence = batch_.sequences[static_cast<size_t>(lent.sequence)];
    const int32_t address = sequence.blockTable[lent.block];
    if (address < firstLent_) return;  // an owner lends all runnable addresses from some one on
    const KvLoan* loan = homes_.loanOf(owner_, address);
    AtHolder& found = byHolder_[loan->holder];
    found.traffic.loan = *loan;
    visitBlock(lent.sequence, sequence, lent.block, address, found);
  }

  void visitBlock(int64_t index, const BatchSequence& sequence, int64_t block, int32_t address, AtHolder& found) {
    const int64_t begin = block * sizes_.blockTokens();
    const int64_t end = begin + sizes_.blockTokens();
    const TokenRange written = tokensAt(sequence, begin, end);
    for (int64_t i = 0; i < written.count; ++i) found.traffic.stored.push_back(written.first + i);
    for (int64_t chunk = begin / sizes_.chunkTokens(); chunk < end / sizes_.chunkTokens(); ++chunk) {
      const TokenRange seeing = tokensThatSee(sequence, chunk);
      if (seeing.count == 0) continue;
      found.chunks.push_back({index, chunk, address, seeing});
      found.rowsOfBlock[address] += seeing.count * sizes_.queryHeadsPerGroup();
    }
  }

  /// The sequence's tokens at positions [begin, end).
  static TokenRange tokensAt(const BatchSequence& sequence, int64_t begin, int64_t end) {
    const int64_t low = std::max(begin, sequence.startPosition);
    const int64_t high = std::min(end, sequence.startPosition + sequence.tokens);
    if (high <= low) return {};
    return {sequence.firstToken + low - sequence.startPosition, high - low};
  }

  TokenRange tokensThatSee(const BatchSequence& sequence, int64_t chunk) const {
    const int64_t begin = chunk * sizes_.chunkTokens();
    const int64_t all = sequence.startPosition + sequence.tokens;
    // A row sees window_ positions up to its own.
    return tokensAt(sequence, begin, window_ == 0 ? all : begin + sizes_.chunkTokens() - 1 + window_);
  }

  /// Which blocks go whole, and where everything lies in the messages. `plan`: of the owner itself.
  void decide(AtHolder& found, RemotePlan* plan, size_t trafficIndex) const {
    RemoteTraffic& traffic = found.traffic;
    std::unordered_map<int32_t, int32_t> whole;
    for (const SeenChunk& seen : found.chunks) {
      if (sizes_.goesWhole(found.rowsOfBlock[seen.address])) {
        const auto [entry, fresh] = whole.try_emplace(seen.address, static_cast<int32_t>(traffic.blocks.size()));
        if (fresh) traffic.blocks.push_back(seen.address);
        addSource(plan, seen, {seen.chunk, trafficIndex, entry->second, 0, 0});
        continue;
      }
      const int64_t firstRow = traffic.rows;
      traffic.rows += seen.tokens.count * sizes_.queryHeadsPerGroup();
      traffic.chunks.push_back({seen.sequence, seen.chunk, seen.address, seen.tokens, 0, firstRow});
      addSource(plan, seen, {seen.chunk, trafficIndex, -1, seen.tokens.first, firstRow});
    }
    chooseQueries(traffic);
  }

  static void addSource(RemotePlan* plan, const SeenChunk& seen, const RemoteSource& source) {
    if (plan == nullptr) return;
    plan->sources.resize(std::max(plan->sources.size(), static_cast<size_t>(seen.sequence) + 1));
    plan->sources[static_cast<size_t>(seen.sequence)].push_back(source);
  }

  /// Of each sequence, the tokens from the first to the last that see one of its chunks there; neighbours are one
  /// range.
  static void chooseQueries(RemoteTraffic& traffic) {
    for (size_t begin = 0; begin < traffic.chunks.size();) {
      size_t end = begin;
      int64_t low = traffic.chunks[begin].tokens.first;
      int64_t high = low;
      for (; end < traffic.chunks.size() && traffic.chunks[end].sequence == traffic.chunks[begin].sequence; ++end) {
        low = std::min(low, traffic.chunks[end].tokens.first);
        high = std::max(high, traffic.chunks[end].tokens.first + traffic.chunks[end].tokens.count);
      }
      for (; begin < end; ++begin) {
        traffic.chunks[begin].firstQuery = traffic.queryCount + traffic.chunks[begin].tokens.first - low;
      }
      TokenRange* before = traffic.queries.empty() ? nullptr : &traffic.queries.back();
      if (before != nullptr && before->first + before->count == low) {
        before->count += high - low;
      } else {
        traffic.queries.push_back({low, high - low});
      }
      traffic.queryCount += high - low;
    }
  }

  const TokenBatch& batch_;
  const KvHomes& homes_;
  const RemoteSizes& sizes_;
  const int64_t window_;
  const int owner_;
  const int64_t firstLent_;
  std::map<int, AtHolder> byHolder_;
};

}  // namespace

RemoteSizes::RemoteSizes(const ModelSpec& model, int64_t blockTokens, const RemoteFormat& format)
    : queryHeadsPerGroup_(model.queryHeadsPerGroup),
      headDim_(model.headDim),
      elementBytes_(static_cast<int64_t>(bytesOf(model.weightType))),
      blockTokens_(blockTokens),
      format_(format) {}

int64_t RemoteSizes::storedBytes(int64_t groups) const { return groups * 2 * headDim_ * format_.rowElementBytes; }

int64_t RemoteSizes::queryBytes(int64_t groups) const {
  return groups * queryHeadsPerGroup_ * headDim_ * format_.rowElementBytes;
}

int64_t RemoteSizes::partBytes(int64_t groups, int64_t rows) const {
  return groups * rows * partFloats() * static_cast<int64_t>(sizeof(float));
}

int64_t RemoteSizes::blockBytes(int64_t groups) const { return groups * 2 * blockTokens_ * headDim_ * elementBytes_; }

int64_t RemoteSizes::firstBytes(const RemoteTraffic& traffic) const {
  const int64_t groups = traffic.loan.headGroups.size();
  return static_cast<int64_t>(traffic.stored.size()) * storedBytes(groups) + traffic.queryCount * queryBytes(groups);
}

int64_t RemoteSizes::secondBytes(const RemoteTraffic& traffic) const {
  const int64_t groups = traffic.loan.headGroups.size();
  return static_cast<int64_t>(traffic.blocks.size()) * blockBytes(groups) + partBytes(groups, traffic.rows);
}

namespace {

/// By sequence, then ascending.
std::vector<LentBlock> lentBlocksOf(const TokenBatch& batch, const KvHomes& homes, const RemoteSizes& sizes,
                                    int64_t window) {
  int64_t firstLent = homes.blocks;
  for (const KvLoan& loan : homes.loans) firstLent = std::min(firstLent, loan.blocks.begin);
  std::vector<LentBlock> blocks;
  for (size_t index = 0; index < batch.sequences.size(); ++index) {
    const BatchSequence& sequence = batch.sequences[index];
    if (sequence.tokens == 0) continue;
    const int64_t end = sequence.startPosition + sequence.tokens;
    const int64_t firstSeen = window == 0 ? 0 : std::max<int64_t>(0, sequence.startPosition - window + 1);
    for (int64_t block = firstSeen / sizes.blockTokens(); block * sizes.blockTokens() < end; ++block) {
      if (sequence.blockTable[block] >= firstLent) blocks.push_back({static_cast<int64_t>(index), block});
    }
  }
  return blocks;
}

RemotePlan planBlocks(const TokenBatch& batch, const KvHomes& homes, const RemoteSizes& sizes, int64_t window,
                      std::span<const LentBlock> blocks) {
  RemotePlan plan;
  for (const int owner : homes.owners()) OwnerPlanner(batch, homes, sizes, window, owner).run(blocks, plan);
  plan.sources.resize(batch.sequences.size());
  for (std::vector<RemoteSource>& sources : plan.sources) {  // holders came one after the other
    std::ranges::sort(sources, {}, &RemoteSource::chunk);
  }
  return plan;
}

/// Whether no rank sends or receives more in either exchange.
bool fits(const RemotePlan& plan, const RemoteSizes& sizes, int ranks, int64_t bytesMax) {
  std::vector<std::array<int64_t, 4>> used(static_cast<size_t>(ranks));
  for (const RemoteTraffic& traffic : plan.traffic) {
    const int64_t first = alignedMessage(sizes.firstBytes(traffic));
    const int64_t second = alignedMessage(sizes.secondBytes(traffic));
    std::array<int64_t, 4>& owner = used[static_cast<size_t>(traffic.loan.owner)];
    std::array<int64_t, 4>& holder = used[static_cast<size_t>(traffic.loan.holder)];
    owner[0] += first;
    holder[1] += first;
    holder[2] += second;
    owner[3] += second;
  }
  return std::ranges::all_of(used, [&](const auto& bytes) { return std::ranges::max(bytes) <= bytesMax; });
}

}  // namespace

int64_t alignedMessage(int64_t bytes) { return roundUp(bytes, kMessageAlignment); }

int64_t exchangeBytesMax(const ModelSpec& model, const RemoteSizes& sizes, int64_t stepTokensMax, int ranks) {
  const int64_t tokens = std::min(stepTokensMax, 2 * sizes.blockTokens());
  const int64_t rows = tokens * (sizes.storedBytes(model.headGroups) + sizes.queryBytes(model.headGroups));
  return alignedMessage(std::max(rows, sizes.blockBytes(model.headGroups))) + ranks * kMessageAlignment;
}

RemotePlan planRemote(const TokenBatch& batch, const KvHomes& homes, const RemoteSizes& sizes, int64_t window) {
  return planBlocks(batch, homes, sizes, window, lentBlocksOf(batch, homes, sizes, window));
}

std::vector<RemotePlan> planRemoteTurns(const TokenBatch& batch, const KvHomes& homes, const RemoteSizes& sizes,
                                        int64_t window, int64_t bytesMax) {
  const std::vector<LentBlock> all = lentBlocksOf(batch, homes, sizes, window);
  std::vector<RemotePlan> turns;
  std::vector<std::span<const LentBlock>> open;  // the last one is next
  if (!all.empty()) open.emplace_back(all);
  while (!open.empty()) {
    const std::span<const LentBlock> blocks = open.back();
    open.pop_back();
    RemotePlan plan = planBlocks(batch, homes, sizes, window, blocks);
    if (blocks.size() == 1 || fits(plan, sizes, homes.ranks, bytesMax)) {
      turns.push_back(std::move(plan));
      continue;
    }
    const size_t half = blocks.size() / 2;
    open.push_back(blocks.subspan(half));
    open.push_back(blocks.subspan(0, half));
  }
  return turns;
}

}  // namespace hels
