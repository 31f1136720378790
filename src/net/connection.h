// One client's connection to the server: a channel, the protocol on top, and the
// time each may take. All of it runs on one io thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "net/channel.h"
#include "net/deadlines.h"
#include "net/protocol.h"

namespace ashlar::net {

class Connection;

// An io thread of the server and the connections that live on it.
struct ServerThread : IoThread {
  std::unordered_set<std::shared_ptr<Connection>> connections;
};

// What all connections of a server share. Outlives them.
struct ServerShared {
  ServerShared(ServerOptions given, Handler handles) : options(std::move(given)), handler(std::move(handles)) {}

  const ServerOptions options;
  const Handler handler;
  // Of connections that come; null: plain.
  std::shared_ptr<const TlsContext> tls() const {
    const std::lock_guard lock(tls_mutex_);
    return tls_;
  }
  void set_tls(std::shared_ptr<const TlsContext> tls) {
    const std::lock_guard lock(tls_mutex_);
    tls_.swap(tls);
  }
  BodyBudget bodies{options.max_bodies};
  std::atomic<int> connections{0};
  std::function<void()> on_close;  // a connection is gone or wants nothing more; io threads

 private:
  mutable std::mutex tls_mutex_;
  std::shared_ptr<const TlsContext> tls_;  // GUARDED_BY(tls_mutex_)
};

class Connection final : public ChannelOwner, public std::enable_shared_from_this<Connection> {
 public:
  Connection(ServerShared& shared, std::shared_ptr<ServerThread> thread, Socket socket, std::string peer);
  ~Connection() override;

  void start();
  void apply(std::vector<AnswerPart> parts);
  void drain();
  // Closes at once; every open exchange is told. With a reset, the client sees
  // that the answer was cut.
  void drop(bool reset);
  // Whether a drain must wait for it.
  bool busy() const { return state_ == State::open && (!channel_.all_sent() || (protocol_ && protocol_->busy())); }

  void readable() override;
  void writable() override {
    guarded([this] { pump(); });
  }

 private:
  enum class State { open, lingering, closed };

  void guarded(FunctionRef<void()> act);
  void read();
  bool received(std::string_view bytes);
  void choose_protocol(std::string_view bytes);
  void input_ended();
  void tls_refused();
  void pump();
  void linger();
  void expire();
  bool wants_input() const { return !input_ended_ && (!protocol_ || protocol_->wants_input()); }

  ServerShared& shared_;
  const std::shared_ptr<ServerThread> thread_;
  Channel channel_;
  std::string first_;  // bytes that may yet turn out to be the HTTP/2 preface
  ProtocolHome home_;
  std::unique_ptr<Protocol> protocol_;  // null until the first bytes tell which

  Deadlines::Entry deadline_;
  TimePoint own_deadline_;  // of the time without a protocol: first bytes, lingering
  TimePoint write_deadline_ = kNever;
  State state_ = State::open;
  bool input_ended_ = false;
  bool draining_ = false;
};

}  // namespace ashlar::net
