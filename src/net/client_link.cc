#include "net/client_link.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <exception>
#include <utility>

#include "net/client_pool.h"

namespace ashlar::net {

namespace asio = boost::asio;

namespace {
constexpr std::size_t kFill = 64 << 10;
}  // namespace

ClientLink::ClientLink(ClientPool& pool, std::string key)
    : pool_(pool), key_(std::move(key)), deadline_(pool.thread.deadlines, [this] { expire(); }) {}

const ClientOptions& ClientLink::options() const { return pool_.options; }

// Lets the protocol act, then sends what it says.
void ClientLink::act(FunctionRef<void()> what) {
  if (acting_) return what();
  const auto self = shared_from_this();
  acting_ = true;
  try {
    what();
    acting_ = false;
    pump();
  } catch (const std::exception&) {  // memory ran out, most likely; nobody would ask this connection again
    acting_ = false;
    close({Code::unavailable, fmt::format("There was no memory for the connection to {}.", key_)});
  }
}

bool ClientLink::offers_http2() const { return task_->url.tls && options().http2 != Http2::off && !task_->http1; }

void ClientLink::connect(std::shared_ptr<ClientTask> task) {
  task_ = std::move(task);
  task_->link = weak_from_this();
  connect_until_ = Clock::now() + task_->connect_timeout(options());
  set_deadline();
  const std::string& host = proxy() != nullptr                ? proxy()->host
                            : !task_->request.address.empty() ? task_->request.address
                                                              : task_->url.host;
  const int port = proxy() != nullptr ? proxy()->port : task_->url.port;
  boost::system::error_code is_a_name;
  const auto address = asio::ip::make_address(host, is_a_name);
  if (!is_a_name) {
    const Tcp::endpoint endpoint(address, static_cast<std::uint16_t>(port));
    return connect_to(Resolver::results_type::create(endpoint, host, ""));
  }
  resolver_.emplace(pool_.thread.io);
  resolver_->async_resolve(
      host, fmt::format("{}", port), Resolver::numeric_service,
      [self = shared_from_this(), host](const boost::system::error_code& failed, const Resolver::results_type& found) {
        if (self->closed_) return;
        self->resolver_.reset();
        if (failed)
          self->close(
              {Code::unavailable, fmt::format("Cannot find the {} '{}': {}.",
                                              self->proxy() != nullptr ? "proxy" : "host", host, failed.message())});
        else
          self->connect_to(found);
      });
}

void ClientLink::connect_to(const Resolver::results_type& found) {
  std::vector<Tcp::endpoint> endpoints;
  Status refused;
  for (const auto& each : found) {
    const auto& admit = task_->request.admit;
    Status admitted = admit && proxy() == nullptr ? admit(each.endpoint().address().to_string()) : Status();
    if (admitted)
      endpoints.push_back(each.endpoint());
    else
      refused = std::move(admitted);
  }
  if (endpoints.empty() && !refused) return close(std::move(refused).error());
  connect_to(std::move(endpoints));
}

void ClientLink::connect_to(std::vector<Tcp::endpoint> endpoints) {
  connecting_.emplace(pool_.thread.io);
  asio::async_connect(*connecting_, endpoints,
                      [self = shared_from_this()](const boost::system::error_code& failed, const Tcp::endpoint& to) {
                        if (self->closed_) return;
                        if (failed)
                          return self->close({Code::unavailable, fmt::format("Cannot connect to {}: {}.",
                                                                             self->proxy() != nullptr
                                                                                 ? "the proxy " + self->proxy()->shown()
                                                                                 : self->task_->url.authority(),
                                                                             failed.message())});
                        Socket socket = std::move(*self->connecting_);
                        self->connecting_.reset();
                        self->task_->connected(to.address().to_string());
                        if (self->closed_) return;
                        self->connected(std::move(socket));
                      });
}

void ClientLink::connected(Socket socket) {
  boost::system::error_code ignored;
  socket.native_non_blocking(true, ignored);
  const bool tls = task_->url.tls, tunnel = tls && proxy() != nullptr;
  channel_ = std::make_unique<Channel>(
      pool_.thread, std::move(socket),
      tls && !tunnel ? TlsSession::connect(pool_.tls, task_->url.host, offers_http2()) : nullptr);
  if (!tls) return act([this] { ready(); });
  if (tunnel) ask_for_tunnel();
  pump();
}

// RFC 9110, 9.3.6.
void ClientLink::ask_for_tunnel() {
  const Url& url = task_->url;
  const std::string host = url.host.find(':') == url.host.npos ? url.host : "[" + url.host + "]";
  const std::string to = fmt::format("{}:{}", host, url.port);
  std::string head = fmt::format("CONNECT {} HTTP/1.1\r\nhost: {}\r\n", to, to);
  if (const std::string& who = proxy()->authorization; !who.empty())
    head.append("proxy-authorization: ").append(who).append("\r\n");
  channel_->out().append(head + "\r\n");
  tunnel_.emplace("HEAD", options().max_header, options().max_body);  // an answer without a body
}

// False: reading stops for now, or the connection is closed.
bool ClientLink::answered_by_proxy(std::string_view bytes) {
  int status = 0;
  const ResponseReader::Events events{.head = [&](ResponseHead&& head) { status = head.status; }, .content = {}};
  if (Status read = tunnel_->read(bytes, events); !read) {
    close({read.error().code, fmt::format("The proxy {}: {}", proxy()->shown(), read.error().message)});
    return false;
  }
  if (!tunnel_->done()) return true;
  if (status < 200 || status > 299) {
    close(refused_by(*proxy(), task_->url, status));
  } else if (!bytes.empty() || !channel_->all_sent()) {
    close(
        {Code::corrupt, fmt::format("The proxy {} sent more than an answer to what it was asked.", proxy()->shown())});
  } else {
    tunnel_.reset();
    channel_->start_tls(TlsSession::connect(pool_.tls, task_->url.host, offers_http2()));
  }
  return false;
}

// The connection is made.
void ClientLink::ready() {
  const bool agreed = channel_->tls() != nullptr && channel_->tls()->protocol() == "h2";
  const bool known = !task_->url.tls && proxy() == nullptr && options().http2 == Http2::always && !task_->http1;
  connect_until_ = kNever;
  protocol_ = agreed || known ? make_client_http2(*this) : make_client_http1(*this);
  protocol_->serve(std::exchange(task_, nullptr));
  pool_.made(shared_from_this(), agreed || known);
}

void ClientLink::serve(std::shared_ptr<ClientTask> task) {
  task->link = weak_from_this();
  act([&] { protocol_->serve(std::move(task)); });
}

void ClientLink::cancel(const ClientTask& task) {
  if (task_.get() == &task) return close({Code::cancelled, "The call was dropped."});
  if (protocol_) act([&] { protocol_->cancel(task); });
}

bool ClientLink::offer() { return pool_.offer(shared_from_this()); }

void ClientLink::ask_again(std::shared_ptr<ClientTask> task) {
  ++task->repeats;
  task->not_before = Clock::now();
  pool_.start(std::move(task));
}

void ClientLink::ask_in_http1(std::shared_ptr<ClientTask> task) {
  pool_.speak_http1(key_);
  pool_.start(std::move(task));
}

void ClientLink::readable() {
  act([this] {
    const auto input = channel_->read([this](std::string_view bytes) { return received(bytes); });
    if (!closed_ && input != Channel::Input::open) ended(input);
  });
}

// False: the connection is closed, or not to be read for now.
bool ClientLink::received(std::string_view bytes) {
  if (tunnel_) return answered_by_proxy(bytes);
  if (!protocol_) ready();
  protocol_->receive(bytes);
  return !closed_;
}

void ClientLink::ended(Channel::Input how) {
  if (how == Channel::Input::refused)
    return close({Code::unavailable, fmt::format("TLS with {} failed: {}.", key_, channel_->tls()->error())});
  if (protocol_) return protocol_->receive_end();
  if (tunnel_)
    return close(
        {Code::unavailable, fmt::format("The proxy {} closed the connection before it answered.", proxy()->shown())});
  close({Code::unavailable, fmt::format("{} closed the connection before the TLS handshake was done.", key_)});
}

void ClientLink::pump() {
  if (acting_ || closed_ || !channel_) return;
  acting_ = true;
  auto sent = Channel::Sent::some;
  while (sent == Channel::Sent::some && !closed_) {
    if (protocol_) protocol_->fill(kFill);
    sent = channel_->send();
  }
  acting_ = false;
  if (closed_) return;
  if (sent == Channel::Sent::blocked) channel_->wait_write(shared_from_this());
  // Lost: an answer may still be there to be read; reading tells the end as well.
  channel_->wait_read(shared_from_this());
  set_deadline();
}

void ClientLink::set_deadline() {
  deadline_.set(protocol_ ? protocol_->deadline() : std::min(connect_until_, task_ ? task_->until : kNever));
}

void ClientLink::expire() {
  const auto self = shared_from_this();
  if (protocol_) return act([this] { protocol_->expire(Clock::now()); });
  if (Clock::now() >= task_->until)
    return close({Code::deadline,
                  fmt::format("{} did not finish its answer within {} ms.", key_, task_->request.timeout.count())});
  const std::string by_proxy = proxy() != nullptr ? " by the proxy " + proxy()->shown() : "";
  close({Code::unavailable, fmt::format("{} could not be reached{} within {} ms.", key_, by_proxy,
                                        task_->connect_timeout(options()).count())});
}

void ClientLink::close(Error why) {
  if (std::exchange(closed_, true)) return;
  const auto self = shared_from_this();
  deadline_.set(kNever);
  if (resolver_) resolver_->cancel();
  boost::system::error_code ignored;
  if (connecting_) connecting_->close(ignored);
  if (channel_) channel_->close(false);
  pool_.forget(self, why);
  if (protocol_) protocol_->end(why);
  if (const auto task = std::exchange(task_, nullptr)) task->done(std::unexpected(std::move(why)));
}

}  // namespace ashlar::net
