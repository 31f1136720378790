// For tests of any room: what plays a server, whatever it says. Connections come in on a free port of this machine.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace ashlar::net {

class Loopback {
 public:
  // `talk` has each connection to itself, on a thread of its own; it ends when `talk` returns, or is cut when we die.
  explicit Loopback(std::function<void(int fd)> talk)
      : talk_(std::move(talk)), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 64), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    accepting_ = std::jthread([this] { accept_all(); });
  }
  ~Loopback() {
    ::shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    {
      const std::lock_guard lock(mutex_);
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    threads_.clear();
    ::close(listener_);
  }
  int port() const { return port_; }

 private:
  void accept_all() {
    while (true) {
      const int fd = ::accept(listener_, nullptr, nullptr);
      if (fd < 0) return;
      const std::lock_guard lock(mutex_);
      open_.insert(fd);
      threads_.emplace_back([this, fd] {
        talk_(fd);
        const std::lock_guard closing(mutex_);
        open_.erase(fd);
        ::shutdown(fd, SHUT_RDWR);
        ::close(fd);
      });
    }
  }

  const std::function<void(int)> talk_;
  const int listener_;
  int port_ = 0;
  std::mutex mutex_;
  std::set<int> open_;                 // GUARDED_BY(mutex_)
  std::vector<std::jthread> threads_;  // GUARDED_BY(mutex_)
  std::jthread accepting_;
};

}  // namespace ashlar::net
