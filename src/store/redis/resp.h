// The Redis serialization protocol, versions 2 and 3 (redis.io/docs/reference/protocol-spec). What a server sends is
// hostile: every size, count and depth is bounded before it is believed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"

namespace ashlar::store::resp {

struct Value {
  // array: also a set, and a map's names and values in turn. push: a message that answers nothing.
  enum class Kind { null, string, error, integer, array, push };
  Kind kind = Kind::null;
  std::string text;          // of a string or an error; doubles and big numbers as they were written
  std::int64_t integer = 0;  // also of a boolean: 0 or 1
  std::vector<Value> items;
};

struct Limits {
  std::size_t bytes = 1 << 20;  // of one whole reply
  std::size_t items = 1 << 15;  // of one whole reply, at all depths
  std::size_t depth = 8;
};

// Replies out of bytes that come in pieces. One thread.
class Reader {
 public:
  explicit Reader(Limits limits = {}) : limits_(limits) {}

  // Gives each reply to `sink` as soon as it is whole. corrupt: not RESP; too_large: beyond the limits. After an error
  // the rest of the stream means nothing.
  Status read(std::string_view bytes, FunctionRef<void(Value)> sink);

 private:
  struct Open {
    Value value;
    std::size_t left;
    bool dropped;  // attributes, which say something about what follows
  };

  Status line(std::string_view text, FunctionRef<void(Value)> sink);
  Status open(Value::Kind kind, std::string_view count, int each, bool dropped, FunctionRef<void(Value)> sink);
  Status bulk(Value::Kind kind, std::string_view size, FunctionRef<void(Value)> sink);
  void whole(Value value, FunctionRef<void(Value)> sink);

  const Limits limits_;
  std::string partial_;     // of a line
  std::vector<Open> open_;  // arrays that are not whole
  Value bulk_;              // whose bytes are coming
  bool in_bulk_ = false;
  bool verbatim_ = false;              // the bulk begins with its format, "txt:"
  std::size_t bulk_size_ = 0;          // without the line break after it
  std::size_t bytes_ = 0, items_ = 0;  // of the reply so far
};

// A command as a server reads it.
std::string command(std::span<const std::string> words);

}  // namespace ashlar::store::resp
