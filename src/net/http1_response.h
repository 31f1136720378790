// Reads one HTTP/1.1 response out of bytes that arrive piece by piece.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "net/http1_message.h"

namespace ashlar::net {

class ResponseReader {
 public:
  struct Events {
    std::function<void(ResponseHead&&)> head;       // once
    std::function<void(std::string_view)> content;  // any number of times
  };
  // `method` is the request's: an answer to HEAD has no body. corrupt and
  // too_large come from read().
  ResponseReader(std::string_view method, Bytes max_head, Bytes max_body)
      : head_request_(method == "HEAD"), max_head_(max_head.count), max_body_(max_body.count) {}

  // Reads from the front of `bytes`, removing what belongs to this response.
  Status read(std::string_view& bytes, const Events& events);
  // The peer has closed. corrupt: in the midst of the response.
  Status read_end();

  bool begun() const { return begun_; }  // a byte has come
  bool done() const { return state_ == State::done; }
  bool keep_alive() const { return keep_alive_; }  // when done: the connection may serve again

 private:
  enum class State { head, counted, chunked, to_the_end, done };
  Status read_head(std::string_view& bytes, const Events& events);
  Status give(std::string_view run, const Events& events);

  const bool head_request_;
  const std::uint64_t max_head_, max_body_;
  State state_ = State::head;
  bool begun_ = false;
  bool keep_alive_ = false;
  std::string head_;  // a head not yet whole
  HeadScanner scanner_;
  ChunkReader chunks_;
  std::uint64_t left_ = 0;
  std::uint64_t received_ = 0;
};

}  // namespace ashlar::net
