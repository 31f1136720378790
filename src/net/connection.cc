#include "net/connection.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "net/http_text.h"
#include "net/traffic.h"

namespace ashlar::net {
namespace {

constexpr std::size_t kFill = 64 << 10;     // sealed or framed ahead of the socket
constexpr int kReadsInARow = 4;             // then the others have their turn
constexpr std::chrono::seconds kLinger{2};  // for the client to read our last words

// Carries answers to a connection's thread: however many parts come between two
// turns of the thread, they make one task and one flush.
class Door final : public AnswerDoor, public std::enable_shared_from_this<Door> {
 public:
  Door(std::shared_ptr<IoThread> thread, std::weak_ptr<Connection> connection)
      : thread_(std::move(thread)), connection_(std::move(connection)) {}

  void send(AnswerPart part) override {
    {
      std::lock_guard lock(mutex_);
      parts_.push_back(std::move(part));
      if (parts_.size() > 1) return;
    }
    boost::asio::post(thread_->io, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->deliver();
    });
  }

  void run(std::function<void()> task) override { thread_->run(std::move(task)); }

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

}  // namespace

void IoThread::run(std::function<void()> task) {
  {
    std::lock_guard lock(mutex);
    if (!stopped) {
      boost::asio::post(io, std::move(task));
      return;
    }
  }
  task();
}

Connection::Connection(ServerShared& shared, std::shared_ptr<IoThread> thread, int fd, bool v6, std::string peer)
    : shared_(shared),
      thread_(std::move(thread)),
      socket_(thread_->io, v6 ? boost::asio::ip::tcp::v6() : boost::asio::ip::tcp::v4(), fd),
      home_{.options = shared.options,
            .handler = shared.handler,
            .peer = std::move(peer),
            .tls = shared.tls != nullptr,
            .out = out_},
      deadline_(thread_->deadlines, [this] { expire(); }),
      own_deadline_(Clock::now() + shared.options.header_timeout) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (shared.tls) tls_ = TlsSession::accept(shared.tls);
  traffic().connections.add(1);
}

Connection::~Connection() { traffic().connections.add(-1); }

void Connection::start() {
  home_.door = std::make_shared<Door>(thread_, weak_from_this());
  pump();
}

void Connection::wait_read() {
  if (reading_ || input_ended_ || !wants_input()) return;
  reading_ = true;
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](const boost::system::error_code& error) {
    self->reading_ = false;
    if (!error && self->state_ != State::closed) self->read_some();
  });
}

void Connection::wait_write() {
  if (writing_) return;
  writing_ = true;
  socket_.async_wait(Socket::wait_write, [self = shared_from_this()](const boost::system::error_code& error) {
    self->writing_ = false;
    if (!error && self->state_ != State::closed) self->pump();
  });
}

bool Connection::wants_input() const { return !protocol_ || protocol_->wants_input(); }

