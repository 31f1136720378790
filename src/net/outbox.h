// Bytes on their way out of one connection, in order. Small pieces are joined so
// that one system call sends many; large ones are kept as they came, uncopied.
// Memory goes back as soon as all is sent. One thread.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar::net {

class Outbox {
 public:
  void append(std::string_view bytes);
  void take(std::string&& bytes);

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // The first bytes that lie together; empty if there are none. Valid until the
  // next change.
  std::string_view front() const;
  // As many of the first pieces as `out` has room for; returns how many.
  int gather(std::span<iovec> out) const;
  // Forgets the first n <= size() bytes.
  void consume(std::size_t n);

 private:
  std::vector<std::string> pieces_;
  std::size_t first_ = 0;   // index of the first piece that is not all sent
  std::size_t offset_ = 0;  // bytes of it already sent
  std::size_t size_ = 0;
};

}  // namespace ashlar::net
