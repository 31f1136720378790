// Whether an answer comes as a stream or as one JSON value, by its content-type or its first byte: asked for the one,
// some upstreams give the other.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "net/http.h"

namespace ashlar::gateway {

// One answer; one thread at a time.
class Framing {
 public:
  explicit Framing(const net::Headers& headers);
  // True: the answer is one value, and the bytes were kept for body(). False: they are the stream's.
  bool whole(std::string_view bytes);
  // All of the one value; nullopt: it was a stream.
  std::optional<std::string_view> body() const;
  // "text/html where an answer should be", for a sentence.
  std::string what() const;

 private:
  enum class Form { unknown, stream, whole };
  Form form_ = Form::unknown;
  std::string type_, body_;
};

}  // namespace ashlar::gateway
