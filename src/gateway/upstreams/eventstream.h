// AWS's binary event streams (application/vnd.amazon.eventstream), as Bedrock streams with them:
//
//   u32 total length | u32 headers' length | u32 CRC-32 of these 8 bytes
//   headers: u8 name length, name, u8 type, value...     payload     u32 CRC-32 of all before it
//
// Integers are big-endian.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::gateway {

struct StreamMessage {
  std::map<std::string, std::string, std::less<>> headers;  // those that are texts
  std::string payload;
  std::string_view header(std::string_view name) const;  // "" if absent
};

// Bytes to messages, however they are cut. One stream, one thread.
class EventStreamReader {
 public:
  static constexpr std::size_t kMaxMessage = 16 << 20, kMaxHeaders = 128 << 10;  // the format's own limits

  // corrupt: a checksum or a length is wrong; too_large. Nothing more is read after it.
  Status read(std::string_view bytes, const std::function<void(StreamMessage&&)>& on_message);
  bool at_boundary() const { return bytes_.empty(); }  // no message has begun

 private:
  std::string bytes_;  // of a message not yet whole
  bool failed_ = false;
};

// One message, for tests and fakes. Headers are texts.
std::string write_stream_message(const std::map<std::string, std::string>& headers, std::string_view payload);

}  // namespace ashlar::gateway
