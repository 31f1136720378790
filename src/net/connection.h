// One client's connection: its socket, TLS if any, and the protocol on top. All
// of it runs on one io thread. A connection that idles or streams holds no
// buffer: it waits for the socket and then reads into its thread's.
#pragma once

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>

#include "net/deadlines.h"
#include "net/outbox.h"
#include "net/protocol.h"
#include "net/tls.h"

namespace ashlar::net {

using Executor = boost::asio::io_context::executor_type;
using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, Executor>;

class Connection;

// One network thread and what its connections share. Exchanges keep it alive
// after the server is gone; nothing runs on it then.
struct IoThread {
  static constexpr std::size_t kScratch = 64 << 10;

  boost::asio::io_context io{1};
  Deadlines deadlines{io};
  std::unordered_set<std::shared_ptr<Connection>> connections;
  std::unique_ptr<char[]> scratch{new char[kScratch]};  // what a readable socket is read into
  std::string plain;                                    // and then opened into, under TLS

  std::mutex mutex;
  bool stopped = false;  // GUARDED_BY(mutex)
  boost::asio::executor_work_guard<Executor> work{io.get_executor()};
  std::thread thread;

  // Runs `task` on this thread, or here if it has stopped. Any thread.
  void run(std::function<void()> task);
};

// What all connections of a server share. Outlives them.
struct ServerShared {
  ServerOptions options;
  Handler handler;
  std::shared_ptr<const TlsContext> tls;  // null: plain
  std::atomic<int> connections{0};
  std::function<void()> on_close;  // a connection is gone or wants nothing more; io threads
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // Takes `fd`, a connected non-blocking socket.
  Connection(ServerShared& shared, std::shared_ptr<IoThread> thread, int fd, bool v6, std::string peer);
  ~Connection();

  void start();
  void apply(std::vector<AnswerPart> parts);
  void drain();
  // Closes at once; every open exchange is told. With a reset, the client sees
  // that the answer was cut.
  void drop(bool reset);
  // Whether a drain must wait for it.
  bool busy() const { return state_ == State::open && (!nothing_to_send() || (protocol_ && protocol_->busy())); }

 private:
  enum class State { open, lingering, closed };

  void read_some();
  bool received(std::string_view bytes);
  bool received_plain(std::string_view bytes);
  void received_end();
  void refuse_plain_http();

  void pump();
  bool send_once();
  void seal();
  void linger();
  void expire();

  void wait_read();
  void wait_write();
  bool wants_input() const;
  bool nothing_to_send() const { return out_.empty() && sealed_.empty(); }

  ServerShared& shared_;
  const std::shared_ptr<IoThread> thread_;
  Socket socket_;
  Outbox out_;     // plain
  Outbox sealed_;  // under TLS, what goes to the socket
  std::unique_ptr<TlsSession> tls_;
  std::string first_;  // bytes that may yet turn out to be the HTTP/2 preface
  ProtocolHome home_;
  std::unique_ptr<Protocol> protocol_;  // null until the first bytes tell which

  Deadlines::Entry deadline_;
  TimePoint own_deadline_;  // of the handshake or the lingering
  TimePoint write_deadline_ = kNever;
  State state_ = State::open;
  bool reading_ = false, writing_ = false;  // waits under way
  bool input_ended_ = false;
  bool draining_ = false;
};

}  // namespace ashlar::net
