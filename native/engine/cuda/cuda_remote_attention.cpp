#include "engine/cuda/cuda_remote_attention.h"

#include <algorithm>
#include <string>

#include "base/cuda/check.h"
#include "base/error.h"
#include "kernels/cuda/heads.h"

namespace hels::cuda {
namespace {

KvShape heldShape(const ModelSpec& model, const EngineOptions& options) {
  return {model.weightType, model.layers, 0, model.headDim, options.kvBlockTokens, 0};
}

/// Ranks that hold KV of this one's heads.
int64_t holdersOf(const KvHomes& homes) {
  std::vector<int> holders;
  for (const KvLoan& loan : homes.loans) {
    const bool known = std::ranges::find(holders, loan.holder) != holders.end();
    if (loan.owner == homes.rank && !known) holders.push_back(loan.holder);
  }
  return static_cast<int64_t>(holders.size());
}

/// Of all messages that this rank sends, and receives, at once.
struct MessageBytes {
  size_t send = 0;
  size_t receive = 0;
};

MessageBytes messageBytesOf(const CudaRemotePlan& plan, const KvHomes& homes, const std::vector<HeldKv>& held) {
  const RemoteSizes& sizes = plan.sizes();
  const int64_t tokens = plan.turnTokensMax();
  const auto first = [&](int64_t groups) {
    return static_cast<size_t>(alignedMessage(tokens * (sizes.storedBytes(groups) + sizes.queryBytes(groups))));
  };
  const auto second = [&](int64_t groups) {
    const int64_t bytes = plan.partsMax(groups) * sizes.partFloats() * static_cast<int64_t>(sizeof(float));
    return static_cast<size_t>(alignedMessage(bytes));
  };
  size_t heldFirst = 0;
  size_t heldSecond = 0;
  for (const HeldKv& one : held) {
    heldFirst += first(one.groups());
    heldSecond += second(one.groups());
  }
  const int64_t holders = holdersOf(homes);
  const int64_t own = homes.headGroups.size();
  const size_t ownSecond = holders == 0 ? 0 : second(own) + static_cast<size_t>(holders * kMessageAlignment);
  return {std::max(static_cast<size_t>(holders) * first(own), heldSecond), std::max(heldFirst, ownSecond)};
}

AttentionParts takeParts(Arena& arena, int64_t parts, int64_t headDim) {
  return {arena.take<float>(parts), arena.take<float>(parts), arena.take<float>(parts * headDim), 0};
}

RemoteScratch layoutRemote(const ModelSpec& model, const EngineOptions& options, const CudaRemotePlan& plan,
                           const KvHomes& homes, const std::vector<HeldKv>& held, Arena& arena) {
  const RemoteSizes& sizes = plan.sizes();
  const int64_t own = holdersOf(homes) == 0 ? 0 : homes.headGroups.size();
  int64_t most = 0;
  for (const HeldKv& one : held) most = std::max(most, one.groups());
  RemoteScratch scratch;
  scratch.elsewhere = arena.takeBytes(static_cast<size_t>(options.stepTokensMax * sizes.storedBytes(own)));
  scratch.heldRows = arena.takeBytes(static_cast<size_t>(plan.turnTokensMax() * sizes.storedBytes(most)));
  scratch.heldQueries = arena.takeBytes(static_cast<size_t>(plan.turnTokensMax() * sizes.queryBytes(most)));
  scratch.ownParts = takeParts(arena, plan.partsMax(own), model.headDim);
  scratch.heldParts = takeParts(arena, plan.partsMax(most), model.headDim);
  scratch.message =
      reinterpret_cast<std::byte*>(arena.take<float>(plan.partsMax(std::max(own, most)) * sizes.partFloats()));
  scratch.tables = arena.takeBytes(plan.measure());
  return scratch;
}

size_t deviceBytesOf(const ModelSpec& model, const EngineOptions& options, const CudaRemotePlan& plan,
                     const KvHomes& homes, const std::vector<HeldKv>& held) {
  Arena arena;
  layoutRemote(model, options, plan, homes, held, arena);
  return arena.usedBytes();
}

RemoteScratch layoutRemoteIn(const DeviceBuffer& buffer, const ModelSpec& model, const EngineOptions& options,
                             const CudaRemotePlan& plan, const KvHomes& homes, const std::vector<HeldKv>& held) {
  Arena arena(buffer.data(), buffer.sizeBytes());
  return layoutRemote(model, options, plan, homes, held, arena);
}

}  // namespace

RemoteBytes remoteBytesOf(const ModelSpec& model, const KvHomes& homes, const EngineOptions& options) {
  if (homes.loans.empty()) return {};
  const std::vector<HeldKv> held = heldKvOf(homes, heldShape(model, options), nullptr);
  const CudaRemotePlan plan(model, options, homes, held);
  const MessageBytes messages = messageBytesOf(plan, homes, held);
  return {deviceBytesOf(model, options, plan, homes, held), messages.send + messages.receive + plan.measure()};
}

CudaRemoteAttention::CudaRemoteAttention(const ModelSpec& model, const EngineOptions& options, const KvHomes& homes,
                                         std::byte* heldKv, Collective& exchange, CudaCollective& collective)
    : model_(model),
      homes_(homes),
      exchange_(exchange),
      collective_(collective),
      held_(heldKvOf(homes, heldShape(model, options), heldKv)),
      plan_(model, options, homes, held_),
      scratchBuffer_(deviceBytesOf(model, options, plan_, homes, held_), "attention over lent KV"),
      send_(messageBytesOf(plan_, homes, held_).send, "messages about lent KV"),
      receive_(messageBytesOf(plan_, homes, held_).receive, "messages about lent KV"),
      hostTables_(plan_.measure(), "tables of lent KV"),
      scratch_(layoutRemoteIn(scratchBuffer_, model, options, plan_, homes, held_)),
      parts_(static_cast<size_t>(homes.ranks)),
      outgoing_(parts_.size()) {}

int64_t CudaRemoteAttention::elsewhereStride() const { return 2 * homes_.headGroups.size() * model_.headDim; }

void CudaRemoteAttention::begin(const TokenBatch& tokens, const StepShape& shape, cudaStream_t stream) {
  shape_ = shape;
  plan_.write(tokens, shape);
  const std::span<const std::byte> tables = plan_.tables();
  require(tables.size() <= hostTables_.sizeBytes(), ErrorCode::kInternal,
          "attention over lent KV needs tables of " + std::to_string(tables.size()) + " bytes; there are " +
              std::to_string(hostTables_.sizeBytes()));
  std::ranges::copy(tables, hostTables_.data());
  check(cudaMemcpyAsync(scratch_.tables, hostTables_.data(), tables.size(), cudaMemcpyHostToDevice, stream),
        "copy of the tables of lent KV");
}

/// What a layer's attention reads and writes, all tokens of the step.
struct CudaRemoteAttention::Rows {
  const DeviceKv& own;
  const DeviceBatch& batch;
  const std::byte* queries;
  std::byte* output;
  int64_t stride;
  std::byte* workspace;
  bool lends;
  const RemoteTurn* lastTurn;

