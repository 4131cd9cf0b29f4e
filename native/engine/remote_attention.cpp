#include "engine/remote_attention.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "kernels/cpu/parallel.h"

namespace hels {
namespace {

constexpr size_t kMessageAlignment = 64;
/// All transports take so much before the peer has come: two packets in shared memory, less than a socket's buffers.
constexpr int64_t kSentAtOnceBytes = int64_t{128} * 1024;

size_t aligned(int64_t bytes) {
  return (static_cast<size_t>(bytes) + kMessageAlignment - 1) / kMessageAlignment * kMessageAlignment;
}

int64_t windowAt(const ModelSpec& model, int64_t layer) {
  return model.slidingWindows.empty() ? 0 : model.slidingWindows[static_cast<size_t>(layer)];
}

/// What the largest step sends or receives, for all peers of this rank together.
struct ExchangeSizes {
  size_t ownerFirst = 0;
  size_t ownerSecond = 0;
  size_t holderFirst = 0;
  size_t holderSecond = 0;
};

ExchangeSizes largestExchanges(const KvHomes& homes, const RemoteSizes& sizes, int64_t stepTokens) {
  ExchangeSizes result;
  std::vector<std::pair<int, int>> pairs;
  for (const KvLoan& loan : homes.loans) {
    const int64_t groups = loan.headGroups.size();
    const size_t second = aligned(loan.blocks.size() * sizes.blockBytes(groups));
    if (loan.owner == homes.rank) result.ownerSecond += second;
    if (loan.holder == homes.rank) result.holderSecond += second;
    if (std::ranges::find(pairs, std::pair(loan.owner, loan.holder)) != pairs.end()) continue;
    pairs.emplace_back(loan.owner, loan.holder);
    const size_t first = aligned(stepTokens * (sizes.storedBytes(groups) + sizes.queryBytes(groups)));
    if (loan.owner == homes.rank) result.ownerFirst += first;
    if (loan.holder == homes.rank) result.holderFirst += first;
  }
  return result;
}

}  // namespace

ExchangeBuffers layoutExchangeBuffers(const ModelSpec& model, const KvHomes& homes, const EngineOptions& options,
                                      Arena& arena) {
  const ExchangeSizes sizes = largestExchanges(homes, RemoteSizes(model, options.kvBlockTokens), options.stepTokensMax);
  const size_t move = moveBytesMax(homes, {model.weightType, model.layers, 0, model.headDim, options.kvBlockTokens, 0});
  // Exchange 1 and exchange 2 use the same buffers, one after the other.
  const size_t send = std::max({sizes.ownerFirst, sizes.holderSecond, move});
  const size_t receive = std::max({sizes.holderFirst, sizes.ownerSecond, move});
  std::byte* sendBuffer = arena.takeBytes(send);
  std::byte* receiveBuffer = arena.takeBytes(receive);
  return {{sendBuffer, sendBuffer == nullptr ? 0 : send}, {receiveBuffer, receiveBuffer == nullptr ? 0 : receive}};
}

RemoteAttention::RemoteAttention(const ModelSpec& model, const EngineOptions& options, KvStore& store,
                                 const ExchangeBuffers& buffers, Collective& collective)
    : model_(model),
      store_(store),
      buffers_(buffers),
      collective_(collective),
      sizes_(model, options.kvBlockTokens),
      parts_(static_cast<size_t>(store.homes().ranks)),
      outgoing_(parts_.size()) {}

void RemoteAttention::begin(const TokenBatch& batch) {
  batch_ = &batch;
  windows_.clear();
  for (int64_t layer = 0; layer < model_.layers; ++layer) {
    const auto [entry, fresh] = windows_.try_emplace(windowAt(model_, layer));
    if (!fresh) continue;
    entry->second.plan = planRemote(batch, store_.homes(), sizes_, entry->first);
    listItems(entry->second);
  }
}

RemoteAttention::Window& RemoteAttention::windowOf(int64_t layer) { return windows_.at(windowAt(model_, layer)); }
const RemoteAttention::Window& RemoteAttention::windowOf(int64_t layer) const {
  return windows_.at(windowAt(model_, layer));
}

void RemoteAttention::listItems(Window& window) const {
  for (size_t index = 0; index < window.plan.traffic.size(); ++index) {
    const RemoteTraffic& traffic = window.plan.traffic[index];
    if (traffic.loan.holder != store_.homes().rank) continue;
    for (size_t chunk = 0; chunk < traffic.chunks.size(); ++chunk) {
      const int64_t rows = traffic.chunks[chunk].tokens.count * model_.queryHeadsPerGroup;
      for (int64_t group = 0; group < traffic.loan.headGroups.size(); ++group) {
        for (int64_t row = 0; row < rows; row += kAttentionRowsMax) {
          const auto count = static_cast<int>(std::min<int64_t>(kAttentionRowsMax, rows - row));
          window.items.push_back({index, chunk, group, row, count});
        }
      }
    }
  }
}

bool RemoteAttention::active(int64_t layer) const {
  const RemotePlan& plan = windowOf(layer).plan;
  return plan.first || plan.second;
}

bool RemoteAttention::returnsAtOnce(int64_t layer) const {
  const int rank = store_.homes().rank;
  return std::ranges::none_of(windowOf(layer).plan.traffic, [&](const RemoteTraffic& traffic) {
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
    used += aligned(bytes);
  }
}

void RemoteAttention::sendQueries(int64_t layer, const float* queryKeyValue, int64_t stride) {
  const RemotePlan& plan = windowOf(layer).plan;
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
  const Window& window = windowOf(layer);
  layOut(window.plan, true);
  for (const RemoteTraffic& traffic : window.plan.traffic) {
    if (traffic.loan.holder != store_.homes().rank || traffic.blocks.empty()) continue;
    std::byte* target = outgoing_[static_cast<size_t>(traffic.loan.owner)];
    for (const int32_t address : traffic.blocks) {
      const KvStore::Place place = store_.at(traffic.loan.owner, address);
      place.cache->readLayer(layer, place.block, target);
      target += place.cache->shape().layerBlockBytes();
    }
  }
  parallelForDynamic(work.threads, static_cast<int64_t>(window.items.size()), [&](int64_t item, int thread) {
    attendItem(layer, shape, window, static_cast<size_t>(item), static_cast<size_t>(item + work.threads),
               work.floats + thread * work.stride);
  });
}

KvBlocks RemoteAttention::chunkOf(int64_t layer, const RemotePlan& plan, const Item& item, int32_t& block) const {
  const RemoteTraffic& traffic = plan.traffic[item.traffic];
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

KvWalk RemoteAttention::walkOf(int64_t layer, const AttentionShape& shape, const Window& window, size_t index,
                               int32_t& block) const {
  if (index >= window.items.size()) return {};
  const Item& item = window.items[index];
  const RemoteChunk& chunk = window.plan.traffic[item.traffic].chunks[item.chunk];
  const int64_t first = positionOf(chunk, item.firstRow);
  const int64_t last = positionOf(chunk, item.firstRow + item.rows - 1);
  return {chunkOf(layer, window.plan, item, block), shape.headDim,
          visibleTiles(shape, first, last, {chunk.chunk, chunk.chunk + 1})};
}

void RemoteAttention::attendItem(int64_t layer, const AttentionShape& shape, const Window& window, size_t index,
                                 size_t next, float* work) {
  const Item& item = window.items[index];
  const RemoteTraffic& traffic = window.plan.traffic[item.traffic];
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
  attendPart(shape, chunkOf(layer, window.plan, item, block), rows, chunk.chunk, parts, work, bestIsa(),
             walkOf(layer, shape, window, next, nextBlock));
}

void RemoteAttention::returnParts(int64_t layer) {
  if (windowOf(layer).plan.second) collective_.exchange(parts_);
}

std::span<const RemoteSource> RemoteAttention::sources(int64_t layer, int64_t sequence) const {
  return windowOf(layer).plan.sources[static_cast<size_t>(sequence)];
}

KvBlocks RemoteAttention::wholeBlock(int64_t layer, const RemoteSource& source, int64_t group) const {
  const RemoteTraffic& traffic = windowOf(layer).plan.traffic[source.traffic];
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

AttentionParts RemoteAttention::parts(int64_t layer, const RemoteSource& source, int64_t group) const {
  const RemoteTraffic& traffic = windowOf(layer).plan.traffic[source.traffic];
  const std::byte* base =
      parts_[static_cast<size_t>(traffic.loan.holder)].receive.data() +
      traffic.blocks.size() * static_cast<size_t>(sizes_.blockBytes(traffic.loan.headGroups.size()));
  return {reinterpret_cast<const float*>(base), group * traffic.rows + source.firstRow};
}

}  // namespace hels
