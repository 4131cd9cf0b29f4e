#include "comm/socket_handle.h"

#include <fcntl.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <string>
#include <system_error>

#include "base/error.h"
#include "comm/socket_address.h"

namespace hels {

SocketHandle SocketHandle::ofConnection(const sockaddr_storage& local) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const std::string name = entry.path().filename().string();
    int descriptor = -1;
    std::from_chars(name.data(), name.data() + name.size(), descriptor);
    // Duplicated before it is looked at: another thread may close the descriptor and reuse its number at any time.
    const int duplicate = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (duplicate < 0) continue;
    SocketHandle handle(duplicate);
    if (handle.isConnectionAt(local)) return handle;
  }
  throw Error(ErrorCode::kPeerLost, "the connection at " + socketAddressText(local) + " is gone");
}

SocketHandle::~SocketHandle() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool SocketHandle::isConnectionAt(const sockaddr_storage& local) const {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  sockaddr_storage peer = {};
  socklen_t peerSize = sizeof(peer);
  return ::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
         address.ss_family == local.ss_family && socketAddressText(address) == socketAddressText(local) &&
         ::getpeername(descriptor_, reinterpret_cast<sockaddr*>(&peer), &peerSize) == 0;
}

void SocketHandle::setTimeout(std::chrono::nanoseconds timeout) const {
  // Rounded up: zero would mean to wait for ever.
  const auto whole = std::chrono::ceil<std::chrono::microseconds>(timeout).count();
  const timeval value{.tv_sec = whole / 1'000'000, .tv_usec = whole % 1'000'000};
  const bool set = ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof(value)) == 0 &&
                   ::setsockopt(descriptor_, SOL_SOCKET, SO_SNDTIMEO, &value, sizeof(value)) == 0;
  require(set, ErrorCode::kInternal, "cannot set a socket's timeout: " + std::generic_category().message(errno));
}

void SocketHandle::setSendBuffer(int bytes, size_t needed) const {
  int granted = 0;
  socklen_t size = sizeof(granted);
  const bool set = ::setsockopt(descriptor_, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)) == 0 &&
                   ::getsockopt(descriptor_, SOL_SOCKET, SO_SNDBUF, &granted, &size) == 0;
  require(set && static_cast<size_t>(granted) >= needed, ErrorCode::kInternal,
          "a socket's send buffer holds " + std::to_string(granted) + " bytes; " + std::to_string(needed) +
              " are needed: raise net.core.wmem_max to " + std::to_string(bytes));
}

bool SocketHandle::isClosedByPeer() const noexcept {
  char byte = 0;
  const ssize_t received = ::recv(descriptor_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return received == 0 || (received < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

void SocketHandle::shutdown() const noexcept { ::shutdown(descriptor_, SHUT_RDWR); }

}  // namespace hels
