// Server-sent events (the WHATWG HTML standard, section 9.2): the text/event-stream
// format, read and written.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::net {

struct SseEvent {
  std::string type = "message";
  std::string data;     // lines joined by \n
  std::string last_id;  // the last id seen, of this event or an earlier one
};

// Bytes to events, however they are cut. One stream, one thread.
class SseReader {
 public:
  // An event or line longer than `most` bytes is an error: streams come from peers.
  explicit SseReader(std::size_t most = 16 << 20) : most_(most) {}

  // Calls `on_event` for every event that is now whole. too_large: see above;
  // nothing more is read after it. An event that the stream's end cuts is lost,
  // as the standard has it.
  Status read(std::string_view bytes, const std::function<void(const SseEvent&)>& on_event);

  int retry_ms() const { return retry_ms_; }  // the last "retry:", -1 if none

 private:
  void take_line(std::string_view line, const std::function<void(const SseEvent&)>& on_event);

  const std::size_t most_;
  std::string line_;  // a line not yet whole
  SseEvent event_{.type = ""};
  bool has_data_ = false;
  bool after_cr_ = false;  // an LF now belongs to the line before
  bool started_ = false;   // the byte order mark may no longer come
  bool failed_ = false;
  int retry_ms_ = -1;
};

// Appends one event. `type` and `id` are left out where empty and must hold no
// line break; each line of `data` gets its own field.
void append_sse(std::string& out, std::string_view data, std::string_view type = "", std::string_view id = "");

}  // namespace ashlar::net
