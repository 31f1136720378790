#include "net/http_server.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <vector>

#include "base/cores.h"
#include "base/log.h"
#include "base/threads.h"
#include "net/connection.h"
#include "net/listener.h"

namespace ashlar::net {
namespace {

namespace asio = boost::asio;
using Acceptor = asio::basic_socket_acceptor<asio::ip::tcp, Executor>;

constexpr int kAcceptsInARow = 64;
constexpr std::chrono::milliseconds kAcceptPause{100};

// Null: the server is plain.
Result<std::shared_ptr<const TlsContext>> tls_of(const ServerOptions& options) {
  if (options.tls_cert.empty()) return nullptr;
  return TlsContext::server({.certificate = options.tls_cert, .key = options.tls_key, .ca = options.tls_client_ca},
                            options.tls_client_auth == "required");
}

// Accepts on one socket, on the first io thread, and deals connections out to all.
struct Entrance {
  Acceptor acceptor;
  asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, Executor> pause;
  bool v6;
};

class Server final : public HttpServer {
 public:
  Server(const ServerOptions& options, Handler handler, std::shared_ptr<const TlsContext> tls,
         std::vector<ListeningSocket> sockets);
  ~Server() override;

  int port() const override { return port_; }
  Status renew_tls() override;
  std::optional<std::chrono::system_clock::time_point> tls_until() const override {
    const auto tls = shared_.tls();
    return tls ? tls->until() : std::nullopt;
  }
  bool drain(std::chrono::milliseconds limit) override;

 private:
  void wait_accept(Entrance& entrance);
  void accept_some(Entrance& entrance);
  void rest(Entrance& entrance);
  void take(int fd, bool v6, std::string peer);
  void stop_accepting();

  ServerShared shared_;
  int port_ = 0;
  std::vector<std::shared_ptr<ServerThread>> threads_;
  std::vector<std::unique_ptr<Entrance>> entrances_;  // first io thread
  std::size_t next_ = 0;                              // first io thread
  bool accepting_ = true;                             // first io thread
  bool said_full_ = false;                            // first io thread

