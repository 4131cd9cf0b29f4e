// The layers of one step on one rank, up to the residual stream and the logits. All state is passed in; see
// cpu_engine.h for who owns it. Every reduction has a fixed order that does not depend on the batch (see kernels/cpu).
#pragma once

#include <span>
#include <vector>

#include "engine/collective.h"
#include "engine/remote_attention.h"
#include "engine/scratch.h"
#include "engine/token_batch.h"
#include "kv/kv_cache.h"

namespace hels {

class ForwardPass {
 public:
  /// Blocks that `kv` does not have are lent: `remote` reaches them. Null when there are no loans.
  ForwardPass(const ModelSpec& model, const ShardSpec& shard, const EngineOptions& options, Gemm& gemm,
              const ModelWeights& weights, const KvCache& kv, const Scratch& scratch, Collective& collective,
              RemoteAttention* remote = nullptr);

  /// Leaves the residual stream after the last layer in the scratch and the new KV in the cache. Throws kNumericRange
  /// naming layer and token, and what collectives throw.
  void run(const TokenBatch& batch);

  /// logits(tokens.size(), logitsStride) of this rank's vocabulary rows, in the scratch, for tokens of the last run();
  /// at most kLogitRowsMax. Valid until the next call.
  float* logits(std::span<const int64_t> tokens);

 private:
  struct AttentionItem {  // query rows of one sequence that attend together
    int64_t firstToken = 0;
    int64_t tokens = 0;
    int64_t group = 0;
    int64_t firstHead = 0;  // of the group
    int64_t heads = 0;
  };
  struct AttentionProgress {
    AttentionSums sums;
    int64_t next = 0;  // chunk
  };

  void embed(const TokenBatch& batch);
  void attentionBlock(const TokenBatch& batch, int64_t layer);
  void mlpBlock(const TokenBatch& batch, int64_t layer);

  void projectQueryKeyValue(const TokenBatch& batch, int64_t layer, const float* input);
  void prepareHeads(const TokenBatch& batch, int64_t layer, int64_t token);
  void listAttentionItems(const TokenBatch& batch);
  AttentionShape attentionShape(int64_t layer) const;
  AttentionRows rowsOf(const TokenBatch& batch, const AttentionItem& item) const;
  template <typename Body>
  void forItems(const Body& body);
  /// What the thread that attends to the item reads after it, as far as can be known: threads take items in turn.
  KvWalk walkAfter(const TokenBatch& batch, int64_t layer, size_t item) const;
  void attendItem(const TokenBatch& batch, int64_t layer, size_t item, float* work);
  /// Attention in a layer that needs other ranks' KV or that they need this one's for.
  void attendRemotely(const TokenBatch& batch, int64_t layer);
  /// Those that its rows see.
  ChunkRange chunksOf(const TokenBatch& batch, int64_t layer, const AttentionItem& item) const;
  /// Up to the item's first lent chunk, all of it when there is none.
  void attendFirstChunks(const TokenBatch& batch, int64_t layer, size_t item, float* work);
  /// From where it is up to the last lent chunk of the exchanges' current turn.
  void attendTurn(const TokenBatch& batch, int64_t layer, size_t item, float* work);
  /// To the end.
  void attendLastChunks(const TokenBatch& batch, int64_t layer, size_t item, float* work);

  /// Normalizes the residual stream into scratch.normalized, or in place for models that normalize after a block.
  void normalize(const NormWeights& norm, int64_t tokens, float* target);
  void normalizeRow(const NormWeights& norm, const float* source, float* target) const;
  /// residual += sum over all ranks of input(tokens, depth) W^T, plus bias.
  void addRowParallel(const TokenBatch& batch, int64_t layer, const char* name, const Linear& linear,
                      const float* input, int64_t inputStride, int64_t granuleDepth);
  void addBias(const Linear& linear, float* rows, int64_t stride, int64_t tokens) const;
  /// Threads worth using for element-wise work over `tokens` rows of `width`.
  int rowThreads(int64_t tokens, int64_t width) const;

  const ModelSpec& model_;
  const ShardSpec& shard_;
  const EngineOptions& options_;
  Gemm& gemm_;
  const ModelWeights& weights_;
  KvCache kv_;
  const Scratch& scratch_;
  Collective& collective_;
  RemoteAttention* remote_;
  std::vector<AttentionItem> attentionItems_;
  std::vector<AttentionProgress> attentionProgress_;  // by item, in a layer with lent chunks
};

}  // namespace hels
