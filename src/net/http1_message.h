// HTTP/1.1 messages (RFC 9112): where a head ends, what it says, and chunked
// bodies. Used by the server and the client. Strict: a shape that two parsers
// may read differently (bare LF, folded lines, two lengths) is refused.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

#include "net/http.h"
#include "net/http_text.h"

namespace ashlar::net {

// Finds the end of a head in bytes that arrive piece by piece.
class HeadScanner {
 public:
  // `bytes`: all that has arrived so far. The head's size with its empty line,
  // 0 if it has not ended yet, or a refusal (a line that ends without CR).
  std::expected<std::size_t, Refusal> scan(std::string_view bytes);

 private:
  std::size_t seen_ = 0;  // bytes already scanned
  std::size_t line_ = 0;  // where the current line starts
};

// How the body that follows a head is delimited.
struct Framing {
  bool chunked = false;
  std::optional<std::uint64_t> length;
  bool keep_alive = true;  // by version and the connection field
};

struct RequestHead {
  std::string method, path, query;
  Headers headers;
  int minor = 1;  // HTTP/1.x
  Framing framing;
  bool expects_continue = false;
};
std::expected<RequestHead, Refusal> parse_request_head(std::string_view head);

struct ResponseHead {
  int status = 0;
  Headers headers;
  Framing framing;
};
std::expected<ResponseHead, Refusal> parse_response_head(std::string_view head);

// Takes a chunked body apart (RFC 9112, 7.1). Trailer fields are checked and dropped.
class ChunkReader {
 public:
  // Reads from the front of `bytes`, removing what was read. Gives the next run
  // of content (a view into `bytes`), or empty when all bytes are used up or
  // done(). Refusal: a bad size, a missing CRLF, too long an extension or trailer.
  std::expected<std::string_view, Refusal> next(std::string_view& bytes);
  bool done() const { return state_ == State::done; }

 private:
  enum class State { size, data, data_end, trailer, done };
  std::expected<void, Refusal> take_size_line();

  State state_ = State::size;
  std::uint64_t left_ = 0;
  std::string line_;  // a line that has begun to arrive
  std::size_t trailer_bytes_ = 0;
};

}  // namespace ashlar::net
