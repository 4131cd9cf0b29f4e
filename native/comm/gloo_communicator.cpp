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
constexpr size_t kHeaderWords = 2;
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
  started_.store(true, std::memory_order_release);
  greet(deadlineAt);
  // Not before: Gloo sizes the buffer itself when a message is larger than all before it, and the greeting has the
  // largest size.
  for (const SocketHandle& socket : sockets_) socket.setSendBuffer(kSendBufferBytes, kSendBufferNeeded);
}

/// A first sum with a known answer: it ends when all ranks are connected, and a stranger on one of our ports cannot
/// give it.
void GlooCommunicator::greet(Clock::time_point deadlineAt) {
  std::vector<int64_t> greeting(kChunkValues, rank() + 1);
  run(&GlooCommunicator::sumDirectly, greeting, deadlineAt - Clock::now());
  const int64_t size = ranks();
  const bool right = std::ranges::all_of(greeting, [&](int64_t sum) { return sum == size * (size + 1) / 2; });
  require(right, ErrorCode::kPeerLost, "the ranks' greeting has a wrong sum: the group was formed of wrong addresses");
}

void GlooCommunicator::allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds deadline) {
  const bool direct = peers_.size() == 1 || values.size() <= kDirectValuesMax;
  run(direct ? &GlooCommunicator::sumDirectly : &GlooCommunicator::sumScattered, values, deadline);
}

void GlooCommunicator::run(Algorithm algorithm, std::span<int64_t> values, std::chrono::nanoseconds deadline) {
  call_ = {.count = static_cast<int64_t>(values.size()), .deadline = deadline, .deadlineAt = Clock::now() + deadline};
  ++sequence_;
  const PipeSignalBlock noSignal;
  try {
    (this->*algorithm)(values);
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
    for (Peer& peer : peers_) send(peer.channel, chunk);
    receiveAddends(chunk);
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
    for (Peer& peer : peers_) send(peer.channel, sliceOf(peer.rank));
    const std::span own = sliceOf(rank());
    receiveAddends(own);
    for (Peer& peer : peers_) send(peer.channel, own);
    for (Peer& peer : peers_) {
      const std::span slice = sliceOf(peer.rank);
      std::ranges::copy(receive(peer.channel, slice.size()), slice.begin());
    }
  }
}

void GlooCommunicator::receiveAddends(std::span<int64_t> values) {
  for (Peer& peer : peers_) {
    const std::span<const int64_t> addends = receive(peer.channel, values.size());
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
          "a peer sums " + std::to_string(words[0]) + " values in its collective " + std::to_string(words[1]) +
              ", rank " + std::to_string(rank()) + " sums " + std::to_string(call_.count) + " in its collective " +
              std::to_string(sequence_) + "; all ranks must make the same calls");
  return std::span(words).subspan(kHeaderWords, count);
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
  if (!started_.load(std::memory_order_acquire)) return;
  for (const SocketHandle& socket : sockets_) socket.shutdown();
}

}  // namespace hels
