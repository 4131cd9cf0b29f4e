// A connected group over Gloo's TCP pairs.
//
// Messages go pairwise through bound buffers in Gloo's synchronous mode: the calling thread itself blocks in the
// kernel, so no event loop competes for a core and a message costs one wake-up. What that mode lacks is added on the
// sockets: a deadline for each call (SO_RCVTIMEO), and an end from another thread (shutdown).
#pragma once

#include <gloo/transport/buffer.h>
#include <gloo/transport/context.h>
#include <gloo/transport/device.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/socket_handle.h"

namespace hels {

class GlooCommunicator final : public Communicator {
 public:
  /// `context` has a pair to every other rank, not yet connected.
  GlooCommunicator(std::shared_ptr<gloo::transport::Device> device, std::shared_ptr<gloo::transport::Context> context);
  ~GlooCommunicator() override;
  GlooCommunicator(const GlooCommunicator&) = delete;
  GlooCommunicator& operator=(const GlooCommunicator&) = delete;

  /// All pairs are connected now: takes over their sockets and greets every rank. Throws kPeerLost, kDeadlineExceeded.
  void start(std::chrono::steady_clock::time_point deadlineAt);

  int rank() const override { return context_->rank; }
  int ranks() const override { return context_->size; }
  const char* transport() const override { return "tcp"; }
  void allReduceSum(std::span<int64_t> values, std::chrono::nanoseconds deadline) override;
  void exchange(std::span<const ExchangePart> parts, std::chrono::nanoseconds deadline) override;
  void abort() noexcept override;
  /// Whether `peer` has closed its connection and nothing that it sent is left to read. From the calling thread only.
  bool hasLeft(int peer) const noexcept;

 private:
  /// The message under way in one direction; it says what kind of collective it belongs to, its size and its number.
  struct Message {
    std::vector<int64_t> words;
    std::unique_ptr<gloo::transport::Buffer> buffer;
  };
  struct Channel {
    Message out;
    Message in;
  };
  struct Peer {
    int rank = 0;
    Channel channel;
  };
  enum class Kind : int64_t { kSum = 1, kExchange = 2 };
  /// The collective that is running.
  struct Call {
    Kind kind = Kind::kSum;
    std::chrono::nanoseconds deadline{0};
    std::chrono::steady_clock::time_point deadlineAt;
  };

  template <typename Body>
  void run(Kind kind, std::chrono::nanoseconds deadline, const Body& body);
  void sumDirectly(std::span<int64_t> values);
  void sumScattered(std::span<int64_t> values);
  void exchangeParts(std::span<const ExchangePart> parts);
  Channel openChannel(int peer);
  void greet(std::chrono::steady_clock::time_point deadlineAt);
  /// `size`: of the whole collective, in values or bytes, as both ends know it.
  void send(Channel& channel, size_t size, std::span<const std::byte> bytes);
  std::span<const std::byte> receive(Channel& channel, size_t size, size_t bytes);
  void receiveAddends(size_t size, std::span<int64_t> values);
  void armTimeouts();
  std::string lateText() const;
  void shutdownAll() noexcept;

  std::shared_ptr<gloo::transport::Device> device_;
  std::shared_ptr<gloo::transport::Context> context_;
  std::vector<SocketHandle> sockets_;
  std::vector<Peer> peers_;  // the buffers in it must go before the context's pairs
  Call call_;
  int64_t sequence_ = 0;
  std::chrono::nanoseconds armedTimeout_{0};
  std::atomic<bool> started_{false};
  std::atomic<bool> aborted_{false};
};

}  // namespace hels
