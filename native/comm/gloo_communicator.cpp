#include "comm/gloo_communicator.h"

#include <gloo/transport/tcp/address.h>

#include <algorithm>
#include <string>

#include "base/error.h"

namespace hels {
namespace {

using Clock = std::chrono::steady_clock;

// Messages of 64 KiB, of which at most three from one rank are unread at another: default socket buffers hold them, so no send blocks and
// "first send, then receive" is free of deadlock without a second thread. (The rank that is furthest behind has peers that have read
// everything up to its own place; only what it sent ahead is unread.)
constexpr size_t kChunkValues = 8192;
constexpr size_t kHeaderWords = 2;
// From three ranks on, longer sums are cheaper scattered (each rank sums its slice, then all gather) than sent whole to everybody.
constexpr size_t kDirectValuesMax = 4096;
// Slots number a pair's buffers; both of its ends use the same one for what one sends and the other receives.
constexpr int kAddendSlot = 0;
constexpr int kSumSlot = 1;

}  // namespace

GlooCommunicator::GlooCommunicator(std::shared_ptr<gloo::transport::Device> device, std::shared_ptr<gloo::transport::Context> context)
    : device_(std::move(device)), context_(std::move(context)) {
  for (int peer = 0; peer < ranks(); ++peer) {
    if (peer == rank()) continue;
    peers_.push_back({.rank = peer, .addends = openChannel(peer, kAddendSlot), .sums = openChannel(peer, kSumSlot)});
  }
}

GlooCommunicator::Channel GlooCommunicator::openChannel(int peer, int slot) {
  constexpr size_t kWords = kHeaderWords + kChunkValues;
  Channel channel{.out = {.words = std::vector<int64_t>(kWords), .buffer = nullptr},
                  .in = {.words = std::vector<int64_t>(kWords), .buffer = nullptr}};
  const auto& pair = context_->getPair(peer);
  // Only the receiving buffer is registered under the slot, but the end of either unregisters it: they live and go together.
  channel.out.buffer = pair->createSendBuffer(slot, channel.out.words.data(), kWords * sizeof(int64_t));
  channel.in.buffer = pair->createRecvBuffer(slot, channel.in.words.data(), kWords * sizeof(int64_t));
  return channel;
}

GlooCommunicator::~GlooCommunicator() { shutdownAll(); }

void GlooCommunicator::start(Clock::time_point deadlineAt) {
  for (const Peer& peer : peers_) {
    const auto& pair = context_->getPair(peer.rank);
    pair->setSync(true, false);
    const auto& address = dynamic_cast<const gloo::transport::tcp::Address&>(pair->address());
    sockets_.push_back(SocketHandle::ofConnection(address.getSockaddr()));
  }
  started_.store(true, std::memory_order_release);
  // A first sum with a known answer: it ends when all ranks are connected, and a stranger on one of our ports cannot give it.
  const int64_t size = ranks();
  int64_t sum = rank() + 1;
  allReduceSum({&sum, 1}, deadlineAt - Clock::now());
  require(sum == size * (size + 1) / 2, ErrorCode::kPeerLost, "the ranks' greeting has a wrong sum: the group was formed of wrong addresses");
}

void GlooCommunicator::allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds deadline) {
  call_ = {.count = static_cast<int64_t>(values.size()), .deadline = deadline, .deadlineAt = Clock::now() + deadline};
  ++sequence_;
  try {
    if (peers_.size() == 1 || values.size() <= kDirectValuesMax) {
      sumDirectly(values);
    } else {
      sumScattered(values);
    }
  } catch (const std::exception& failure) {
    // The peers must not wait for this rank any longer.
    shutdownAll();
    if (aborted_) throw Error(ErrorCode::kAborted, "the collective was aborted");
    if (dynamic_cast<const Error*>(&failure) != nullptr) throw;
    const bool late = Clock::now() >= call_.deadlineAt;
    throw Error(late ? ErrorCode::kDeadlineExceeded : ErrorCode::kPeerLost, failure.what());
  }
}

