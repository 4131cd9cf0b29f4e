#include "comm/socket_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace hels {
namespace {

const sockaddr* generic(const sockaddr_storage& address) { return reinterpret_cast<const sockaddr*>(&address); }

[[noreturn]] void refuse(const std::string& text) {
  throw Error(ErrorCode::kShapeInvalid,
              "'" + text + "' is not an address; it must look like 10.0.0.1:4711 or [fe80::1]:4711");
}

uint16_t parsePort(const std::string& text, size_t begin) {
  uint16_t port = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data() + begin, last, port);
  if (error != std::errc() || end != last || port == 0) refuse(text);
  return port;
}

bool canBind(const addrinfo& candidate) {
  const int descriptor = ::socket(candidate.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return false;
  const bool bound = ::bind(descriptor, candidate.ai_addr, candidate.ai_addrlen) == 0;
  ::close(descriptor);
  return bound;
}

}  // namespace

socklen_t socketAddressBytes(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

std::string socketAddressText(const sockaddr_storage& address) {
  std::array<char, NI_MAXHOST> host = {};
  std::array<char, NI_MAXSERV> port = {};
  const int error = ::getnameinfo(generic(address), socketAddressBytes(address), host.data(), host.size(), port.data(),
                                  port.size(), NI_NUMERICHOST | NI_NUMERICSERV);
  require(error == 0, ErrorCode::kInternal, std::string("cannot print an address: ") + ::gai_strerror(error));
  const bool ipv6 = address.ss_family == AF_INET6;
  return (ipv6 ? "[" : "") + std::string(host.data()) + (ipv6 ? "]:" : ":") + port.data();
}

sockaddr_storage parseSocketAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon < 2) refuse(text);
  const bool ipv6 = text.front() == '[' && text[colon - 1] == ']';
  const std::string host = ipv6 ? text.substr(1, colon - 2) : text.substr(0, colon);
  addrinfo hints = {};
  hints.ai_family = ipv6 ? AF_INET6 : AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* found = nullptr;
  // Not inet_pton: a link-local IPv6 address carries its interface ("fe80::1%eth0").
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) refuse(text);
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  sockaddr_storage address = {};
  std::memcpy(&address, found->ai_addr, found->ai_addrlen);
  const uint16_t port = htons(parsePort(text, colon + 1));
  if (ipv6) {
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = port;
  } else {
    reinterpret_cast<sockaddr_in&>(address).sin_port = port;
  }
  return address;
}

std::string bindableAddress(const std::string& hostname) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(hostname.c_str(), nullptr, &hints, &found);
  require(error == 0, ErrorCode::kShapeInvalid,
          "hostname '" + hostname + "' cannot be resolved: " + ::gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  for (const addrinfo* candidate = found; candidate != nullptr; candidate = candidate->ai_next) {
    if (!canBind(*candidate)) continue;
    std::array<char, NI_MAXHOST> host = {};
    if (::getnameinfo(candidate->ai_addr, candidate->ai_addrlen, host.data(), host.size(), nullptr, 0,
                      NI_NUMERICHOST) == 0) {
      return host.data();
    }
  }
  throw Error(ErrorCode::kShapeInvalid,
              "hostname '" + hostname +
                  "' is not an address of this host; give a name or IP address that the other ranks can reach it by");
}

}  // namespace hels
