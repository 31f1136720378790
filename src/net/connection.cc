#include "net/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <exception>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "net/http_text.h"
#include "net/traffic.h"

namespace ashlar::net {
namespace {

constexpr std::size_t kFill = 64 << 10;     // framed ahead of the socket
constexpr std::chrono::seconds kLinger{2};  // for the client to read our last words

// Carries answers to a connection's thread: however many parts come in a turn of the thread, or between two of them,
// they make one task and one flush.
class Door final : public AnswerDoor, public IoThread::PutOff, public std::enable_shared_from_this<Door> {
 public:
  Door(std::shared_ptr<IoThread> thread, std::weak_ptr<Connection> connection)
      : thread_(std::move(thread)), connection_(std::move(connection)) {}

  void send(AnswerPart part) override {
    {
      std::lock_guard lock(mutex_);
      parts_.push_back(std::move(part));
      if (parts_.size() > 1) return;
    }
    try {
      if (thread_->put_off(shared_from_this())) return;
      boost::asio::post(thread_->io, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->deliver();
      });
    } catch (const std::exception&) {
      std::lock_guard lock(mutex_);
      parts_.clear();  // whoever is told ends the exchange, of which the next part tells
      throw;
    }
  }

  void run(std::function<void()> task) override {
    if (!thread_->post(task)) task();
  }
  void turn_ends() override { deliver(); }
  bool later(std::function<void()> task) override { return thread_->is_this() && thread_->post(std::move(task)); }

 private:
  void deliver() {
    std::vector<AnswerPart> parts;
    {
      std::lock_guard lock(mutex_);
      parts.swap(parts_);
    }
    if (const auto connection = connection_.lock()) connection->apply(std::move(parts));
  }

  const std::shared_ptr<IoThread> thread_;
  const std::weak_ptr<Connection> connection_;
  std::mutex mutex_;
  std::vector<AnswerPart> parts_;  // GUARDED_BY(mutex_)
};

std::unique_ptr<TlsSession> accepted(std::shared_ptr<const TlsContext> tls) {
  return tls ? TlsSession::accept(std::move(tls)) : nullptr;
}

}  // namespace

Connection::Connection(ServerShared& shared, std::shared_ptr<ServerThread> thread, Socket socket, std::string peer)
    : shared_(shared),
      thread_(std::move(thread)),
      channel_(*thread_, std::move(socket), accepted(shared.tls())),
      home_{.options = shared.options,
            .handler = shared.handler,
            .bodies = shared.bodies,
            .peer = std::move(peer),
            .tls = channel_.tls() != nullptr,
            .out = channel_.out()},
      deadline_(thread_->deadlines, [this] { expire(); }),
      own_deadline_(Clock::now() + shared.options.header_timeout) {
  traffic().connections.add(1);
}

Connection::~Connection() { traffic().connections.add(-1); }

void Connection::start() {
  home_.door = std::make_shared<Door>(thread_, weak_from_this());
  pump();
}

// What throws, for want of memory most likely, costs this connection: left as it is, nobody would ever ask it again.
void Connection::guarded(FunctionRef<void()> act) {
  try {
    act();
  } catch (const std::exception&) {
    traffic().broken.add();
    drop(true);
  }
}

void Connection::readable() {
  guarded([this] { read(); });
}

void Connection::read() {
  switch (channel_.read([this](std::string_view bytes) { return received(bytes); })) {
    case Channel::Input::open:
      break;
    case Channel::Input::ended:
      input_ended();
      break;
    case Channel::Input::lost:
      return drop(false);
    case Channel::Input::refused:
      return tls_refused();
  }
  pump();
}

// False: no more for now.
bool Connection::received(std::string_view bytes) {
  if (state_ != State::open) return true;  // our last words are out; the rest is thrown away
  if (!protocol_)
    choose_protocol(bytes);
  else
    protocol_->receive(bytes);
  return !protocol_ || (protocol_->fate() == Protocol::Fate::open && protocol_->wants_input());
}

