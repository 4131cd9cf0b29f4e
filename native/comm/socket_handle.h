// A second descriptor of a socket that a library owns and hides: what it does to the connection holds for the library's
// own descriptor, and the number cannot be reused for something else while this object lives.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstddef>

namespace hels {

class SocketHandle {
 public:
  /// The connected socket of this process whose own end is `local`. Throws kPeerLost when there is none (any more).
  static SocketHandle ofConnection(const sockaddr_storage& local);
  ~SocketHandle();
  SocketHandle(SocketHandle&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  SocketHandle(const SocketHandle&) = delete;
  SocketHandle& operator=(const SocketHandle&) = delete;
  SocketHandle& operator=(SocketHandle&&) = delete;

  /// Longest wait of one blocking read or write from now on; above 0.
  void setTimeout(std::chrono::nanoseconds timeout) const;
  /// Asks for a send buffer of `bytes`. Throws kInternal naming the kernel's limit when it holds less than `needed`.
  void setSendBuffer(int bytes, size_t needed) const;
  /// The peer has closed its end, or the connection broke, and nothing is left to read. Does not wait.
  bool isClosedByPeer() const noexcept;
  /// Blocked calls return, here and at the peer. Idempotent, from any thread.
  void shutdown() const noexcept;

 private:
  explicit SocketHandle(int descriptor) : descriptor_(descriptor) {}
  bool isConnectionAt(const sockaddr_storage& local) const;

  int descriptor_;
};

}  // namespace hels
