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
  if (remote_ != nullptr && remote_->active(layer)) {
    const auto sources = sourcesOf(batch, layer, item);
    if (!sources.empty()) chunks.end = sources.front().chunk;
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
  remote_->sendQueries(layer, scratch_.queryKeyValue, scratch_.queryKeyValueStride);
  remote_->attendForOwners(layer, attentionShape(layer),
                           {options_.threads, scratch_.attentionWork, scratch_.attentionWorkFloats});
  const bool atOnce = remote_->returnsAtOnce(layer);
  if (atOnce) remote_->returnParts(layer);
  attentionSums_.resize(attentionItems_.size());
  forItems([&](size_t item, float* work) { attendFirstChunks(batch, layer, item, work); });
  if (!atOnce) remote_->returnParts(layer);
  forItems([&](size_t item, float* work) { attendLastChunks(batch, layer, item, work); });
}

/// Of the lent chunks of the item's sequence, those among the chunks that its rows see.
std::span<const RemoteSource> ForwardPass::sourcesOf(const TokenBatch& batch, int64_t layer,
                                                     const AttentionItem& item) const {
  const int64_t first = batch.positions[static_cast<size_t>(item.firstToken)];
  const ChunkRange chunks = visibleChunks(attentionShape(layer), first, first + item.tokens - 1);
  const auto sources = remote_->sources(layer, batch.sequenceOf[static_cast<size_t>(item.firstToken)]);
  const auto begin = std::ranges::lower_bound(sources, chunks.begin, {}, &RemoteSource::chunk);
  const auto end = std::ranges::lower_bound(sources, chunks.end, {}, &RemoteSource::chunk);
  return {begin, end};
}

void ForwardPass::attendFirstChunks(const TokenBatch& batch, int64_t layer, size_t index, float* work) {
  const AttentionItem& item = attentionItems_[index];
  const std::span<const RemoteSource> sources = sourcesOf(batch, layer, item);
  if (sources.empty()) return attendItem(batch, layer, index, work);
  const AttentionShape shape = attentionShape(layer);
  const AttentionRows rows = rowsOf(batch, item);
  const int64_t first = visibleChunks(shape, rows.positions[0], rows.positions[0]).begin;
  beginAttention(shape, rows, attentionSums_[index]);
  attendChunks(shape, kv_.blocks(layer, item.group, sequenceAt(batch, item.firstToken).blockTable), rows,
               {first, sources.front().chunk}, attentionSums_[index], work, bestIsa(), walkAfter(batch, layer, index));
}

void ForwardPass::attendLastChunks(const TokenBatch& batch, int64_t layer, size_t index, float* work) {
  const AttentionItem& item = attentionItems_[index];
  const std::span<const RemoteSource> sources = sourcesOf(batch, layer, item);
  if (sources.empty()) return;
  const AttentionShape shape = attentionShape(layer);
  const AttentionRows rows = rowsOf(batch, item);
  const KvBlocks own = kv_.blocks(layer, item.group, sequenceAt(batch, item.firstToken).blockTable);
  AttentionSums& sums = attentionSums_[index];
  int64_t next = sources.front().chunk;
  for (const RemoteSource& source : sources) {
    attendChunks(shape, own, rows, {next, source.chunk}, sums, work, bestIsa());
    next = source.chunk + 1;
    if (source.wholeBlock >= 0) {
      attendChunks(shape, remote_->wholeBlock(layer, source, item.group), rows, {source.chunk, next}, sums, work,
                   bestIsa());
      continue;
    }
    AttentionParts parts = remote_->parts(layer, source, item.group);
    parts.firstRow += (item.firstToken - source.firstToken) * model_.queryHeadsPerGroup + item.firstHead;
    mergeParts(shape, rows, source.chunk, parts, sums, bestIsa());
  }
  const int64_t end = visibleChunks(shape, rows.positions[0], rows.positions[rows.count - 1]).end;
  attendChunks(shape, own, rows, {next, end}, sums, work, bestIsa());
  finishAttention(shape, rows, sums, bestIsa());
}

}  // namespace hels