void Connection::read_some() {
  for (int i = 0; i < kReadsInARow && wants_input(); ++i) {
    const ssize_t got = ::recv(socket_.native_handle(), thread_->scratch.get(), IoThread::kScratch, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (got < 0) return drop(false);
    if (got == 0) {
      received_end();
      break;
    }
    if (!received({thread_->scratch.get(), static_cast<std::size_t>(got)})) break;
    if (static_cast<std::size_t>(got) < IoThread::kScratch) break;
  }
  if (state_ != State::closed) pump();
}

// False: the connection is ending; no use in reading more now.
bool Connection::received(std::string_view bytes) {
  if (state_ != State::open) return true;  // last words are out; the rest is thrown away
  if (!tls_) return received_plain(bytes);
  if (!tls_->ready() && bytes[0] != 0x16 && !protocol_ && first_.empty() && bytes[0] >= 'A' && bytes[0] <= 'Z') {
    refuse_plain_http();
    return false;
  }
  std::string& plain = thread_->plain;
  plain.clear();
  if (!tls_->receive(bytes, plain)) {
    log::debug("tls_refused", {{"peer", home_.peer}, {"why", tls_->error()}});
    if (protocol_) protocol_->lost();
    protocol_.reset();
    seal();  // the alert
    send_once();
    drop(false);
    return false;
  }
  if (!protocol_ && tls_->ready()) {
    own_deadline_ = Clock::now() + shared_.options.header_timeout;
    if (tls_->protocol() == "h2")
      protocol_ = make_http2(home_);
    else if (tls_->protocol() == "http/1.1")
      protocol_ = make_http1(home_);
  }
  const bool go_on = plain.empty() || received_plain(plain);
  if (plain.capacity() > 4 * IoThread::kScratch) std::string().swap(plain);
  if (go_on && tls_->ended()) received_end();
  return go_on && !input_ended_;
}

bool Connection::received_plain(std::string_view bytes) {
  if (!protocol_) {
    first_.append(bytes);
    if (first_.size() < kHttp2Preface.size() && kHttp2Preface.starts_with(first_)) return true;
    protocol_ = first_.starts_with(kHttp2Preface) ? make_http2(home_) : make_http1(home_);
    if (draining_) protocol_->drain();
    const std::string first = std::exchange(first_, {});
    protocol_->receive(first);
  } else {
    protocol_->receive(bytes);
  }
  return protocol_->fate() == Protocol::Fate::open;
}

void Connection::received_end() {
  input_ended_ = true;
  if (state_ == State::open && protocol_)
    protocol_->receive_end();
  else
    drop(false);
}

// Somebody typed http:// for https://.
void Connection::refuse_plain_http() {
  tls_.reset();
  home_.tls = false;
  protocol_ = make_http1(home_);
  protocol_->drain();
  const std::string body = error_body(400, "This port speaks TLS: use https:// instead of http://.");
  out_.append(fmt::format(
      "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}",
      body.size(), body));
}

void Connection::apply(std::vector<AnswerPart> parts) {
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
  if (state_ != State::closed) pump();
}

// Sends what there is, and sees to what comes next.
void Connection::pump() {
  while (state_ != State::closed) {
    if (protocol_) protocol_->fill(kFill);
    if (tls_) seal();
    if (protocol_ && protocol_->fate() == Protocol::Fate::reset) return drop(true);
    if (nothing_to_send()) break;
    if (!send_once()) break;
  }
  if (state_ == State::closed) return;
  if (state_ == State::open && protocol_ && protocol_->fate() == Protocol::Fate::close && nothing_to_send()) linger();
  if (state_ == State::closed) return;
  wait_read();
  const TimePoint other = protocol_ && state_ == State::open ? protocol_->deadline() : own_deadline_;
  deadline_.set(std::min(write_deadline_, other));
}

// Plain bytes into sealed ones, a little ahead of the socket.
void Connection::seal() {
  while (sealed_.size() + tls_->sealed().size() < kFill && !out_.empty()) {
    const std::size_t done = tls_->send(out_.front());
    if (done == 0) break;
    out_.consume(done);
  }
  if (!tls_->sealed().empty()) sealed_.take(std::exchange(tls_->sealed(), {}));
}

// False: the socket takes no more for now, or is lost.
bool Connection::send_once() {
  Outbox& from = tls_ ? sealed_ : out_;
  if (from.empty()) return false;  // plain bytes that wait for the handshake
  std::array<iovec, 16> pieces;
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = static_cast<std::size_t>(from.gather(pieces));
  const ssize_t sent = ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent > 0) {
    from.consume(static_cast<std::size_t>(sent));
    write_deadline_ = kNever;
    return true;
  }
  if (errno == EINTR) return true;
  if (errno != EAGAIN) {
    drop(false);
    return false;
  }
  if (write_deadline_ == kNever) write_deadline_ = Clock::now() + shared_.options.write_timeout;
  wait_write();
  return false;
}

// All is said. Closing now could make the kernel throw away what the client has
// not read yet, if it has sent more than we read: so only our side closes, and
// the client's has a moment to follow.
void Connection::linger() {
  protocol_->lost();
  protocol_.reset();
  if (input_ended_) return drop(false);
  if (tls_) {
    tls_->close();
    seal();
    send_once();
    if (state_ == State::closed) return;
  }
  ::shutdown(socket_.native_handle(), SHUT_WR);
  state_ = State::lingering;
  own_deadline_ = Clock::now() + kLinger;
  write_deadline_ = kNever;
  if (shared_.on_close) shared_.on_close();
}

void Connection::expire() {
  const auto self = shared_from_this();
  const TimePoint now = Clock::now();
  if (now >= write_deadline_) return drop(true);
  if (state_ != State::open || !protocol_) return drop(false);
  protocol_->expire(now);
  pump();
}

void Connection::drain() {
  draining_ = true;
  if (state_ != State::open) return;
  if (!input_ended_) read_some();  // a request may have arrived already
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
  out_ = {};
  sealed_ = {};
  tls_.reset();
  deadline_.set(kNever);
  if (reset) {
    const ::linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }
  boost::system::error_code ignored;
  socket_.close(ignored);
  thread_->connections.erase(self);
  shared_.connections.fetch_sub(1);
  if (shared_.on_close) shared_.on_close();
}

}  // namespace ashlar::net
