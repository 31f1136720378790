// The bodies of test_peer.h: named so that only the test program compiles them.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "net/http1_response.h"
#include "net/test_peer.h"

namespace ashlar::net {

Peer::Peer(int port, bool v6) : fd_(::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0)) {
  const timeval limit{.tv_sec = 10, .tv_usec = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  sockaddr_in v4{
      .sin_family = AF_INET, .sin_port = htons(static_cast<std::uint16_t>(port)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  sockaddr_in6 six{.sin6_family = AF_INET6,
                   .sin6_port = htons(static_cast<std::uint16_t>(port)),
                   .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  const int failed = v6 ? ::connect(fd_, reinterpret_cast<sockaddr*>(&six), sizeof six)
                        : ::connect(fd_, reinterpret_cast<sockaddr*>(&v4), sizeof v4);
  EXPECT_EQ(failed, 0) << "cannot connect to port " << port;
}

Peer::Peer(Peer&& other) noexcept : fd_(std::exchange(other.fd_, -1)), ahead_(std::move(other.ahead_)) {}

Peer::~Peer() { close(); }

bool Peer::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

std::string Peer::receive() {
  if (!ahead_.empty()) return std::exchange(ahead_, {});
  std::string bytes(64 << 10, '\0');
  const ssize_t got = ::recv(fd_, bytes.data(), bytes.size(), 0);
  failed_ = got < 0;
  bytes.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return bytes;
}

std::string Peer::read_until(std::string_view mark) {
  std::string all;
  while (true) {
    const std::size_t found = mark.empty() ? all.npos : all.find(mark);
    if (found != all.npos) {
      ahead_.insert(0, all.substr(found + mark.size()));
      all.resize(found + mark.size());
      return all;
    }
    const std::string more = receive();
    if (more.empty()) return all;
    all.append(more);
  }
}

FakeProxy::FakeProxy(std::string authorization, int status)
    : authorization_(std::move(authorization)), status_(status), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::listen(listener_, 10), 0);
  ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  accepting_ = std::jthread([this] {
    for (int client; (client = ::accept(listener_, nullptr, nullptr)) >= 0;) {
      {
        const std::lock_guard lock(mutex_);
        clients_.push_back(client);
      }
      threads_.emplace_back([this, client] { serve(client); });
    }
  });
}

FakeProxy::~FakeProxy() {
  ::shutdown(listener_, SHUT_RDWR);
  accepting_.join();
  for (const int client : clients_) ::shutdown(client, SHUT_RDWR);
  threads_.clear();
  for (const int client : clients_) ::close(client);
  ::close(listener_);
}

std::vector<std::string> FakeProxy::heads() {
  const std::lock_guard lock(mutex_);
  return heads_;
}

void FakeProxy::serve(int client) {
  std::string seen;
  char bytes[16 << 10];
  const auto read_from = [&](int fd) { return ::recv(fd, bytes, sizeof bytes, 0); };
  while (seen.find("\r\n\r\n") == seen.npos) {
    const ssize_t got = read_from(client);
    if (got <= 0) return;
    seen.append(bytes, static_cast<std::size_t>(got));
  }
  {
    const std::lock_guard lock(mutex_);
    heads_.push_back(seen.substr(0, seen.find("\r\n\r\n") + 2));
  }
  const bool tunnel = seen.starts_with("CONNECT ");
  const bool known =
      authorization_.empty() || seen.find("proxy-authorization: " + authorization_ + "\r\n") != seen.npos;
  const auto say = [&](std::string_view text) { ::send(client, text.data(), text.size(), MSG_NOSIGNAL); };
  if (!known) say("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 4\r\n\r\nwho?");
  if (tunnel && known && status_ >= 100 && status_ != 200) say("HTTP/1.1 " + std::to_string(status_) + " No\r\n\r\n");
  if (!known || (tunnel && status_ != 200)) {
    ::shutdown(client, SHUT_RDWR);
    return;
  }
  // "CONNECT host:port" or "GET http://host:port/".
  const std::size_t colon = seen.find(':', tunnel ? 0 : seen.find("://") + 3);
  Peer server(std::atoi(seen.c_str() + colon + 1));
  if (tunnel)
    say("HTTP/1.1 200 Connection established\r\n\r\n");
  else
    server.send(seen);
  const auto carry = [](int from, int to) {
    char piece[16 << 10];
    for (ssize_t got; (got = ::recv(from, piece, sizeof piece, 0)) > 0;)
      if (::send(to, piece, static_cast<std::size_t>(got), MSG_NOSIGNAL) != got) break;
    ::shutdown(to, SHUT_RDWR);
    ::shutdown(from, SHUT_RDWR);
  };
  const std::jthread back([&] { carry(server.fd(), client); });
  carry(client, server.fd());
}

Reply Peer::read_reply(std::string_view method) {
  Reply reply;
  ResponseReader reader(method, 1_MiB, 1_GiB);
  const ResponseReader::Events events{.head =
                                          [&](ResponseHead&& head) {
                                            reply.status = head.status;
                                            reply.headers = std::move(head.headers);
                                          },
                                      .content = [&](std::string_view piece) { reply.body.append(piece); }};
  while (!reader.done()) {
    const std::string bytes = receive();
    if (bytes.empty()) {
      reply.whole = reader.read_end().has_value();
      return reply;
    }
    std::string_view rest = bytes;
    const Status read = reader.read(rest, events);
    EXPECT_TRUE(read) << read.error().message << "\n" << bytes;
    if (!read) return reply;
    ahead_ = rest;
  }
  reply.whole = true;
  return reply;
}

void Peer::end_output() { ::shutdown(fd_, SHUT_WR); }

void Peer::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

std::unique_ptr<HttpServer> serve(Handler handler, ServerOptions options) {
  options.port = 0;
  auto server = HttpServer::listen(options, std::move(handler));
  if (!server) {
    ADD_FAILURE() << server.error().message;
    std::abort();
  }
  return std::move(*server);
}

void echo(const std::shared_ptr<Exchange>& exchange) {
  const HttpRequest& request = exchange->request();
  exchange->respond(200, {{"content-type", "text/plain"}},
                    request.method + " " + request.path + "?" + request.query + " " + request.body);
}

class MemoryConnection::Door final : public AnswerDoor {
 public:
  void send(AnswerPart part) override { parts.push_back(std::move(part)); }
  void run(std::function<void()> task) override { task(); }
  std::vector<AnswerPart> parts;
};

MemoryConnection::MemoryConnection(Handler handler, bool http2, ServerOptions options)
    : options_(std::move(options)),
      handler_(std::move(handler)),
      door_(std::make_shared<Door>()),
      home_{.options = options_, .handler = handler_, .bodies = bodies_, .door = door_, .peer = "memory", .out = out_},
      protocol_(http2 ? make_http2(home_) : make_http1(home_)) {}

std::string MemoryConnection::feed(std::string_view bytes) {
  if (!bytes.empty()) protocol_->receive(bytes);
  std::string sent;
  while (true) {
    for (AnswerPart& part : std::exchange(door_->parts, {})) protocol_->answer(std::move(part));
    protocol_->fill(64 << 10);
    if (out_.empty() && door_->parts.empty()) return sent;
    while (!out_.empty()) {
      sent.append(out_.front());
      out_.consume(out_.front().size());
    }
  }
}

}  // namespace ashlar::net