/// Every rank sends everything to every other. One chunk is sent ahead, so that a rank seldom waits for its peers to wake up.
void GlooCommunicator::sumDirectly(std::span<int64_t> values) {
  const auto chunkAt = [&](size_t begin) { return values.subspan(begin, std::min(kChunkValues, values.size() - begin)); };
  const auto sendAt = [&](size_t begin) {
    if (begin >= values.size()) return;
    for (Peer& peer : peers_) send(peer.addends, chunkAt(begin));
  };
  armTimeouts();
  sendAt(0);
  for (size_t begin = 0; begin < values.size(); begin += kChunkValues) {
    armTimeouts();
    sendAt(begin + kChunkValues);
    receiveAddends(chunkAt(begin));
  }
}

/// Reduce-scatter, then all-gather, block by block; the addends of one block are sent ahead.
void GlooCommunicator::sumScattered(std::span<int64_t> values) {
  const auto slices = static_cast<size_t>(ranks());
  const size_t blockSize = slices * kChunkValues;
  const auto sliceAt = [&](size_t begin, int rank) {
    const std::span block = values.subspan(begin, std::min(blockSize, values.size() - begin));
    const size_t from = block.size() * static_cast<size_t>(rank) / slices;
    const size_t to = block.size() * (static_cast<size_t>(rank) + 1) / slices;
    return block.subspan(from, to - from);
  };
  const auto sendAddendsAt = [&](size_t begin) {
    if (begin >= values.size()) return;
    for (Peer& peer : peers_) send(peer.addends, sliceAt(begin, peer.rank));
  };
  armTimeouts();
  sendAddendsAt(0);
  for (size_t begin = 0; begin < values.size(); begin += blockSize) {
    armTimeouts();
    sendAddendsAt(begin + blockSize);
    const std::span own = sliceAt(begin, rank());
    receiveAddends(own);
    for (Peer& peer : peers_) send(peer.sums, own);
    for (Peer& peer : peers_) {
      const std::span slice = sliceAt(begin, peer.rank);
      std::ranges::copy(receive(peer.sums, slice.size()), slice.begin());
    }
  }
}

void GlooCommunicator::receiveAddends(std::span<int64_t> values) {
  for (Peer& peer : peers_) {
    const std::span<const int64_t> addends = receive(peer.addends, values.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] += addends[i];
  }
}

void GlooCommunicator::send(Channel& channel, std::span<const int64_t> values) {
  std::vector<int64_t>& words = channel.out.words;
  words[0] = call_.count;
  words[1] = sequence_;
  std::ranges::copy(values, words.begin() + kHeaderWords);
  channel.out.buffer->send(0, (kHeaderWords + values.size()) * sizeof(int64_t), 0);
  channel.out.buffer->waitSend();
}

std::span<const int64_t> GlooCommunicator::receive(Channel& channel, size_t count) {
  channel.in.buffer->waitRecv();
  const std::vector<int64_t>& words = channel.in.words;
  require(words[0] == call_.count && words[1] == sequence_, ErrorCode::kShapeInvalid,
          "a peer sums " + std::to_string(words[0]) + " values in its collective " + std::to_string(words[1]) + ", rank " +
              std::to_string(rank()) + " sums " + std::to_string(call_.count) + " in its collective " + std::to_string(sequence_) +
              "; all ranks must make the same calls");
  return std::span(words).subspan(kHeaderWords, count);
}

/// Sets the sockets' timeouts to what is left of the call. A setting up to an eighth of the deadline longer than that is left alone, so
/// that short sums need no system call for it: a call ends at the latest after 9/8 of its deadline.
void GlooCommunicator::armTimeouts() {
  const std::chrono::nanoseconds left = call_.deadlineAt - Clock::now();
  if (left <= std::chrono::nanoseconds::zero()) {
    throw Error(ErrorCode::kDeadlineExceeded, "the collective did not end in time");
  }
  if (armedTimeout_ >= left && armedTimeout_ <= left + call_.deadline / 8) return;
  for (const SocketHandle& socket : sockets_) socket.setTimeout(left);
  armedTimeout_ = left;
}

void GlooCommunicator::abort() noexcept {
  aborted_.store(true);
  shutdownAll();
}

void GlooCommunicator::shutdownAll() noexcept {
  if (!started_.load(std::memory_order_acquire)) return;
  for (const SocketHandle& socket : sockets_) socket.shutdown();
}

}  // namespace hels
