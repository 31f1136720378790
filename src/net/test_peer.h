// For the tests of this room: a server with a handler, blocking clients that do
// exactly what they are told, and a protocol without a socket.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "net/http.h"
#include "net/http_server.h"
#include "net/protocol.h"

namespace ashlar::net {

// A place where threads leave things for the test to find.
template <class T>
class Inbox {
 public:
  void put(T item) {
    const std::lock_guard lock(mutex_);
    items_.push_back(std::move(item));
    changed_.notify_all();
  }
  // Waits for the next; fails the test after ten seconds.
  T take() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(10), [&] { return !items_.empty(); })) {
      ADD_FAILURE() << "nothing came";
      return T();
    }
    T item = std::move(items_.front());
    items_.pop_front();
    return item;
  }
  bool empty() {
    const std::lock_guard lock(mutex_);
    return items_.empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> items_;
};

struct Reply {
  int status = 0;
  Headers headers;
  std::string body;
  bool whole = false;  // false: the connection ended before the reply did
  bool operator==(const Reply&) const = default;
};

// One TCP connection, blocking, with a receive timeout of ten seconds.
class Peer {
 public:
  explicit Peer(int port, bool v6 = false);
  ~Peer();
  Peer(Peer&& other) noexcept;
  Peer& operator=(Peer&&) = delete;

  // False: the server has closed.
  bool send(std::string_view bytes);
  // What arrives next; "" at the end. `failed()` tells a reset from a close.
  std::string receive();
  bool failed() const { return failed_; }
  // Reads until `mark` has come or the end; returns all of it.
  std::string read_until(std::string_view mark);
  std::string read_all() { return read_until({}); }
  Reply read_reply(std::string_view method = "GET");
  void end_output();
  void close();
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
  std::string ahead_;  // read but not yet asked for
  bool failed_ = false;
};

// Listens on a free port of 127.0.0.1; ends the test if it cannot.
std::unique_ptr<HttpServer> serve(Handler handler, ServerOptions options = {});

// A proxy for HTTP that looks up no names: every address's port is one of 127.0.0.1.
class FakeProxy {
 public:
  // `authorization`: what the field proxy-authorization must be; empty: nothing. Other statuses than 200 are what it
  // answers whoever asks for a tunnel; 0: nothing, and it closes.
  explicit FakeProxy(std::string authorization = "", int status = 200);
  ~FakeProxy();
  int port() const { return port_; }
  std::string url(std::string_view who = "") const {
    return "http://" + std::string(who) + "127.0.0.1:" + std::to_string(port_);
  }
  // The head of each connection's first request, in their order.
  std::vector<std::string> heads();

 private:
  void serve(int client);

  const std::string authorization_;
  const int status_;
  int listener_, port_ = 0;
  std::mutex mutex_;
  std::vector<std::string> heads_;     // GUARDED_BY(mutex_)
  std::vector<int> clients_;           // GUARDED_BY(mutex_)
  std::vector<std::jthread> threads_;  // the accepting thread's, then the destructor's
  std::jthread accepting_;
};

// A handler that answers 200 with "METHOD path?query body".
void echo(const std::shared_ptr<Exchange>& exchange);

// A protocol whose connection is memory.
class MemoryConnection {
 public:
  MemoryConnection(Handler handler, bool http2, ServerOptions options = {});
  ~MemoryConnection() { protocol_->lost(); }

  // Feeds bytes, applies the answers, returns what came out.
  std::string feed(std::string_view bytes);
  Protocol& protocol() { return *protocol_; }

 private:
  class Door;
  const ServerOptions options_;
  const Handler handler_;
  const std::shared_ptr<Door> door_;
  BodyBudget bodies_{options_.max_bodies};
  Outbox out_;
  ProtocolHome home_;
  std::unique_ptr<Protocol> protocol_;
};

}  // namespace ashlar::net
