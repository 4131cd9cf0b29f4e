// Socket addresses as text: "127.0.0.1:4711", "[fe80::1]:4711".
#pragma once

#include <sys/socket.h>

#include <string>

namespace hels {

/// Text of an IPv4 or IPv6 address and port.
std::string socketAddressText(const sockaddr_storage& address);

/// Parses the same text; throws kShapeInvalid naming it.
sockaddr_storage parseSocketAddress(const std::string& text);

/// Numeric text of the first IP address of `hostname` that this host can bind. Throws kShapeInvalid naming `hostname`.
std::string bindableAddress(const std::string& hostname);

/// Bytes of a sockaddr of this family.
socklen_t socketAddressBytes(const sockaddr_storage& address);

}  // namespace hels
