// What a step's attention over lent KV does on this rank: planned on the host before its layers, with the tables that
// kernels read. Messages are those of remote_traffic.h, without whole blocks, and with keys, values and queries in the
// cache's type.
//
// Parts lie dense, a slot for every chunk that a row may see, so a step is cut into turns of as many tokens as have
// room for theirs. All ranks cut alike: by the heads of the whole model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "engine/cuda/cuda_kv.h"
#include "engine/cuda/step_metadata.h"
#include "engine/remote_traffic.h"
#include "kernels/cuda/parts_message.h"

namespace hels::cuda {

/// KV of another rank's heads that lies here: all that it lends to this one, in ascending addresses.
struct HeldKv {
  int owner = 0;
  std::vector<KvLoan> loans;
  CudaKv kv;

  int64_t groups() const { return kv.shape.headGroups; }
  /// -1: the address is not lent to this rank.
  int32_t blockOf(int64_t address) const;
};

/// `shape`: type, layers, headDim and blockTokens of all KV. `data`, null to count only, has kvBytesOf().loans bytes.
std::vector<HeldKv> heldKvOf(const KvHomes& homes, const KvShape& shape, std::byte* data);

/// What one turn does about a traffic of its plan; offsets in the tables.
struct TurnTraffic {
  size_t entries = 0;  // PartsEntry(entryCount): to pack as the holder, to unpack as the owner
  int64_t entryCount = 0;
  size_t slots = 0;  // int32, of the stored tokens: where the holder stores them
};

/// Tokens of the step that go through a layer together. The plan's tokens count from the first of these.
struct RemoteTurn {
  TokenRange tokens;
  int64_t tokensPerSequenceMax = 0;
  RemotePlan plan;
  std::vector<TurnTraffic> traffic;                          // by plan.traffic; empty for those of other ranks
  size_t firstToken = 0, tokenCount = 0, startPosition = 0;  // offsets of int32(sequences)
};

class CudaRemotePlan {
 public:
  CudaRemotePlan(const ModelSpec& model, const EngineOptions& options, const KvHomes& homes,
                 const std::vector<HeldKv>& held);

  /// Turns have no more tokens than these, on all ranks alike: for tests.
  void limitTurns(int64_t tokens) { turnTokensLimit_ = tokens; }

  /// Plans a step of `shape`.
  void write(const TokenBatch& tokens, const StepShape& shape);

  const RemoteSizes& sizes() const { return sizes_; }
  /// Whether the ranks exchange anything in layers with this sliding window.
  bool active(int64_t window) const { return windows_.at(window).active; }
  /// Whether rows of this rank's heads see lent chunks there.
  bool lends(int64_t window) const { return windows_.at(window).lends; }
  std::span<const RemoteTurn> turns(int64_t window) const { return windows_.at(window).turns; }

  std::span<const std::byte> tables() const { return tables_; }
  int64_t chunkStride() const { return chunkStride_; }
  /// Offsets of uint8(sequences, chunkStride): chunks that lie here, of own heads and of those held.
  size_t ownChunks() const { return ownChunks_; }
  size_t heldChunks(size_t held) const { return heldChunks_[held]; }
  /// Of int32(sequences, tableBlocks).
  size_t heldTable(size_t held) const { return heldTables_[held]; }

  /// Bytes of the tables of the largest step.
  size_t measure() const;
  /// Tokens of the largest turn, and its parts of `groups` head groups in rows of (maximum, sum, outputs).
  int64_t turnTokensMax() const;
  int64_t partsMax(int64_t groups) const;

 private:
  struct Window {
    std::vector<RemoteTurn> turns;
    bool active = false;
    bool lends = false;
  };

  int64_t tokensAtOnce(int64_t slots) const;
  void writeHomes(const TokenBatch& tokens, const StepShape& shape);
  RemoteTurn turnOf(const TokenBatch& tokens, const TokenRange& range, int64_t window);
  void writeSequences(const TokenBatch& turn, RemoteTurn& target);
  TurnTraffic trafficOf(const TokenBatch& turn, const RemoteTraffic& traffic, int64_t window);
  int32_t slotOf(const TokenBatch& turn, const HeldKv& held, int64_t token) const;
  template <typename Element>
  size_t append(const std::vector<Element>& elements);

  const ModelSpec& model_;
  const EngineOptions& options_;
  const KvHomes& homes_;
  const std::vector<HeldKv>& held_;
  const RemoteSizes sizes_;
  int64_t turnTokensLimit_;
  std::map<int64_t, Window> windows_;  // by sliding window
  std::vector<std::byte> tables_;
  int64_t chunkStride_ = 0;
  size_t ownChunks_ = 0;
  std::vector<size_t> heldChunks_;
  std::vector<size_t> heldTables_;
};

}  // namespace hels::cuda