void Connection::choose_protocol(std::string_view bytes) {
  first_.append(bytes);
  const std::string_view agreed = channel_.tls() ? channel_.tls()->protocol() : "";
  if (channel_.tls() && !shared_.options.tls_client_ca.empty()) home_.peer_names = channel_.tls()->peer_names();
  if (agreed == "h2")
    protocol_ = make_http2(home_);
  else if (agreed == "http/1.1")
    protocol_ = make_http1(home_);
  else if (first_.size() < kHttp2Preface.size() && kHttp2Preface.starts_with(first_))
    return;
  else
    protocol_ = first_.starts_with(kHttp2Preface) ? make_http2(home_) : make_http1(home_);
  if (draining_) protocol_->drain();
  protocol_->receive(std::exchange(first_, {}));
}

void Connection::input_ended() {
  input_ended_ = true;
  if (state_ == State::open && protocol_)
    protocol_->receive_end();
  else
    drop(false);
}

void Connection::tls_refused() {
  log::debug("tls_refused", {{"peer", home_.peer}, {"why", channel_.tls()->error()}});
  if (protocol_ || channel_.tls()->error() != "http request") {
    channel_.send();  // the alert
    return drop(false);
  }
  // Somebody typed http:// for https://.
  channel_.drop_tls();
  const std::string body = error_body(400, "This port speaks TLS: use https:// instead of http://.");
  channel_.out().append(
      fmt::format("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: "
                  "close\r\n\r\n{}",
                  body.size(), body));
  channel_.send();
  linger();
  pump();
}

void Connection::apply(std::vector<AnswerPart> parts) {
  guarded([&] {
    std::size_t added = 0;
    for (AnswerPart& part : parts) {
      if (!protocol_) return;
      added += part.data.size();
      protocol_->answer(std::move(part));
      // What can leave now must not count as piled up for the next part.
      if (added >= kFill) {
        added = 0;
        pump();
      }
    }
    pump();
  });
}

// Sends what there is, and sees to what comes next.
void Connection::pump() {
  auto sent = Channel::Sent::some;
  while (sent == Channel::Sent::some && state_ != State::closed) {
    if (protocol_) protocol_->fill(kFill);
    if (protocol_ && protocol_->fate() == Protocol::Fate::reset) return drop(true);
    sent = channel_.send();
    if (sent == Channel::Sent::some) write_deadline_ = kNever;
  }
  if (state_ == State::closed) return;
  if (sent == Channel::Sent::lost) return drop(false);
  if (sent == Channel::Sent::blocked) {
    if (write_deadline_ == kNever) write_deadline_ = Clock::now() + shared_.options.write_timeout;
    channel_.wait_write(shared_from_this());
  }
  if (protocol_ && protocol_->fate() == Protocol::Fate::close && channel_.all_sent()) {
    if (input_ended_) return drop(false);
    linger();
  }
  if (wants_input()) channel_.wait_read(shared_from_this());
  deadline_.set(std::min(write_deadline_, protocol_ ? protocol_->deadline() : own_deadline_));
}

// All is said. Closing now could make the kernel throw away what the client has
// not read yet, if it has sent more than we read: so only our side closes, and
// the client's has a moment to follow.
void Connection::linger() {
  if (protocol_) protocol_->lost();
  protocol_.reset();
  channel_.end_output();
  state_ = State::lingering;
  own_deadline_ = Clock::now() + kLinger;
  write_deadline_ = kNever;
  if (shared_.on_close) shared_.on_close();
}

void Connection::expire() {
  const auto self = shared_from_this();
  const TimePoint now = Clock::now();
  if (now >= write_deadline_) return drop(true);
  if (!protocol_) return drop(false);
  guarded([&] {
    protocol_->expire(now);
    pump();
  });
}

void Connection::drain() {
  draining_ = true;
  if (state_ == State::open && wants_input()) readable();  // a request may have arrived already
  if (state_ != State::open) return;
  if (!protocol_ && first_.empty()) return drop(false);
  if (protocol_) protocol_->drain();
  pump();
}

void Connection::drop(bool reset) {
  if (state_ == State::closed) return;
  const auto self = shared_from_this();
  state_ = State::closed;
  if (protocol_) protocol_->lost();
  protocol_.reset();
  channel_.close(reset);
  deadline_.set(kNever);
  thread_->connections.erase(self);
  shared_.connections.fetch_sub(1);
  if (shared_.on_close) shared_.on_close();
}

}  // namespace ashlar::net
