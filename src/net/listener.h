// The sockets that a server accepts on.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

struct sockaddr;

namespace ashlar::net {

// A bound, listening, non-blocking socket; closed when it dies. Move-only.
class ListeningSocket {
 public:
  ListeningSocket(int fd, bool v6) : fd_(fd), v6_(v6) {}
  ListeningSocket(ListeningSocket&& other) noexcept;
  ListeningSocket& operator=(ListeningSocket&&) = delete;
  ~ListeningSocket();

  int fd() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }  // the caller closes it
  bool v6() const { return v6_; }
  int port() const;

 private:
  int fd_;
  bool v6_;
};

// One socket for each address of `host`, all on one port; port 0 takes a free
// one. invalid: no such host. io: in use, or may not be bound; the sentence says
// what to do.
Result<std::vector<ListeningSocket>> listen_on(const std::string& host, int port);

// "127.0.0.1:40312" or "[::1]:40312".
std::string peer_name(const sockaddr* address);

// Lets this process open as many files as the system allows it.
void raise_open_files();

}  // namespace ashlar::net
