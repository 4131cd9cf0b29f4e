// The attention half of a layer: project, rotate, store KV, attend, project back and sum over the ranks.
#include <algorithm>
#include <cmath>

#include "engine/forward_pass.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rope.h"

namespace hels {
namespace {

const BatchSequence& sequenceAt(const TokenBatch& batch, int64_t token) {
  return batch.sequences[static_cast<size_t>(batch.sequenceOf[static_cast<size_t>(token)])];
}

}  // namespace

void ForwardPass::attentionBlock(const TokenBatch& batch, int64_t layer) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t tokens = batch.tokens();
  if (!shard_.headGroups.empty()) {
    const float* input = scratch_.residual;
    if (model_.normBeforeBlock) {
      normalize(weights.attentionNorm, tokens, scratch_.normalized);
      input = scratch_.normalized;
    }
    projectQueryKeyValue(batch, layer, input);
  }
  if (remote_ != nullptr && remote_->active(layer)) {
    attendRemotely(batch, layer);  // also without heads: this rank may hold KV of others
  } else {
    forItems([&](size_t item, float* work) { attendItem(batch, layer, item, work); });
  }
  addRowParallel(batch, layer, "attention output", weights.attentionOutput, scratch_.attention,
                 scratch_.attentionStride, model_.queryHeadsPerGroup * model_.headDim);
  if (!model_.normBeforeBlock) normalize(weights.attentionNorm, tokens, scratch_.residual);
}

void ForwardPass::projectQueryKeyValue(const TokenBatch& batch, int64_t layer, const float* input) {
  const Linear& linear = weights_.layers[static_cast<size_t>(layer)].queryKeyValue;
  gemm_.multiply(linear.matrix, input, scratch_.hiddenStride, batch.tokens(), scratch_.queryKeyValue,
                 scratch_.queryKeyValueStride);
  addBias(linear, scratch_.queryKeyValue, scratch_.queryKeyValueStride, batch.tokens());
  const int threads = rowThreads(batch.tokens(), linear.matrix.columns);
  parallelFor(threads, batch.tokens(), [&](int64_t token) { prepareHeads(batch, layer, token); });
}

/// Norms and rotates the token's queries and keys in place and stores its keys and values.
void ForwardPass::prepareHeads(const TokenBatch& batch, int64_t layer, int64_t token) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t headDim = model_.headDim;
  const int64_t groups = shard_.headGroups.size();
  const int64_t queryHeads = groups * model_.queryHeadsPerGroup;
  const int64_t position = batch.positions[static_cast<size_t>(token)];
  float* heads = scratch_.queryKeyValue + token * scratch_.queryKeyValueStride;
  for (int64_t head = 0; head < queryHeads + groups; ++head) {
    float* values = heads + head * headDim;
    if (model_.queryKeyNorm) {
      rmsNorm(values, head < queryHeads ? weights.queryNorm : weights.keyNorm, headDim, model_.normEpsilon, values);
    }
    if (scratch_.ropeTable != nullptr) applyRope(values, scratch_.ropeTable + position * headDim, headDim);
  }
  const BatchSequence& sequence = sequenceAt(batch, token);
  const int32_t block = sequence.blockTable[position / options_.kvBlockTokens];
  if (block >= kv_.shape().blocks) return;  // lent: its holder stores them
  const float* keys = heads + queryHeads * headDim;
  const float* values = keys + groups * headDim;
  for (int64_t group = 0; group < groups; ++group) {
    kv_.store(layer, group, block, position % options_.kvBlockTokens, keys + group * headDim, values + group * headDim);
  }
}

