// Attention over KV that lies with another rank. In each layer the owner sends its queries and new keys and values, the
// holder answers with the unmerged parts of the chunks it has (or whole blocks, see remote_traffic.h), and the owner
// merges all chunks, its own and these, in ascending order: the bits are those of KV that lies at home.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "engine/arena.h"
#include "engine/collective.h"
#include "engine/kv_mover.h"
#include "engine/remote_traffic.h"
#include "kv/kv_store.h"

namespace hels {

/// Takes buffers of exchangeBytesMax(); none without loans of this rank or to it.
ExchangeBuffers layoutExchangeBuffers(const ModelSpec& model, const KvHomes& homes, const EngineOptions& options,
                                      Arena& arena);
/// Layers of a block of all heads that one of them holds. The same on all ranks.
int64_t layersAtOnce(const ModelSpec& model, const KvHomes& homes, const EngineOptions& options);

/// Workspaces of attend(), one for each thread.
struct AttentionWork {
  int threads = 1;
  float* floats = nullptr;  // (threads, stride)
  int64_t stride = 0;
};

class RemoteAttention {
 public:
  RemoteAttention(const ModelSpec& model, const EngineOptions& options, KvStore& store, const ExchangeBuffers& buffers,
                  Collective& collective);

  /// Plans the layers of a step, whose batch outlives it.
  void begin(const TokenBatch& batch);
  /// Whether the ranks exchange anything in this layer.
  bool active(int64_t layer) const { return turns(layer) > 0; }
  /// Exchanges come in pairs, each about some of the lent blocks, those of a sequence in ascending order.
  size_t turns(int64_t layer) const { return windowOf(layer).size(); }
  /// The first lent chunk among these that the sequence's rows see in this layer; none: chunks.end.
  int64_t firstLent(int64_t layer, int64_t sequence, ChunkRange chunks) const;

  // In this order for each turn, on every rank. Throw what an exchange throws.
  /// Exchange 1, of rows (queries, keys, values) of this rank's heads, and stores what came.
  void sendQueries(int64_t layer, size_t turn, const float* queryKeyValue, int64_t stride);
  /// Whether returnParts() only sends, and no more than goes without the peers' help.
  bool returnsAtOnce() const;
  void attendForOwners(int64_t layer, const AttentionShape& shape, const AttentionWork& work);
  /// Exchange 2.
  void returnParts();

  /// Lent chunks of the turn that the sequence's rows see.
  std::span<const RemoteSource> sources(int64_t sequence) const;
  /// What came back of a source, until the next exchange: the whole block's, whose table has one entry,
  KvBlocks wholeBlock(const RemoteSource& source, int64_t group) const;
  /// or parts of rows, (tokens from source.firstToken on, query heads of the group).
  AttentionParts parts(const RemoteSource& source, int64_t group) const;

 private:
  /// Rows of one chunk and head group that the holder attends with together.
  struct Item {
    size_t traffic = 0;
    size_t chunk = 0;
    int64_t group = 0;
    int64_t firstRow = 0;
    int rows = 0;
  };
  struct Turn {
    RemotePlan plan;
    std::vector<Item> items;
  };

  const std::vector<Turn>& windowOf(int64_t layer) const;
  void listItems(Turn& turn) const;
  void layOut(const RemotePlan& plan, bool second);
  void packFirst(const RemoteTraffic& traffic, const float* queryKeyValue, int64_t stride, std::byte* target) const;
  void storeReceived(int64_t layer, const RemoteTraffic& traffic, const float* rows);
  /// KV of the item's chunk; `block` becomes its block table.
  KvBlocks chunkOf(int64_t layer, const Item& item, int32_t& block) const;
  int64_t positionOf(const RemoteChunk& chunk, int64_t row) const;
  /// What an item reads, none beyond the last.
  KvWalk walkOf(int64_t layer, const AttentionShape& shape, size_t item, int32_t& block) const;
  /// `next`: the item that the thread probably takes after it.
  void attendItem(int64_t layer, const AttentionShape& shape, size_t item, size_t next, float* work);

  const ModelSpec& model_;
  KvStore& store_;
  const ExchangeBuffers buffers_;
  Collective& collective_;
  const RemoteSizes sizes_;
  const int64_t bytesMax_;  // of an exchange
  const TokenBatch* batch_ = nullptr;
  std::map<int64_t, std::vector<Turn>> windows_;  // by sliding window
  const Turn* turn_ = nullptr;                    // the current one
  std::vector<ExchangePart> parts_;               // of the exchange that is prepared, by rank
  std::vector<std::byte*> outgoing_;              // what parts_ sends, to be filled in
  std::vector<const float*> queries_;             // by traffic: those that came for this rank to attend with
};

}  // namespace hels
