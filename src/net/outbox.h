// Bytes on their way out of one connection, in order. Small pieces are joined so
// that one system call sends many; large ones are kept as they came, uncopied.
// Memory goes back as soon as all is sent. Marks stand between them and go where they
// go. One thread.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "net/http.h"

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
  // Behind all that is here.
  void mark(Marks&& marks);
  // The kernel is about to be handed the first n bytes: marks within them count from now.
  void announce(std::size_t n) {
    if (!marks_.empty()) count_until(gone_ + n);
  }
  // It took the first n <= size() bytes, which are forgotten; marks announced beyond them are taken back.
  void consume(std::size_t n);
  // The first n bytes go elsewhere within us, and so do the marks within them: on `marks`.
  void pass(std::size_t n, Marks& marks);

 private:
  struct Placed {
    std::uint64_t at;  // bytes before it, since the first ever
    Mark mark;         // announced: with the value that was before
  };
  void count_until(std::uint64_t at);
  void forget(std::size_t n);

  std::vector<Placed> marks_;  // in their order
  std::size_t announced_ = 0;  // of the marks, the first so many
  std::uint64_t gone_ = 0;     // bytes ever consumed or passed
  std::vector<std::string> pieces_;
  std::size_t first_ = 0;   // index of the first piece that is not all sent
  std::size_t offset_ = 0;  // bytes of it already sent
  std::size_t size_ = 0;
};

}  // namespace ashlar::net