  std::atomic<bool> draining_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<std::uint64_t> closes_{0};  // during a drain; changes under mutex_
};

Server::Server(const ServerOptions& options, Handler handler, std::shared_ptr<const TlsContext> tls,
               std::vector<ListeningSocket> sockets)
    : shared_(options, std::move(handler)), port_(sockets.front().port()) {
  shared_.set_tls(std::move(tls));
  shared_.on_close = [this] {
    if (!draining_) return;
    std::lock_guard lock(mutex_);
    ++closes_;
    changed_.notify_all();
  };
  const int count = options.http_threads > 0 ? options.http_threads : std::max(1, available_cores() / 4);
  for (int i = 0; i < count; ++i) threads_.push_back(std::make_shared<ServerThread>());
  asio::io_context& first = threads_.front()->io;
  for (ListeningSocket& socket : sockets) {
    const auto protocol = socket.v6() ? asio::ip::tcp::v6() : asio::ip::tcp::v4();
    entrances_.push_back(std::make_unique<Entrance>(
        Entrance{Acceptor(first, protocol, socket.release()), decltype(Entrance::pause)(first), socket.v6()}));
  }
  const std::vector<int> cores = allowed_cores();
  const bool pinned = options.pin_http_threads && threads_.size() == cores.size();
  for (std::size_t i = 0; i < threads_.size(); ++i)
    threads_[i]->start("ashlar-net", pinned ? std::optional(cores[i]) : std::nullopt);
  asio::post(first, [this] {
    for (const auto& entrance : entrances_) wait_accept(*entrance);
  });
}

Server::~Server() {
  stop_accepting();
  for (const auto& thread : threads_) {
    asio::post(thread->io, [thread = thread.get()] {
      const auto connections = thread->connections;
      // A reset makes the client's kernel throw away what it has not read: only for answers that are cut off.
      for (const auto& connection : connections) connection->drop(connection->busy());
      thread->finish();
    });
  }
  for (const auto& thread : threads_) thread->join();
}

Status Server::renew_tls() {
  shared_.set_tls(TRY(tls_of(shared_.options)));
  return {};
}

void Server::wait_accept(Entrance& entrance) {
  if (!accepting_) return;
  entrance.acceptor.async_wait(Acceptor::wait_read, [this, &entrance](const boost::system::error_code& error) {
    if (!error) accept_some(entrance);
  });
}

void Server::accept_some(Entrance& entrance) {
  for (int i = 0; i < kAcceptsInARow; ++i) {
    if (shared_.connections >= shared_.options.max_connections) return rest(entrance);
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    const int fd = ::accept4(entrance.acceptor.native_handle(), reinterpret_cast<sockaddr*>(&address), &size,
                             SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      try {
        take(fd, entrance.v6, peer_name(reinterpret_cast<const sockaddr*>(&address)));
      } catch (const std::exception&) {  // memory ran out, most likely: this one is closed
        return rest(entrance);
      }
      continue;
    }
    if (errno == EAGAIN) break;
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      if (!said_full_)
        log::warn("accept_paused", {{"why", std::strerror(errno)}, {"connections", shared_.connections.load()}});
      said_full_ = true;
      return rest(entrance);
    }
    // Else this one connection failed before we took it (accept(2)): the next.
  }
  wait_accept(entrance);
}

// Full: the others wait in the kernel's queue.
void Server::rest(Entrance& entrance) {
  if (!accepting_) return;
  entrance.pause.expires_after(kAcceptPause);
  entrance.pause.async_wait([this, &entrance](const boost::system::error_code& error) {
    if (!error && accepting_) accept_some(entrance);
  });
}

void Server::take(int fd, bool v6, std::string peer) {
  const std::shared_ptr<ServerThread>& thread = threads_[next_++ % threads_.size()];
  Socket socket(thread->io);
  boost::system::error_code failed;
  socket.assign(v6 ? asio::ip::tcp::v6() : asio::ip::tcp::v4(), fd, failed);
  if (failed) {
    ::close(fd);
    return;
  }
  auto connection = std::make_shared<Connection>(shared_, thread, std::move(socket), std::move(peer));
  shared_.connections.fetch_add(1);
  const auto start = [this, connection = std::move(connection), thread = thread.get()] {
    thread->connections.insert(connection);
    connection->start();
    if (draining_) connection->drain();
  };
  if (thread == threads_.front())
    start();
  else
    asio::post(thread->io, start);
}

// On return no further connection comes to any thread.
void Server::stop_accepting() {
  threads_.front()->call([this] {
    accepting_ = false;
    for (const auto& entrance : entrances_) {
      boost::system::error_code ignored;
      entrance->acceptor.close(ignored);
      entrance->pause.cancel();
    }
  });
}

bool Server::drain(std::chrono::milliseconds limit) {
  const TimePoint until = Clock::now() + limit;
  stop_accepting();
  draining_ = true;
  for (const auto& thread : threads_) {
    thread->call([&] {
      const auto connections = thread->connections;
      for (const auto& connection : connections) connection->drain();
    });
  }
  while (true) {
    const std::uint64_t seen = closes_;
    int busy = 0;
    for (const auto& thread : threads_) {
      thread->call([&] {
        for (const auto& connection : thread->connections) busy += connection->busy();
      });
    }
    if (busy == 0) return true;
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, until, [&] { return closes_ != seen; })) return false;
  }
}

}  // namespace

Status check_options(const ServerOptions& options) {
  if (options.port < 0 || options.port > 65535)
    return Error{Code::invalid, fmt::format("port {} is not between 0 and 65535.", options.port)};
  if (options.http_threads < 0 || options.http_threads > 1024)
    return Error{Code::invalid, fmt::format("--http-threads: {} is not between 0 and 1024.", options.http_threads)};
  if (options.max_connections < 1)
    return Error{Code::invalid, "--max-connections: at least 1, or nobody would be accepted."};
  if (options.tls_cert.empty() != options.tls_key.empty())
    return Error{Code::invalid, "TLS needs both --tls-cert and --tls-key."};
  if (!options.tls_client_ca.empty() && options.tls_cert.empty())
    return Error{Code::invalid, "--tls-client-ca needs --tls-cert and --tls-key."};
  const bool required = options.tls_client_auth == "required";
  if (!required && options.tls_client_auth != "optional")
    return Error{Code::invalid, "--tls-client-auth is required or optional."};
  if (!required && options.tls_client_ca.empty())
    return Error{Code::invalid, "--tls-client-auth needs --tls-client-ca, who signs the certificates."};
  return {};
}

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const ServerOptions& options, Handler handler) {
  TRY(check_options(options));
  auto tls = TRY(tls_of(options));
  raise_open_files();
  auto sockets = TRY(listen_on(options.host, options.port));
  return std::make_unique<Server>(options, std::move(handler), std::move(tls), std::move(sockets));
}

}  // namespace ashlar::net
