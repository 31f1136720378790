#include "net/channel.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

namespace ashlar::net {
namespace {
constexpr std::size_t kSealAhead = 64 << 10;
constexpr int kReadsInARow = 4;  // then the others have their turn
}  // namespace

Channel::Channel(IoThread& thread, Socket socket, std::unique_ptr<TlsSession> tls)
    : thread_(thread), socket_(std::move(socket)), tls_(std::move(tls)) {
  const int on = 1;
  ::setsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// Plain bytes into sealed ones, a little ahead of the socket.
void Channel::seal() {
  Marks marks;
  while (sealed_.size() + tls_->sealed().size() < kSealAhead && !out_.empty()) {
    const std::size_t done = tls_->send(out_.front());
    if (done == 0) break;
    out_.pass(done, marks);
  }
  if (!tls_->sealed().empty()) sealed_.take(std::exchange(tls_->sealed(), {}));
  sealed_.mark(std::move(marks));
}

Channel::Sent Channel::send() {
  if (tls_) seal();
  Outbox& from = sealed_.empty() && !tls_ ? out_ : sealed_;
  if (from.empty()) return Sent::nothing;
  std::array<iovec, 16> pieces;
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = static_cast<std::size_t>(from.gather(pieces));
  std::size_t handed = 0;
  for (std::size_t i = 0; i < message.msg_iovlen; ++i) handed += pieces[i].iov_len;
  from.announce(handed);
  const ssize_t sent = ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  const int why = errno;
  from.consume(sent > 0 ? static_cast<std::size_t>(sent) : 0);
  if (sent > 0 || why == EINTR) return Sent::some;
  return why == EAGAIN ? Sent::blocked : Sent::lost;
}

Channel::Input Channel::read(FunctionRef<bool(std::string_view)> sink) {
  for (int i = 0; i < kReadsInARow; ++i) {
    const ssize_t got = ::recv(socket_.native_handle(), thread_.scratch.get(), IoThread::kScratch, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? Input::open : Input::lost;
    if (got == 0) return Input::ended;
    const std::string_view bytes(thread_.scratch.get(), static_cast<std::size_t>(got));
    bool go_on = true;
    if (!tls_) {
      go_on = sink(bytes);
    } else {
      std::string& plain = thread_.plain;
      plain.clear();
      if (!tls_->receive(bytes, plain)) return Input::refused;
      if (tls_->ready()) go_on = sink(plain);
      if (go_on && tls_->ended()) return Input::ended;
    }
    if (!go_on || bytes.size() < IoThread::kScratch) break;
  }
  return Input::open;
}

void Channel::wait_read(std::shared_ptr<ChannelOwner> owner) {
  if (std::exchange(reading_, true)) return;
  socket_.async_wait(Socket::wait_read, [this, owner = std::move(owner)](const boost::system::error_code& error) {
    reading_ = false;
    if (error || !socket_.is_open()) return;
    const IoThread::Turn turn(thread_);
    owner->readable();
  });
}

void Channel::wait_write(std::shared_ptr<ChannelOwner> owner) {
  if (std::exchange(writing_, true)) return;
  socket_.async_wait(Socket::wait_write, [this, owner = std::move(owner)](const boost::system::error_code& error) {
    writing_ = false;
    if (error || !socket_.is_open()) return;
    const IoThread::Turn turn(thread_);
    owner->writable();
  });
}

void Channel::end_output() {
  if (tls_) {
    tls_->close();
    send();
  }
  ::shutdown(socket_.native_handle(), SHUT_WR);
}

void Channel::close(bool reset) {
  out_ = {};
  sealed_ = {};
  tls_.reset();
  if (reset) {
    const ::linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }
  boost::system::error_code ignored;
  socket_.close(ignored);
}

}  // namespace ashlar::net
