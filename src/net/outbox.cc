#include "net/outbox.h"

#include <algorithm>

#include "base/result.h"

namespace ashlar::net {
namespace {
constexpr std::size_t kJoin = 16 << 10;  // pieces are joined up to this size
constexpr std::size_t kLarge = 4 << 10;  // from here on a move beats a copy
}  // namespace

void Outbox::append(std::string_view bytes) {
  if (bytes.empty()) return;
  size_ += bytes.size();
  if (!pieces_.empty() && pieces_.back().size() + bytes.size() <= kJoin)
    pieces_.back().append(bytes);
  else
    pieces_.emplace_back(bytes);
}

void Outbox::take(std::string&& bytes) {
  if (bytes.size() < kLarge) return append(bytes);
  size_ += bytes.size();
  pieces_.push_back(std::move(bytes));
}

std::string_view Outbox::front() const {
  if (empty()) return {};
  return std::string_view(pieces_[first_]).substr(offset_);
}

int Outbox::gather(std::span<iovec> out) const {
  std::size_t count = 0;
  std::size_t skip = offset_;
  for (std::size_t i = first_; i < pieces_.size() && count < out.size(); ++i) {
    const std::string& piece = pieces_[i];
    out[count++] = {const_cast<char*>(piece.data()) + skip, piece.size() - skip};
    skip = 0;
  }
  return static_cast<int>(count);
}

void Outbox::consume(std::size_t n) {
  DCHECK(n <= size_, "more bytes sent than there were");
  size_ -= n;
  if (size_ == 0) {
    pieces_ = {};
    first_ = offset_ = 0;
    return;
  }
  while (n > 0) {
    const std::size_t step = std::min(n, pieces_[first_].size() - offset_);
    offset_ += step;
    n -= step;
    if (offset_ < pieces_[first_].size()) return;
    std::string().swap(pieces_[first_]);
    ++first_;
    offset_ = 0;
  }
  // A client that never quite catches up must not make the list of sent pieces grow.
  if (first_ >= 64 && first_ * 2 > pieces_.size()) {
    pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(first_));
    first_ = 0;
  }
}

}  // namespace ashlar::net
