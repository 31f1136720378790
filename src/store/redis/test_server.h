// A real redis-server for tests, on a free port of 127.0.0.1 and without a disk; and one that answers as it is told.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "store/redis/client.h"

namespace ashlar::store {

class RedisServer {
 public:
  // tls: on a second port, with the certificates that `arguments` name.
  explicit RedisServer(std::vector<std::string> arguments = {}, bool tls = false);
  ~RedisServer() { kill(); }
  RedisServer(const RedisServer&) = delete;

  RedisOptions options() const { return {.port = port_, .least_pause = std::chrono::milliseconds(2)}; }
  int tls_port() const { return tls_port_; }
  void start();  // on the same port; waits until it answers
  void kill();   // SIGKILL
  void stop();   // SIGSTOP: connections are taken, nothing is answered
  void go_on();
  // What it answers to a command, by a connection of its own.
  resp::Value ask(std::vector<std::string> command);

 private:
  const std::vector<std::string> arguments_;
  int port_ = 0, tls_port_ = 0, pid_ = -1;
};

// The server that all suites share.
RedisServer& shared_redis();

// Accepts connections; sends `answer(bytes that came)` after each piece that arrives, and closes at "".
class FakeRedis {
 public:
  explicit FakeRedis(std::function<std::string(std::string_view)> answer);
  ~FakeRedis();
  RedisOptions options() const { return {.port = port_, .least_pause = std::chrono::milliseconds(2)}; }

 private:
  void serve(int client);

  const std::function<std::string(std::string_view)> answer_;
  int listener_ = -1, port_ = 0;
  std::mutex mutex_;
  std::vector<int> clients_;           // GUARDED_BY(mutex_)
  std::vector<std::jthread> threads_;  // the accepting thread's, then the destructor's
  std::jthread accepting_;
};

}  // namespace ashlar::store
