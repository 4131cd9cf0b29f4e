#include "comm/gloo_communicator.h"

#include <gloo/transport/tcp/address.h>

#include <algorithm>
#include <csignal>
#include <ctime>
#include <string>

#include "base/error.h"

namespace hels {
namespace {

using Clock = std::chrono::steady_clock;

// All ranks first send, then receive, each from one thread: free of deadlock only while no send blocks. A rank can be
// one message ahead of what a peer has read, so the socket must hold two messages; receive buffers are not relied on (a
// half-read segment blocks them whole).
constexpr size_t kChunkValues = 16384;
constexpr int kSendBufferBytes = 212'992;  // Linux grants this by default (net.core.wmem_max) and counts it twice
constexpr size_t kSendBufferNeeded = 3 * kChunkValues * sizeof(int64_t);  // two messages and the kernel's overhead
constexpr size_t kChunkBytes = kChunkValues * sizeof(int64_t);
constexpr size_t kHeaderWords = 3;
// From three ranks on, longer sums are cheaper scattered (each rank sums its slice, then all gather) than sent whole to
// everybody.
constexpr size_t kDirectValuesMax = 4096;
// Slots number a pair's buffers; both of its ends use the same one for what one sends and the other receives.
constexpr int kSlot = 0;

/// Gloo writes without MSG_NOSIGNAL: while this object lives, a lost peer is an error code and not a signal that ends
/// the process.
class PipeSignalBlock {
 public:
  PipeSignalBlock() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~PipeSignalBlock() {
    if (sigismember(&before_, SIGPIPE) == 1) return;
    const timespec atOnce = {};
    while (sigtimedwait(&pipe_, nullptr, &atOnce) == SIGPIPE) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  PipeSignalBlock(const PipeSignalBlock&) = delete;
  PipeSignalBlock& operator=(const PipeSignalBlock&) = delete;

 private:
  sigset_t pipe_ = {};
  sigset_t before_ = {};
};

}  // namespace

GlooCommunicator::GlooCommunicator(std::shared_ptr<gloo::transport::Device> device,
                                   std::shared_ptr<gloo::transport::Context> context)
    : device_(std::move(device)), context_(std::move(context)) {
  for (int peer = 0; peer < ranks(); ++peer) {
    if (peer == rank()) continue;
    peers_.push_back({.rank = peer, .channel = openChannel(peer)});
  }
}

GlooCommunicator::Channel GlooCommunicator::openChannel(int peer) {
  constexpr size_t kWords = kHeaderWords + kChunkValues;
  Channel channel{.out = {.words = std::vector<int64_t>(kWords), .buffer = nullptr},
                  .in = {.words = std::vector<int64_t>(kWords), .buffer = nullptr}};
  const auto& pair = context_->getPair(peer);
  // Only the receiving buffer is registered under the slot, but the end of either unregisters it: they live and go
  // together.
  channel.out.buffer = pair->createSendBuffer(kSlot, channel.out.words.data(), kWords * sizeof(int64_t));
  channel.in.buffer = pair->createRecvBuffer(kSlot, channel.in.words.data(), kWords * sizeof(int64_t));
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
  started_.store(true);
  // An abort() before this has shut nothing down.
  require(!aborted_, ErrorCode::kAborted, "the collective was aborted");
  greet(deadlineAt);
  // Not before: Gloo sizes the buffer itself when a message is larger than all before it, and the greeting has the
  // largest size.
  for (const SocketHandle& socket : sockets_) socket.setSendBuffer(kSendBufferBytes, kSendBufferNeeded);
}

/// A first sum with a known answer: it ends when all ranks are connected, and a stranger on one of our ports cannot
/// give it.
void GlooCommunicator::greet(Clock::time_point deadlineAt) {
  std::vector<int64_t> greeting(kChunkValues, rank() + 1);
  run(Kind::kSum, deadlineAt - Clock::now(), [&] { sumDirectly(greeting); });
  const int64_t size = ranks();
  const bool right = std::ranges::all_of(greeting, [&](int64_t sum) { return sum == size * (size + 1) / 2; });
  require(right, ErrorCode::kPeerLost, "the ranks' greeting has a wrong sum: the group was formed of wrong addresses");
}

void GlooCommunicator::allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds deadline) {
  const bool direct = peers_.size() == 1 || values.size() <= kDirectValuesMax;
  run(Kind::kSum, deadline, [&] { direct ? sumDirectly(values) : sumScattered(values); });
}

void GlooCommunicator::exchange(std::span<const ExchangePart> parts, std::chrono::nanoseconds deadline) {
  validateExchange(parts, rank(), ranks());
  run(Kind::kExchange, deadline, [&] { exchangeParts(parts); });
}

template <typename Body>
void GlooCommunicator::run(Kind kind, std::chrono::nanoseconds deadline, const Body& body) {
  call_ = {.kind = kind, .deadline = deadline, .deadlineAt = Clock::now() + deadline};
  ++sequence_;
  const PipeSignalBlock noSignal;
  try {
    body();
  } catch (const std::exception& failure) {
    // The peers must not wait for this rank any longer.
    shutdownAll();
    if (aborted_) throw Error(ErrorCode::kAborted, "the collective was aborted");
    if (dynamic_cast<const Error*>(&failure) != nullptr) throw;
    if (Clock::now() >= call_.deadlineAt) throw Error(ErrorCode::kDeadlineExceeded, lateText() + ": " + failure.what());
    throw Error(ErrorCode::kPeerLost, std::string("the connection to a peer is lost: ") + failure.what());
  }
}

/// Every rank sends everything to every other.
void GlooCommunicator::sumDirectly(std::span<int64_t> values) {
  for (size_t begin = 0; begin < values.size(); begin += kChunkValues) {
    const std::span chunk = values.subspan(begin, std::min(kChunkValues, values.size() - begin));
    armTimeouts();
    for (Peer& peer : peers_) send(peer.channel, values.size(), std::as_bytes(chunk));
    receiveAddends(values.size(), chunk);
  }
}

/// Reduce-scatter, then all-gather, block by block.
void GlooCommunicator::sumScattered(std::span<int64_t> values) {
  const auto slices = static_cast<size_t>(ranks());
  for (size_t begin = 0; begin < values.size(); begin += slices * kChunkValues) {
    const std::span block = values.subspan(begin, std::min(slices * kChunkValues, values.size() - begin));
    const auto sliceOf = [&](int rank) {
      const size_t from = block.size() * static_cast<size_t>(rank) / slices;
      const size_t to = block.size() * (static_cast<size_t>(rank) + 1) / slices;
      return block.subspan(from, to - from);
    };
    armTimeouts();
    for (Peer& peer : peers_) send(peer.channel, values.size(), std::as_bytes(sliceOf(peer.rank)));
    const std::span own = sliceOf(rank());
    receiveAddends(values.size(), own);
    for (Peer& peer : peers_) send(peer.channel, values.size(), std::as_bytes(own));
    for (Peer& peer : peers_) {
      const std::span slice = std::as_writable_bytes(sliceOf(peer.rank));
      std::ranges::copy(receive(peer.channel, values.size(), slice.size()), slice.begin());
    }
  }
}

/// In steps: the n-th chunks to all peers, then those from all. A send may block here, because sizes are uneven, but
/// the rank that is furthest behind never does: its peers have read the chunks of all earlier steps.
void GlooCommunicator::exchangeParts(std::span<const ExchangePart> parts) {
  size_t longest = 0;
  for (const ExchangePart& part : parts) longest = std::max({longest, part.send.size(), part.receive.size()});
  const auto chunkOf = [](auto bytes, size_t begin) {
    begin = std::min(begin, bytes.size());
    return bytes.subspan(begin, std::min(kChunkBytes, bytes.size() - begin));
  };
  for (size_t begin = 0; begin < longest; begin += kChunkBytes) {
    for (Peer& peer : peers_) {
      const std::span<const std::byte> whole = parts[static_cast<size_t>(peer.rank)].send;
      const std::span chunk = chunkOf(whole, begin);
      if (chunk.empty()) continue;
      armTimeouts();
      send(peer.channel, whole.size(), chunk);
    }
    for (Peer& peer : peers_) {
      const std::span<std::byte> whole = parts[static_cast<size_t>(peer.rank)].receive;
      const std::span chunk = chunkOf(whole, begin);
      if (chunk.empty()) continue;
      armTimeouts();
      std::ranges::copy(receive(peer.channel, whole.size(), chunk.size()), chunk.begin());
    }
  }
}

void GlooCommunicator::receiveAddends(size_t size, std::span<int64_t> values) {
  for (Peer& peer : peers_) {
    receive(peer.channel, size, values.size_bytes());
    const int64_t* addends = peer.channel.in.words.data() + kHeaderWords;
    for (size_t i = 0; i < values.size(); ++i) values[i] += addends[i];
  }
}

void GlooCommunicator::send(Channel& channel, size_t size, std::span<const std::byte> bytes) {
  std::vector<int64_t>& words = channel.out.words;
  words[0] = static_cast<int64_t>(call_.kind);
  words[1] = static_cast<int64_t>(size);
  words[2] = sequence_;
  std::ranges::copy(bytes, std::as_writable_bytes(std::span(words).subspan(kHeaderWords)).begin());
  channel.out.buffer->send(0, kHeaderWords * sizeof(int64_t) + bytes.size(), 0);
  channel.out.buffer->waitSend();
}

std::span<const std::byte> GlooCommunicator::receive(Channel& channel, size_t size, size_t bytes) {
  channel.in.buffer->waitRecv();
  const std::vector<int64_t>& words = channel.in.words;
  const bool same =
      words[0] == static_cast<int64_t>(call_.kind) && words[1] == static_cast<int64_t>(size) && words[2] == sequence_;
  const auto what = [](int64_t kind, int64_t count) {
    return kind == static_cast<int64_t>(Kind::kSum) ? "sums " + std::to_string(count) + " values"
                                                    : "exchanges " + std::to_string(count) + " bytes";
  };
  require(same, ErrorCode::kShapeInvalid,
          "a peer " + what(words[0], words[1]) + " in its collective " + std::to_string(words[2]) + ", rank " +
              std::to_string(rank()) + " " + what(static_cast<int64_t>(call_.kind), static_cast<int64_t>(size)) +
              " in its collective " + std::to_string(sequence_) + "; all ranks must make the same calls");
  return std::as_bytes(std::span(words)).subspan(kHeaderWords * sizeof(int64_t), bytes);
}

/// Sets the sockets' timeouts to what is left of the call. A setting up to an eighth of the deadline longer than that
/// is left alone, so that short sums need no system call for it: a call ends at the latest after 9/8 of its deadline.
void GlooCommunicator::armTimeouts() {
  const std::chrono::nanoseconds left = call_.deadlineAt - Clock::now();
  if (left <= std::chrono::nanoseconds::zero()) {
    throw Error(ErrorCode::kDeadlineExceeded, lateText());
  }
  if (armedTimeout_ >= left && armedTimeout_ <= left + call_.deadline / 8) return;
  for (const SocketHandle& socket : sockets_) socket.setTimeout(left);
  armedTimeout_ = left;
}

std::string GlooCommunicator::lateText() const {
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(call_.deadline).count();
  return "the collective of " + std::to_string(ranks()) + " ranks did not end within " + std::to_string(milliseconds) +
         " ms";
}

bool GlooCommunicator::hasLeft(int peer) const noexcept {
  const auto index = static_cast<size_t>(peer < rank() ? peer : peer - 1);  // sockets_ leave this rank out
  return index < sockets_.size() && sockets_[index].isClosedByPeer();
}

void GlooCommunicator::abort() noexcept {
  aborted_.store(true);
  shutdownAll();
}

void GlooCommunicator::shutdownAll() noexcept {
  if (!started_) return;
  for (const SocketHandle& socket : sockets_) socket.shutdown();
}

}  // namespace hels
