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

/// Takes buffers for the largest step and the largest move; none without loans of this rank or to it.
ExchangeBuffers layoutExchangeBuffers(const ModelSpec& model, const KvHomes& homes, const EngineOptions& options,
                                      Arena& arena);

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
  bool active(int64_t layer) const;
  /// Whether returnParts() only sends, and no more than goes without the peers' help.
  bool returnsAtOnce(int64_t layer) const;

  // In this order, on every rank. Throw what an exchange throws.
  /// Exchange 1, of rows (queries, keys, values) of this rank's heads, and stores what came.
  void sendQueries(int64_t layer, const float* queryKeyValue, int64_t stride);
  void attendForOwners(int64_t layer, const AttentionShape& shape, const AttentionWork& work);
  /// Exchange 2.
  void returnParts(int64_t layer);

  /// Lent chunks that the sequence's rows see in this layer.
  std::span<const RemoteSource> sources(int64_t layer, int64_t sequence) const;
  /// What came back of a source, until the next exchange: the whole block's, whose table has one entry,
  KvBlocks wholeBlock(int64_t layer, const RemoteSource& source, int64_t group) const;
  /// or parts of rows, (tokens from source.firstToken on, query heads of the group).
  AttentionParts parts(int64_t layer, const RemoteSource& source, int64_t group) const;

 private:
  /// Rows of one chunk and head group that the holder attends with together.
  struct Item {
    size_t traffic = 0;
    size_t chunk = 0;
    int64_t group = 0;
    int64_t firstRow = 0;
    int rows = 0;
  };
  struct Window {
    RemotePlan plan;
    std::vector<Item> items;
  };

  Window& windowOf(int64_t layer);
  const Window& windowOf(int64_t layer) const;
  void listItems(Window& window) const;
  void layOut(const RemotePlan& plan, bool second);
  void packFirst(const RemoteTraffic& traffic, const float* queryKeyValue, int64_t stride, std::byte* target) const;
  void storeReceived(int64_t layer, const RemoteTraffic& traffic, const float* rows);
  /// KV of the item's chunk; `block` becomes its block table.
  KvBlocks chunkOf(int64_t layer, const RemotePlan& plan, const Item& item, int32_t& block) const;
  int64_t positionOf(const RemoteChunk& chunk, int64_t row) const;
  /// What an item reads, none beyond the last.
  KvWalk walkOf(int64_t layer, const AttentionShape& shape, const Window& window, size_t item, int32_t& block) const;
  /// `next`: the item that the thread probably takes after it.
  void attendItem(int64_t layer, const AttentionShape& shape, const Window& window, size_t item, size_t next,
                  float* work);

  const ModelSpec& model_;
  KvStore& store_;
  const ExchangeBuffers buffers_;
  Collective& collective_;
  const RemoteSizes sizes_;
  const TokenBatch* batch_ = nullptr;
  std::map<int64_t, Window> windows_;  // by sliding window
  std::vector<ExchangePart> parts_;    // of the exchange that is prepared, by rank
  std::vector<std::byte*> outgoing_;   // what parts_ sends, to be filled in
  std::vector<const float*> queries_;  // by traffic: those that came for this rank to attend with
};

}  // namespace hels
