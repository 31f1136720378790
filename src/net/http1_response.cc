#include "net/http1_response.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace ashlar::net {
namespace {
Error broken(const Refusal& refusal) { return {Code::corrupt, fmt::format("The server broke HTTP: {}.", refusal.why)}; }
}  // namespace

Status ResponseReader::read(std::string_view& bytes, const Events& events) {
  while (!bytes.empty() && state_ != State::done) {
    begun_ = true;
    switch (state_) {
      case State::head:
        TRY(read_head(bytes, events));
        break;
      case State::counted: {
        const std::string_view run = bytes.substr(0, left_);
        bytes.remove_prefix(run.size());
        left_ -= run.size();
        if (left_ == 0) state_ = State::done;
        TRY(give(run, events));
        break;
      }
      case State::chunked: {
        const auto run = chunks_.next(bytes);
        if (!run) return broken(run.error());
        if (chunks_.done()) state_ = State::done;
        TRY(give(*run, events));
        break;
      }
      case State::to_the_end:
        TRY(give(std::exchange(bytes, {}), events));
        break;
      case State::done:
        break;
    }
  }
  return {};
}

Status ResponseReader::read_head(std::string_view& bytes, const Events& events) {
  const std::size_t kept = head_.size();
  head_.append(bytes);
  const auto size = scanner_.scan(head_);
  if (!size) return broken(size.error());
  if ((*size == 0 ? head_.size() : *size) > max_head_)
    return Error{Code::too_large, fmt::format("The server's answer has a header larger than {} bytes.", max_head_)};
  if (*size == 0) {
    bytes = {};
    return {};
  }
  bytes.remove_prefix(*size - kept);
  auto head = parse_response_head(std::string_view(head_).substr(0, *size));
  std::string().swap(head_);
  scanner_ = {};
  if (!head) return broken(head.error());
  if (head->status == 101) return broken({502, "it switched protocols unasked"});
  if (head->status < 200) return {};  // 100 Continue, 103 Early Hints: the real one follows
  keep_alive_ = head->framing.keep_alive;
  if (head_request_ || head->status == 204 || head->status == 304) {
    state_ = State::done;
  } else if (head->framing.chunked) {
    state_ = State::chunked;
  } else if (head->framing.length) {
    left_ = *head->framing.length;
    state_ = left_ == 0 ? State::done : State::counted;
  } else {
    keep_alive_ = false;
    state_ = State::to_the_end;
  }
  events.head(std::move(*head));
  return {};
}

Status ResponseReader::give(std::string_view run, const Events& events) {
  received_ += run.size();
  if (received_ > max_body_)
    return Error{Code::too_large, fmt::format("The server's answer is larger than {} bytes.", max_body_)};
  if (!run.empty()) events.content(run);
  return {};
}

Status ResponseReader::read_end() {
  if (state_ == State::to_the_end) state_ = State::done;
  if (state_ == State::done) return {};
  return Error{Code::corrupt, begun_ ? "The server closed the connection in the midst of its answer."
                                     : "The server closed the connection without an answer."};
}

}  // namespace ashlar::net