  const std::byte* queriesOf(const RemoteTurn& turn) const { return queries + skippedBytes(turn); }
  std::byte* outputOf(const RemoteTurn& turn) const { return output + skippedBytes(turn); }

 private:
  int64_t skippedBytes(const RemoteTurn& turn) const {
    return turn.tokens.first * stride * static_cast<int64_t>(bytesOf(own.type));
  }
};

void CudaRemoteAttention::attend(int64_t layer, const AttentionModel& model, const DeviceKv& own,
                                 const DeviceBatch& batch, const std::byte* queries, std::byte* output, int64_t stride,
                                 std::byte* workspace, cudaStream_t stream) {
  const std::span<const RemoteTurn> turns = plan_.turns(model.window);
  const Rows rows{own, batch, queries, output, stride, workspace, plan_.lends(model.window), &turns.back()};
  for (const RemoteTurn& turn : turns) run(turn, layer, model, rows, stream);
}

void CudaRemoteAttention::run(const RemoteTurn& turn, int64_t layer, const AttentionModel& model, const Rows& rows,
                              cudaStream_t stream) {
  scratch_.ownParts.slots = scratch_.heldParts.slots = attentionSlots(model.window, shape_.contextMax);
  copyQueries(turn, rows, stream);
  const bool isAwaited = holds(turn);
  if (!isAwaited) attendHere(turn, model, rows, stream);
  exchangeQueries(turn);
  layOut(turn.plan, true);
  attendForOwners(turn, layer, model, stream);
  if (isAwaited) attendHere(turn, model, rows, stream);
  if (turn.plan.second) exchange_.exchange(parts_);
  if (!rows.lends) return;
  takeParts(turn, stream);
  mergeParts(model, rows.own, ownBatchOf(turn, rows), scratch_.ownParts, rows.outputOf(turn), rows.stride, stream);
}

bool CudaRemoteAttention::holds(const RemoteTurn& turn) const {
  return std::ranges::any_of(turn.plan.traffic,
                             [&](const RemoteTraffic& traffic) { return traffic.loan.holder == homes_.rank; });
}

/// Own rows over what lies here: the turn's, or, where nothing of theirs is lent, all of the step beside the last turn.
void CudaRemoteAttention::attendHere(const RemoteTurn& turn, const AttentionModel& model, const Rows& rows,
                                     cudaStream_t stream) {
  if (rows.lends) {
    attendParts(model, rows.own, ownBatchOf(turn, rows), rows.queriesOf(turn), rows.stride,
                table<uint8_t>(plan_.ownChunks()), plan_.chunkStride(), scratch_.ownParts, stream);
  } else if (&turn == rows.lastTurn) {
    cuda::attend(model, rows.own, rows.batch, rows.queries, rows.stride, rows.output, rows.stride, rows.workspace,
                 stream);
  }
}

DeviceBatch CudaRemoteAttention::ownBatchOf(const RemoteTurn& turn, const Rows& rows) const {
  DeviceBatch batch = batchOf(turn, rows.batch.blockTables);
  batch.sequenceOf = rows.batch.sequenceOf + turn.tokens.first;
  batch.positions = rows.batch.positions + turn.tokens.first;
  return batch;
}

DeviceBatch CudaRemoteAttention::batchOf(const RemoteTurn& turn, const int32_t* blockTables) const {
  DeviceBatch batch;
  batch.sequences = shape_.sequences;
  batch.tokens = turn.tokens.count;
  batch.tokensPerSequenceMax = turn.tokensPerSequenceMax;
  batch.contextMax = shape_.contextMax;
  batch.firstToken = table<int32_t>(turn.firstToken);
  batch.tokenCount = table<int32_t>(turn.tokenCount);
  batch.startPosition = table<int32_t>(turn.startPosition);
  batch.blockTables = blockTables;
  batch.blockTableStride = shape_.tableBlocks;
  return batch;
}

PartsMessage CudaRemoteAttention::messageOf(const RemoteTraffic& traffic) const {
  return {reinterpret_cast<float*>(scratch_.message), traffic.loan.headGroups.size(), model_.queryHeadsPerGroup,
          traffic.rows, model_.headDim};
}

/// Gives every message of an exchange its place in page-locked memory.
void CudaRemoteAttention::layOut(const RemotePlan& plan, bool second) {
  std::ranges::fill(parts_, ExchangePart{});
  size_t sent = 0;
  size_t received = 0;
  for (const RemoteTraffic& traffic : plan.traffic) {
    const int from = second ? traffic.loan.holder : traffic.loan.owner;
    const int to = second ? traffic.loan.owner : traffic.loan.holder;
    if (from != homes_.rank && to != homes_.rank) continue;
    const int64_t bytes = second ? plan_.sizes().secondBytes(traffic) : plan_.sizes().firstBytes(traffic);
    size_t& used = from == homes_.rank ? sent : received;
    const PinnedBuffer& buffer = from == homes_.rank ? send_ : receive_;
    require(
        used + static_cast<size_t>(bytes) <= buffer.sizeBytes(), ErrorCode::kInternal,
        "attention over lent KV needs more than the " + std::to_string(buffer.sizeBytes()) + " bytes of its buffer");
    const std::span<std::byte> message{buffer.data() + used, static_cast<size_t>(bytes)};
    if (from == homes_.rank) {
      parts_[static_cast<size_t>(to)].send = message;
      outgoing_[static_cast<size_t>(to)] = message.data();
    } else {
      parts_[static_cast<size_t>(from)].receive = message;
    }
    used += static_cast<size_t>(alignedMessage(bytes));
  }
}

/// For exchange 1: of each traffic the keys and values of stored tokens, then the queries. Also waits until the copies
/// of the turn before have left the page-locked memory.
void CudaRemoteAttention::copyQueries(const RemoteTurn& turn, const Rows& rows, cudaStream_t stream) {
  layOut(turn.plan, false);
  const auto elementBytes = bytesOf(model_.weightType);
  const auto strideBytes = static_cast<size_t>(rows.stride) * elementBytes;
  for (const RemoteTraffic& traffic : turn.plan.traffic) {
    if (traffic.loan.owner != homes_.rank) continue;
    const int64_t groups = traffic.loan.headGroups.size();
    std::byte* target = outgoing_[static_cast<size_t>(traffic.loan.holder)];
    const auto storedBytes = static_cast<size_t>(plan_.sizes().storedBytes(groups));
    for (size_t begin = 0; begin < traffic.stored.size();) {
      size_t end = begin + 1;
      while (end < traffic.stored.size() && traffic.stored[end] == traffic.stored[end - 1] + 1) ++end;
      const std::byte* from =
          scratch_.elsewhere + static_cast<size_t>(turn.tokens.first + traffic.stored[begin]) * storedBytes;
      check(cudaMemcpyAsync(target, from, (end - begin) * storedBytes, cudaMemcpyDeviceToHost, stream),
            "copy of keys and values to be lent");
      target += (end - begin) * storedBytes;
      begin = end;
    }
    const auto queryBytes = static_cast<size_t>(plan_.sizes().queryBytes(groups));
    for (const TokenRange& range : traffic.queries) {
      const std::byte* from = rows.queries + static_cast<size_t>(turn.tokens.first + range.first) * strideBytes;
      const auto count = static_cast<size_t>(range.count);
      check(cudaMemcpy2DAsync(target, queryBytes, from, strideBytes, queryBytes, count, cudaMemcpyDeviceToHost, stream),
            "copy of queries for lent KV");
      target += count * queryBytes;
    }
  }
  collective_.synchronize(stream);
}

void CudaRemoteAttention::exchangeQueries(const RemoteTurn& turn) {
  if (turn.plan.first) exchange_.exchange(parts_);
  // What came is copied before the next exchange uses its memory.
  incoming_.clear();
  for (const RemoteTraffic& traffic : turn.plan.traffic) {
    incoming_.push_back(parts_[static_cast<size_t>(traffic.loan.owner)].receive.data());
  }
}

void CudaRemoteAttention::attendForOwners(const RemoteTurn& turn, int64_t layer, const AttentionModel& model,
                                          cudaStream_t stream) {
  bool any = false;
  for (size_t index = 0; index < turn.plan.traffic.size(); ++index) {
    const RemoteTraffic& traffic = turn.plan.traffic[index];
    if (traffic.loan.holder != homes_.rank) continue;
    any = true;
    const auto held = static_cast<size_t>(std::ranges::find(held_, traffic.loan.owner, &HeldKv::owner) - held_.begin());
    const DeviceKv kv = held_[held].kv.layer(layer);
    const int64_t groups = kv.groups;
    const TurnTraffic& work = turn.traffic[index];
    const std::byte* from = incoming_[index];
    const auto stored = static_cast<int64_t>(traffic.stored.size());
    const auto storedBytes = static_cast<size_t>(stored * plan_.sizes().storedBytes(groups));
    if (stored > 0) {
      check(cudaMemcpyAsync(scratch_.heldRows, from, storedBytes, cudaMemcpyHostToDevice, stream),
            "copy of keys and values to be held");
      storeKeysAndValues(kv, scratch_.heldRows, 2 * groups * model_.headDim, table<int32_t>(work.slots), stored,
                         stream);
    }
    from += storedBytes;
    const auto queryBytes = static_cast<size_t>(plan_.sizes().queryBytes(groups));
    for (const TokenRange& range : traffic.queries) {
      const auto bytes = static_cast<size_t>(range.count) * queryBytes;
      check(cudaMemcpyAsync(scratch_.heldQueries + static_cast<size_t>(range.first) * queryBytes, from, bytes,
                            cudaMemcpyHostToDevice, stream),
            "copy of queries for KV that is held");
      from += bytes;
    }
    if (work.entryCount == 0) continue;
    attendParts(model, kv, batchOf(turn, table<int32_t>(plan_.heldTable(held))), scratch_.heldQueries,
                groups * model_.queryHeadsPerGroup * model_.headDim, table<uint8_t>(plan_.heldChunks(held)),
                plan_.chunkStride(), scratch_.heldParts, stream);
    packParts(scratch_.heldParts, table<PartsEntry>(work.entries), work.entryCount, messageOf(traffic), stream);
    check(cudaMemcpyAsync(outgoing_[static_cast<size_t>(traffic.loan.owner)], scratch_.message,
                          static_cast<size_t>(plan_.sizes().secondBytes(traffic)), cudaMemcpyDeviceToHost, stream),
          "copy of parts of KV that is held");
  }
  if (any) collective_.synchronize(stream);
}

/// What came in exchange 2 joins the own parts.
void CudaRemoteAttention::takeParts(const RemoteTurn& turn, cudaStream_t stream) {
  for (size_t index = 0; index < turn.plan.traffic.size(); ++index) {
    const RemoteTraffic& traffic = turn.plan.traffic[index];
    const TurnTraffic& work = turn.traffic[index];
    if (traffic.loan.owner != homes_.rank || work.entryCount == 0) continue;
    const ExchangePart& part = parts_[static_cast<size_t>(traffic.loan.holder)];
    check(cudaMemcpyAsync(scratch_.message, part.receive.data(), part.receive.size(), cudaMemcpyHostToDevice, stream),
          "copy of parts of lent KV");
    unpackParts(messageOf(traffic), table<PartsEntry>(work.entries), work.entryCount, scratch_.ownParts, stream);
  }
}

}  // namespace hels::cuda
