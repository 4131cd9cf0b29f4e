// What one layer's remote attention sends, between an owner of KV and the ranks that hold it. It follows from the step
// and the loans alone, so every rank knows the sizes of all messages; layers with the same sliding window share it.
//
//   exchange 1, owner to holder: keys and values of the step's tokens that fall into lent blocks; query rows
//   exchange 2, holder to owner: whole blocks, keys and values; parts (m, l, o) of chunks, unmerged
//
// A block goes back whole when the parts of all rows that see it would be larger: long prefills. So exchange 2 never
// carries more than the blocks themselves. Both go in turns where messages would be larger than the buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/token_batch.h"
#include "kernels/cpu/attention.h"
#include "kv/kv_homes.h"
#include "model/model_spec.h"

namespace hels {

/// Tokens [first, first + count) of the batch.
struct TokenRange {
  int64_t first = 0;
  int64_t count = 0;
};

/// A chunk that the holder attends to for the rows of one sequence that see it.
struct RemoteChunk {
  int64_t sequence = 0;
  int64_t chunk = 0;
  int32_t address = 0;  // of its block
  TokenRange tokens;
  int64_t firstQuery = 0;  // which of the queries sent is that of tokens.first
  int64_t firstRow = 0;    // of a head group's parts
};

/// Between one owner and one holder.
struct RemoteTraffic {
  KvLoan loan;                      // one of those between the two: names owner, holder and head groups
  std::vector<int64_t> stored;      // tokens whose keys and values go to the holder
  std::vector<TokenRange> queries;  // tokens whose queries do
  int64_t queryCount = 0;
  std::vector<int32_t> blocks;  // addresses that come back whole
  std::vector<RemoteChunk> chunks;
  int64_t rows = 0;  // of parts, each head group
};

/// Where the owner finds a chunk of one of its sequences that it has lent, after exchange 2.
struct RemoteSource {
  int64_t chunk = 0;
  size_t traffic = 0;       // of RemotePlan::traffic
  int32_t wholeBlock = -1;  // which of its blocks; -1: parts
  int64_t firstToken = 0;   // of the batch: row 0 of the parts belongs to it
  int64_t firstRow = 0;
};

struct RemotePlan {
  std::vector<RemoteTraffic> traffic;              // all that is not empty, of all ranks
  std::vector<std::vector<RemoteSource>> sources;  // of this rank's KV: by sequence, ascending chunks
  bool first = false;                              // whether any rank sends anything in exchange 1
  bool second = false;
};

/// What differs between kinds of engines.
struct RemoteFormat {
  int64_t chunkTokens = kAttentionChunkTokens;
  /// Of queries, keys and values on their way.
  int64_t rowElementBytes = sizeof(float);
  bool wholeBlocks = true;  // whether blocks may go back whole
};

/// Sizes of the messages, from one model's shape.
class RemoteSizes {
 public:
  RemoteSizes(const ModelSpec& model, int64_t blockTokens, const RemoteFormat& format = {});

  int64_t chunkTokens() const { return format_.chunkTokens; }
  int64_t queryHeadsPerGroup() const { return queryHeadsPerGroup_; }
  int64_t partFloats() const { return attentionPartFloats(headDim_); }
  /// Keys and values of one token, (2, groups, headDim) as they lie in a row of the engine's scratch.
  int64_t storedBytes(int64_t groups) const;
  /// Queries of one token.
  int64_t queryBytes(int64_t groups) const;
  /// Parts of `rows` rows of each group.
  int64_t partBytes(int64_t groups, int64_t rows) const;
  /// One layer of a block: (groups, keys then values).
  int64_t blockBytes(int64_t groups) const;
  /// Whether the parts of a block that `rows` rows see are larger than the block.
  bool goesWhole(int64_t rows) const { return format_.wholeBlocks && partBytes(1, rows) > blockBytes(1); }
  int64_t blockTokens() const { return blockTokens_; }

  int64_t firstBytes(const RemoteTraffic& traffic) const;
  int64_t secondBytes(const RemoteTraffic& traffic) const;

 private:
  int64_t queryHeadsPerGroup_;
  int64_t headDim_;
  int64_t elementBytes_;
  int64_t blockTokens_;
  RemoteFormat format_;
};

/// What a message takes in a rank's buffer, where those of an exchange lie one behind the other.
inline constexpr int64_t kMessageAlignment = 64;
int64_t alignedMessage(int64_t bytes);

/// What a rank's buffers hold in each direction, for all of its peers together: queries, keys and values of as many
/// tokens as two blocks have, of all heads. So much the least of turns takes, one block of one sequence: a layer of it
/// and, where it does not go whole, as many rows of queries as it has KV in floats at most. The same on all ranks.
int64_t exchangeBytesMax(const ModelSpec& model, const RemoteSizes& sizes, int64_t stepTokensMax, int ranks);

/// `window`: positions a row sees, itself included; 0 = all.
RemotePlan planRemote(const TokenBatch& batch, const KvHomes& homes, const RemoteSizes& sizes, int64_t window);

/// The same in turns, in each of which no rank sends or receives more than `bytesMax` (exchangeBytesMax() or more): a
/// sequence's lent blocks in ascending order, a block at least. No turn where nothing is lent.
std::vector<RemotePlan> planRemoteTurns(const TokenBatch& batch, const KvHomes& homes, const RemoteSizes& sizes,
                                        int64_t window, int64_t bytesMax);

}  // namespace hels