/// Cuts the batch into items of at most kAttentionRowsMax query rows, which share the loads of their KV.
void ForwardPass::listAttentionItems(const TokenBatch& batch) {
  attentionItems_.clear();
  const int64_t heads = std::min<int64_t>(model_.queryHeadsPerGroup, kAttentionRowsMax);
  const int64_t tokensPerItem = kAttentionRowsMax / heads;
  for (const BatchSequence& sequence : batch.sequences) {
    for (int64_t token = 0; token < sequence.tokens; token += tokensPerItem) {
      for (int64_t group = 0; group < shard_.headGroups.size(); ++group) {
        for (int64_t head = 0; head < model_.queryHeadsPerGroup; head += heads) {
          attentionItems_.push_back({sequence.firstToken + token, std::min(tokensPerItem, sequence.tokens - token),
                                     group, head, std::min(heads, model_.queryHeadsPerGroup - head)});
        }
      }
    }
  }
}

AttentionShape ForwardPass::attentionShape(int64_t layer) const {
  AttentionShape shape;
  shape.headDim = model_.headDim;
  if (!model_.slidingWindows.empty()) shape.window = model_.slidingWindows[static_cast<size_t>(layer)];
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(model_.headDim)));
  return shape;
}

AttentionRows ForwardPass::rowsOf(const TokenBatch& batch, const AttentionItem& item) const {
  AttentionRows rows;
  for (int64_t token = item.firstToken; token < item.firstToken + item.tokens; ++token) {
    for (int64_t head = item.firstHead; head < item.firstHead + item.heads; ++head) {
      const int64_t column = (item.group * model_.queryHeadsPerGroup + head) * model_.headDim;
      rows.queries[rows.count] = scratch_.queryKeyValue + token * scratch_.queryKeyValueStride + column;
      rows.outputs[rows.count] = scratch_.attention + token * scratch_.attentionStride + column;
      rows.positions[rows.count] = batch.positions[static_cast<size_t>(token)];
      ++rows.count;
    }
  }
  return rows;
}

/// body(item, workspace)
template <typename Body>
void ForwardPass::forItems(const Body& body) {
  parallelForDynamic(options_.threads, static_cast<int64_t>(attentionItems_.size()), [&](int64_t item, int thread) {
    body(static_cast<size_t>(item), scratch_.attentionWork + thread * scratch_.attentionWorkFloats);
  });
}

KvWalk ForwardPass::walkAfter(const TokenBatch& batch, int64_t layer, size_t index) const {
  const size_t next = index + static_cast<size_t>(options_.threads);
  if (next >= attentionItems_.size()) return {};
  const AttentionItem& item = attentionItems_[next];
  const AttentionShape shape = attentionShape(layer);
  const int64_t first = batch.positions[static_cast<size_t>(item.firstToken)];
  const int64_t last = first + item.tokens - 1;
  ChunkRange chunks = visibleChunks(shape, first, last);
  if (remote_ != nullptr) {
    chunks.end = remote_->firstLent(layer, batch.sequenceOf[static_cast<size_t>(item.firstToken)], chunks);
  }
  return {kv_.blocks(layer, item.group, sequenceAt(batch, item.firstToken).blockTable), shape.headDim,
          visibleTiles(shape, first, last, chunks)};
}

void ForwardPass::attendItem(const TokenBatch& batch, int64_t layer, size_t index, float* work) {
  const AttentionItem& item = attentionItems_[index];
  const int32_t* blockTable = sequenceAt(batch, item.firstToken).blockTable;
  attend(attentionShape(layer), kv_.blocks(layer, item.group, blockTable), rowsOf(batch, item), work, bestIsa(),
         walkAfter(batch, layer, index));
}

/// An owner attends to what it has while others do to its lent chunks. Who only holds KV of others sends their parts
/// before it attends to its own: they wait for them.
void ForwardPass::attendRemotely(const TokenBatch& batch, int64_t layer) {
  const AttentionWork work{options_.threads, scratch_.attentionWork, scratch_.attentionWorkFloats};
  attentionProgress_.resize(attentionItems_.size());
  const size_t turns = remote_->turns(layer);
  bool begun = false;
  for (size_t turn = 0; turn < turns; ++turn) {
    remote_->sendQueries(layer, turn, scratch_.queryKeyValue, scratch_.queryKeyValueStride);
    remote_->attendForOwners(layer, attentionShape(layer), work);
    const bool atOnce = remote_->returnsAtOnce();
    if (atOnce) remote_->returnParts();
    if (!begun) {
      forItems([&](size_t item, float* floats) { attendFirstChunks(batch, layer, item, floats); });
      begun = true;
    }
    if (!atOnce) remote_->returnParts();
    forItems([&](size_t item, float* floats) {
      attendTurn(batch, layer, item, floats);
      if (turn + 1 == turns) attendLastChunks(batch, layer, item, floats);
    });
  }
}

