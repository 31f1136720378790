#include "net/outbox.h"

#include <algorithm>
#include <utility>

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

void Outbox::mark(Marks&& marks) {
  for (Mark& mark : marks) {
    if (empty())
      mark.count->store(mark.value);  // what it stands behind is gone
    else
      marks_.push_back({gone_ + size_, std::move(mark)});
  }
}

void Outbox::count_until(std::uint64_t at) {
  for (; announced_ < marks_.size() && marks_[announced_].at <= at; ++announced_) {
    Mark& mark = marks_[announced_].mark;
    mark.value = mark.count->exchange(mark.value);
  }
}

void Outbox::consume(std::size_t n) {
  for (; announced_ > 0 && marks_[announced_ - 1].at > gone_ + n; --announced_) {
    Mark& mark = marks_[announced_ - 1].mark;
    mark.value = mark.count->exchange(mark.value);
  }
  count_until(gone_ + n);  // of whoever did not announce
  const auto counted = marks_.begin() + static_cast<std::ptrdiff_t>(std::exchange(announced_, 0));
  forget(n);
  // Last: the end of a count may be heard by others.
  if (counted == marks_.end())
    marks_ = {};
  else
    marks_.erase(marks_.begin(), counted);
}

void Outbox::pass(std::size_t n, Marks& marks) {
  const auto beyond = std::ranges::find_if(marks_, [&](const Placed& placed) { return placed.at > gone_ + n; });
  for (auto each = marks_.begin(); each != beyond; ++each) marks.push_back(std::move(each->mark));
  marks_.erase(marks_.begin(), beyond);
  forget(n);
}

void Outbox::forget(std::size_t n) {
  DCHECK(n <= size_, "more bytes sent than there were");
  gone_ += n;
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
