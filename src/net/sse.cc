#include "net/sse.h"

#include <algorithm>
#include <utility>

#include "net/http_text.h"

namespace ashlar::net {
namespace {

// find_first_of("\r\n"), at the speed of memchr.
std::size_t line_end(std::string_view bytes) {
  const std::size_t lf = bytes.find('\n');
  return std::min(bytes.substr(0, lf).find('\r'), lf);
}

}  // namespace

Status SseReader::read(std::string_view bytes, const std::function<void(const SseEvent&)>& on_event) {
  const auto too_large = [&] {
    failed_ = true;
    return Error{Code::too_large, "The event stream holds an event longer than " + std::to_string(most_) + " bytes."};
  };
  while (!bytes.empty() && !failed_) {
    if (std::exchange(after_cr_, false) && bytes[0] == '\n') {
      bytes.remove_prefix(1);
      continue;
    }
    const std::size_t end = line_end(bytes);
    const std::string_view run = bytes.substr(0, end);
    if (line_.size() + run.size() + event_.data.size() > most_) return too_large();
    if (end == bytes.npos) {
      line_.append(run);
      return {};
    }
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    if (line_.empty()) {
      take_line(run, on_event);
    } else {
      line_.append(run);
      const std::string whole = std::exchange(line_, {});
      take_line(whole, on_event);
    }
  }
  if (failed_) return too_large();
  return {};
}

void SseReader::take_line(std::string_view line, const std::function<void(const SseEvent&)>& on_event) {
  if (!std::exchange(started_, true) && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
  if (line.empty()) {
    // An event without data is not dispatched; its type is forgotten.
    if (has_data_) {
      if (event_.type.empty()) event_.type = "message";
      on_event(event_);
    }
    has_data_ = false;
    event_.type.clear();
    event_.data.clear();
    return;
  }
  const std::size_t colon = line.find(':');
  const std::string_view field = line.substr(0, colon);
  std::string_view value = colon == line.npos ? std::string_view() : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (field == "data") {
    if (has_data_) event_.data.push_back('\n');
    event_.data.append(value);
    has_data_ = true;
  } else if (field == "event") {
    event_.type = value;
  } else if (field == "id") {
    if (value.find('\0') == value.npos) event_.last_id = value;
  } else if (field == "retry") {
    if (const auto ms = parse_decimal(value)) retry_ms_ = static_cast<int>(std::min<std::uint64_t>(*ms, 1 << 30));
  }
}

void append_sse(std::string& out, std::string_view data, std::string_view type, std::string_view id) {
  if (!type.empty()) out.append("event: ").append(type).append("\n");
  if (!id.empty()) out.append("id: ").append(id).append("\n");
  while (true) {
    const std::size_t end = data.find_first_of("\r\n");
    out.append("data: ").append(data.substr(0, end)).append("\n");
    if (end == data.npos) break;
    const bool pair = data.substr(end).starts_with("\r\n");
    data.remove_prefix(end + (pair ? 2 : 1));
  }
  out.push_back('\n');
}

}  // namespace ashlar::net
