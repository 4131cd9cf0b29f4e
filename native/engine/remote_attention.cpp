#include "engine/remote_attention.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "kernels/cpu/parallel.h"

namespace hels {
namespace {

/// All transports take so much before the peer has come: two packets in shared memory, less than a socket's buffers.
constexpr int64_t kSentAtOnceBytes = int64_t{128} * 1024;

int64_t windowAt(const ModelSpec& model, int64_t layer) {
  return model.slidingWindows.empty() ? 0 : model.slidingWindows[static_cast<size_t>(layer)];
}

}  // namespace

ExchangeBuffers layoutExchangeBuffers(const ModelSpec& model, const KvHomes& homes, const EngineOptions& options,
                                      Arena& arena) {
  const bool involved = std::ranges::any_of(
      homes.loans, [&](const KvLoan& loan) { return loan.owner == homes.rank || loan.holder == homes.rank; });
  if (!involved) return {};
  const RemoteSizes sizes(model, options.kvBlockTokens);
  const auto bytes = static_cast<size_t>(exchangeBytesMax(model, sizes, options.stepTokensMax, homes.ranks));
  // Exchange 1 and exchange 2 use the same buffers, one after the other.
  std::byte* send = arena.takeBytes(bytes);
  std::byte* receive = arena.takeBytes(bytes);
  return {{send, send == nullptr ? 0 : bytes}, {receive, receive == nullptr ? 0 : bytes}};
}

int64_t layersAtOnce(const ModelSpec& model, const KvHomes& homes, const EngineOptions& options) {
  const RemoteSizes sizes(model, options.kvBlockTokens);
  return exchangeBytesMax(model, sizes, options.stepTokensMax, homes.ranks) / sizes.blockBytes(model.headGroups);
}

RemoteAttention::RemoteAttention(const ModelSpec& model, const EngineOptions& options, KvStore& store,
                                 const ExchangeBuffers& buffers, Collective& collective)
    : model_(model),
      store_(store),
      buffers_(buffers),
      collective_(collective),
      sizes_(model, options.kvBlockTokens),
      bytesMax_(exchangeBytesMax(model, sizes_, options.stepTokensMax, store.homes().ranks)),
      parts_(static_cast<size_t>(store.homes().ranks)),
      outgoing_(parts_.size()) {}

void RemoteAttention::begin(const TokenBatch& batch) {
  batch_ = &batch;
  windows_.clear();
  for (int64_t layer = 0; layer < model_.layers; ++layer) {
    const auto [entry, fresh] = windows_.try_emplace(windowAt(model_, layer));
    if (!fresh) continue;
    for (RemotePlan& plan : planRemoteTurns(batch, store_.homes(), sizes_, entry->first, bytesMax_)) {
      Turn turn{std::move(plan), {}};
      listItems(turn);
      entry->second.push_back(std::move(turn));
    }
  }
}

const std::vector<RemoteAttention::Turn>& RemoteAttention::windowOf(int64_t layer) const {
  return windows_.at(windowAt(model_, layer));
}

void RemoteAttention::listItems(Turn& turn) const {
  for (size_t index = 0; index < turn.plan.traffic.size(); ++index) {
    const RemoteTraffic& traffic = turn.plan.traffic[index];
    if (traffic.loan.holder != store_.homes().rank) continue;
    for (size_t chunk = 0; chunk < traffic.chunks.size(); ++chunk) {
      const int64_t rows = traffic.chunks[chunk].tokens.count * model_.queryHeadsPerGroup;
      for (int64_t group = 0; group < traffic.loan.headGroups.size(); ++group) {
        for (int64_t row = 0; row < rows; row += kAttentionRowsMax) {
          const auto count = static_cast<int>(std::min<int64_t>(kAttentionRowsMax, rows - row));
          turn.items.push_back({index, chunk, group, row, count});
        }
      }
    }
  }
}

int64_t RemoteAttention::firstLent(int64_t layer, int64_t sequence, ChunkRange chunks) const {
  for (const Turn& turn : windowOf(layer)) {
    const std::vector<RemoteSource>& sources = turn.plan.sources[static_cast<size_t>(sequence)];
    const auto first = std::ranges::lower_bound(sources, chunks.begin, {}, &RemoteSource::chunk);
    if (first != sources.end()) return std::min(first->chunk, chunks.end);
  }
  return chunks.end;
}

bool RemoteAttention::returnsAtOnce() const {
  const int rank = store_.homes().rank;
  return std::ranges::none_of(turn_->plan.traffic, [&](const RemoteTraffic& traffic) {
    const bool large = traffic.loan.holder == rank && sizes_.secondBytes(traffic) > kSentAtOnceBytes;
    return large || traffic.loan.owner == rank;
  });
}

/// Gives every message of an exchange its place in the buffers.
void RemoteAttention::layOut(const RemotePlan& plan, bool second) {
  const int rank = store_.homes().rank;
  std::ranges::fill(parts_, ExchangePart{});
  size_t sent = 0;
  size_t received = 0;
  for (const RemoteTraffic& traffic : plan.traffic) {
    const int from = second ? traffic.loan.holder : traffic.loan.owner;
    const int to = second ? traffic.loan.owner : traffic.loan.holder;
    if (from != rank && to != rank) continue;
    const int64_t bytes = second ? sizes_.secondBytes(traffic) : sizes_.firstBytes(traffic);
    size_t& used = from == rank ? sent : received;
    const std::span<std::byte> buffer = from == rank ? buffers_.send : buffers_.receive;
    require(used + static_cast<size_t>(bytes) <= buffer.size(), ErrorCode::kInternal,
            "remote attention needs more than the " + std::to_string(buffer.size()) + " bytes of its buffer");
    const std::span<std::byte> message = buffer.subspan(used, static_cast<size_t>(bytes));
    if (from == rank) {
      parts_[static_cast<size_t>(to)].send = message;
      outgoing_[static_cast<size_t>(to)] = message.data();
    } else {
      parts_[static_cast<size_t>(from)].receive = message;
    }
    used += static_cast<size_t>(alignedMessage(bytes));
  }
}

void RemoteAttention::sendQueries(int64_t layer, size_t turn, const float* queryKeyValue, int64_t stride) {
  turn_ = &windowOf(layer)[turn];
  const RemotePlan& plan = turn_->plan;
  const int rank = store_.homes().rank;
  layOut(plan, false);
  for (const RemoteTraffic& traffic : plan.traffic) {
    if (traffic.loan.owner != rank) continue;
    packFirst(traffic, queryKeyValue, stride, outgoing_[static_cast<size_t>(traffic.loan.holder)]);
  }
  if (plan.first) collective_.exchange(parts_);
  queries_.assign(plan.traffic.size(), nullptr);
  for (size_t index = 0; index < plan.traffic.size(); ++index) {
    const RemoteTraffic& traffic = plan.traffic[index];
    if (traffic.loan.holder != rank) continue;
    const auto* rows = reinterpret_cast<const float*>(parts_[static_cast<size_t>(traffic.loan.owner)].receive.data());
    storeReceived(layer, traffic, rows);
    const int64_t storedFloats = static_cast<int64_t>(traffic.stored.size()) *
                                 sizes_.storedBytes(traffic.loan.headGroups.size()) /
                                 static_cast<int64_t>(sizeof(float));
    queries_[index] = rows + storedFloats;
  }
}

/// A row of the scratch is (queries, keys, values): keys and values of the stored tokens, then the queries.
void RemoteAttention::packFirst(const RemoteTraffic& traffic, const float* queryKeyValue, int64_t stride,
                                std::byte* target) const {
  const int64_t groups = traffic.loan.headGroups.size();
  const int64_t queryFloats = groups * model_.queryHeadsPerGroup * model_.headDim;
  const int64_t storedFloats = groups * 2 * model_.headDim;
  auto* floats = reinterpret_cast<float*>(target);
  for (const int64_t token : traffic.stored) {
    floats = std::copy_n(queryKeyValue + token * stride + queryFloats, storedFloats, floats);
  }
  for (const TokenRange& range : traffic.queries) {
    for (int64_t token = range.first; token < range.first + range.count; ++token) {
      floats = std::copy_n(queryKeyValue + token * stride, queryFloats, floats);
    }
  }
}

void RemoteAttention::storeReceived(int64_t layer, const RemoteTraffic& traffic, const float* rows) {
  const int64_t groups = traffic.loan.headGroups.size();
  const int64_t headDim = model_.headDim;
  for (const int64_t token : traffic.stored) {
    const int64_t position = batch_->positions[static_cast<size_t>(token)];
    const auto index = static_cast<size_t>(batch_->sequenceOf[static_cast<size_t>(token)]);
    const int32_t address = batch_->sequences[index].blockTable[position / sizes_.blockTokens()];
    const KvStore::Place place = store_.at(traffic.loan.owner, address);
    const float* values = rows + groups * headDim;
    for (int64_t group = 0; group < groups; ++group) {
      place.cache->store(layer, group, static_cast<int32_t>(place.block), position % sizes_.blockTokens(),
                         rows + group * headDim, values + group * headDim);
    }
    rows += 2 * groups * headDim;
  }
}

void RemoteAttention::attendForOwners(int64_t layer, const AttentionShape& shape, const AttentionWork& work) {
  layOut(turn_->plan, true);
  for (const RemoteTraffic& traffic : turn_->plan.traffic) {
    if (traffic.loan.holder != store_.homes().rank || traffic.blocks.empty()) continue;
    std::byte* target = outgoing_[static_cast<size_t>(traffic.loan.owner)];
    for (const int32_t address : traffic.blocks) {
      const KvStore::Place place = store_.at(traffic.loan.owner, address);
      place.cache->readLayer(layer, place.block, target);
      target += place.cache->shape().layerBlockBytes();
    }
  }
  parallelForDynamic(work.threads, static_cast<int64_t>(turn_->items.size()), [&](int64_t item, int thread) {
    attendItem(layer, shape, static_cast<size_t>(item), static_cast<size_t>(item + work.threads),
               work.floats + thread * work.stride);
  });
}

KvBlocks RemoteAttention::chunkOf(int64_t layer, const Item& item, int32_t& block) const {
  const RemoteTraffic& traffic = turn_->plan.traffic[item.traffic];
  const RemoteChunk& chunk = traffic.chunks[item.chunk];
  const KvStore::Place place = store_.at(traffic.loan.owner, chunk.address);
  block = static_cast<int32_t>(place.block);
  KvBlocks kv = place.cache->blocks(layer, item.group, &block);
  kv.firstBlock = chunk.chunk * kAttentionChunkTokens / sizes_.blockTokens();
  return kv;
}

int64_t RemoteAttention::positionOf(const RemoteChunk& chunk, int64_t row) const {
  return batch_->positions[static_cast<size_t>(chunk.tokens.first + row / model_.queryHeadsPerGroup)];
}

KvWalk RemoteAttention::walkOf(int64_t layer, const AttentionShape& shape, size_t index, int32_t& block) const {
  if (index >= turn_->items.size()) return {};
  const Item& item = turn_->items[index];
  const RemoteChunk& chunk = turn_->plan.traffic[item.traffic].chunks[item.chunk];
  const int64_t first = positionOf(chunk, item.firstRow);
  const int64_t last = positionOf(chunk, item.firstRow + item.rows - 1);
  return {chunkOf(layer, item, block), shape.headDim, visibleTiles(shape, first, last, {chunk.chunk, chunk.chunk + 1})};
}

void RemoteAttention::attendItem(int64_t layer, const AttentionShape& shape, size_t index, size_t next, float* work) {
  const Item& item = turn_->items[index];
  const RemoteTraffic& traffic = turn_->plan.traffic[item.traffic];
  const RemoteChunk& chunk = traffic.chunks[item.chunk];
  const int64_t heads = model_.queryHeadsPerGroup;
  const int64_t groups = traffic.loan.headGroups.size();
  AttentionRows rows;
  for (; rows.count < item.rows; ++rows.count) {
    const int64_t row = item.firstRow + rows.count;
    const int64_t head = item.group * heads + row % heads;
    rows.queries[rows.count] =
        queries_[item.traffic] + ((chunk.firstQuery + row / heads) * groups * heads + head) * model_.headDim;
    rows.positions[rows.count] = positionOf(chunk, row);
  }
  std::byte* message = outgoing_[static_cast<size_t>(traffic.loan.owner)];
  auto* parts =
      reinterpret_cast<float*>(message + static_cast<int64_t>(traffic.blocks.size()) * sizes_.blockBytes(groups));
  parts += (item.group * traffic.rows + chunk.firstRow + item.firstRow) * sizes_.partFloats();
  int32_t block = 0;
  int32_t nextBlock = 0;
  attendPart(shape, chunkOf(layer, item, block), rows, chunk.chunk, parts, work, bestIsa(),
             walkOf(layer, shape, next, nextBlock));
}

void RemoteAttention::returnParts() {
  if (turn_->plan.second) collective_.exchange(parts_);
}

std::span<const RemoteSource> RemoteAttention::sources(int64_t sequence) const {
  return turn_->plan.sources[static_cast<size_t>(sequence)];
}

KvBlocks RemoteAttention::wholeBlock(const RemoteSource& source, int64_t group) const {
  const RemoteTraffic& traffic = turn_->plan.traffic[source.traffic];
  const std::byte* base = parts_[static_cast<size_t>(traffic.loan.holder)].receive.data();
  const int64_t stride = sizes_.blockBytes(traffic.loan.headGroups.size());
  const int64_t half = sizes_.blockBytes(1) / 2;
  const std::byte* keys = base + group * 2 * half;
  return {model_.weightType,
          keys,
          keys + half,
          stride,
          sizes_.blockTokens(),
          &source.wholeBlock,
          source.chunk * kAttentionChunkTokens / sizes_.blockTokens()};
}

AttentionParts RemoteAttention::parts(const RemoteSource& source, int64_t group) const {
  const RemoteTraffic& traffic = turn_->plan.traffic[source.traffic];
  const std::byte* base =
      parts_[static_cast<size_t>(traffic.loan.holder)].receive.data() +
      traffic.blocks.size() * static_cast<size_t>(sizes_.blockBytes(traffic.loan.headGroups.size()));
  return {reinterpret_cast<const float*>(base), group * traffic.rows + source.firstRow};
}

}  // namespace hels