ChunkRange ForwardPass::chunksOf(const TokenBatch& batch, int64_t layer, const AttentionItem& item) const {
  const int64_t first = batch.positions[static_cast<size_t>(item.firstToken)];
  return visibleChunks(attentionShape(layer), first, first + item.tokens - 1);
}

void ForwardPass::attendFirstChunks(const TokenBatch& batch, int64_t layer, size_t index, float* work) {
  const AttentionItem& item = attentionItems_[index];
  const ChunkRange chunks = chunksOf(batch, layer, item);
  const int64_t lent = remote_->firstLent(layer, batch.sequenceOf[static_cast<size_t>(item.firstToken)], chunks);
  attentionProgress_[index].next = chunks.end;
  if (lent == chunks.end) return attendItem(batch, layer, index, work);
  const AttentionShape shape = attentionShape(layer);
  const AttentionRows rows = rowsOf(batch, item);
  attentionProgress_[index].next = lent;
  AttentionSums& sums = attentionProgress_[index].sums;
  beginAttention(shape, rows, sums);
  attendChunks(shape, kv_.blocks(layer, item.group, sequenceAt(batch, item.firstToken).blockTable), rows,
               {chunks.begin, lent}, sums, work, bestIsa(), walkAfter(batch, layer, index));
}

void ForwardPass::attendTurn(const TokenBatch& batch, int64_t layer, size_t index, float* work) {
  const AttentionItem& item = attentionItems_[index];
  auto& [sums, next] = attentionProgress_[index];
  const ChunkRange chunks = chunksOf(batch, layer, item);
  const auto sources = remote_->sources(batch.sequenceOf[static_cast<size_t>(item.firstToken)]);
  auto source = std::ranges::lower_bound(sources, chunks.begin, {}, &RemoteSource::chunk);
  const auto end = std::ranges::lower_bound(sources, chunks.end, {}, &RemoteSource::chunk);
  if (source == end) return;
  const AttentionShape shape = attentionShape(layer);
  const AttentionRows rows = rowsOf(batch, item);
  const KvBlocks own = kv_.blocks(layer, item.group, sequenceAt(batch, item.firstToken).blockTable);
  for (; source != end; ++source) {
    attendChunks(shape, own, rows, {next, source->chunk}, sums, work, bestIsa());
    next = source->chunk + 1;
    if (source->wholeBlock >= 0) {
      attendChunks(shape, remote_->wholeBlock(*source, item.group), rows, {source->chunk, next}, sums, work, bestIsa());
      continue;
    }
    AttentionParts parts = remote_->parts(*source, item.group);
    parts.firstRow += (item.firstToken - source->firstToken) * model_.queryHeadsPerGroup + item.firstHead;
    mergeParts(shape, rows, source->chunk, parts, sums, bestIsa());
  }
}

void ForwardPass::attendLastChunks(const TokenBatch& batch, int64_t layer, size_t index, float* work) {
  const AttentionItem& item = attentionItems_[index];
  const ChunkRange chunks = chunksOf(batch, layer, item);
  const int64_t sequence = batch.sequenceOf[static_cast<size_t>(item.firstToken)];
  if (remote_->firstLent(layer, sequence, chunks) == chunks.end) return;
  const AttentionShape shape = attentionShape(layer);
  const AttentionRows rows = rowsOf(batch, item);
  auto& [sums, next] = attentionProgress_[index];
  attendChunks(shape, kv_.blocks(layer, item.group, sequenceAt(batch, item.firstToken).blockTable), rows,
               {next, chunks.end}, sums, work, bestIsa());
  finishAttention(shape, rows, sums, bestIsa());
}

}  // namespace hels
