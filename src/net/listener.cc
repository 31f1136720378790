#include "net/listener.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace ashlar::net {
namespace {

constexpr int kBacklog = 4096;

Error bind_error(const std::string& host, int port, int why) {
  const std::string at =
      host.find(':') == host.npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
  switch (why) {
    case EADDRINUSE:
      return {Code::io, fmt::format("{} is already in use: stop the program that listens there, or choose another port "
                                    "with --port (0 takes a free one).",
                                    at)};
    case EACCES:
      return {Code::io, fmt::format("{} may not be bound: ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a "
                                    "higher one with --port.",
                                    at)};
    case EADDRNOTAVAIL:
      return {Code::io, fmt::format("{} is not an address of this machine: use 127.0.0.1 for this machine alone or "
                                    "0.0.0.0 for every network it is on (--host).",
                                    host)};
    default:
      return {Code::io, fmt::format("Cannot listen on {}: {}.", at, std::strerror(why))};
  }
}

// errno in the error's place, for the caller to judge.
std::expected<ListeningSocket, int> open_one(const addrinfo& address, int port) {
  const bool v6 = address.ai_family == AF_INET6;
  ListeningSocket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP), v6);
  if (socket.fd() < 0) return std::unexpected(errno);
  sockaddr_storage bound{};
  std::memcpy(&bound, address.ai_addr, address.ai_addrlen);
  if (v6)
    reinterpret_cast<sockaddr_in6&>(bound).sin6_port = htons(static_cast<std::uint16_t>(port));
  else
    reinterpret_cast<sockaddr_in&>(bound).sin_port = htons(static_cast<std::uint16_t>(port));
  const int on = 1, off = 0;
  ::setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (v6) ::setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (::bind(socket.fd(), reinterpret_cast<const sockaddr*>(&bound), address.ai_addrlen) != 0)
    return std::unexpected(errno);
  if (::listen(socket.fd(), kBacklog) != 0) return std::unexpected(errno);
  return socket;
}

}  // namespace

ListeningSocket::ListeningSocket(ListeningSocket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), v6_(other.v6_) {}

ListeningSocket::~ListeningSocket() {
  if (fd_ >= 0) ::close(fd_);
}

int ListeningSocket::port() const {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  ::getsockname(fd_, reinterpret_cast<sockaddr*>(&bound), &size);
  return ntohs(v6_ ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

Result<std::vector<ListeningSocket>> listen_on(const std::string& host, int port) {
  if (port < 0 || port > 65535) return Error{Code::invalid, fmt::format("port {} is not between 0 and 65535.", port)};
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string bare = host.starts_with('[') && host.ends_with(']') ? host.substr(1, host.size() - 2) : host;
  if (const int failed = ::getaddrinfo(bare.c_str(), nullptr, &hints, &found); failed != 0)
    return Error{Code::invalid,
                 fmt::format("'{}' is not an address or name to listen on: {}.", host, ::gai_strerror(failed))};
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);

  std::vector<ListeningSocket> sockets;
  int last_error = 0;
  for (const addrinfo* address = found; address; address = address->ai_next) {
    auto socket = open_one(*address, sockets.empty() ? port : sockets.front().port());
    if (socket)
      sockets.push_back(std::move(*socket));
    else if (socket.error() == EADDRINUSE && port != 0)
      return bind_error(bare, port, EADDRINUSE);
    else
      last_error = socket.error();  // a name may have addresses that this machine lacks
  }
  if (sockets.empty()) return bind_error(bare, port, last_error);
  return sockets;
}

std::string peer_name(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET6) {
    const auto& v6 = *reinterpret_cast<const sockaddr_in6*>(address);
    // A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d.
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
      ::inet_ntop(AF_INET, v6.sin6_addr.s6_addr + 12, text, sizeof text);
      return fmt::format("{}:{}", text, ntohs(v6.sin6_port));
    }
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    return fmt::format("[{}]:{}", text, ntohs(v6.sin6_port));
  }
  const auto& v4 = *reinterpret_cast<const sockaddr_in*>(address);
  ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
  return fmt::format("{}:{}", text, ntohs(v4.sin_port));
}

void raise_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace ashlar::net
