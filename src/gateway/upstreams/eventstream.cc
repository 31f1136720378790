#include "gateway/upstreams/eventstream.h"

#include <utility>

#include "base/crc32.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kPrelude = 12, kCrc = 4;

std::uint32_t number(std::string_view bytes, std::size_t size) {
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < size; ++i) out = out << 8 | static_cast<unsigned char>(bytes[i]);
  return out;
}

void append_number(std::string& out, std::uint32_t value, int size) {
  for (int shift = 8 * (size - 1); shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift & 0xff));
}

// True, false, byte, short, int, long, bytes, text, time, UUID: how long a value is; 2 bytes say so of bytes and text.
constexpr int kSizes[] = {0, 0, 1, 2, 4, 8, -1, -1, 8, 16};
constexpr unsigned kText = 7;

bool read_headers(std::string_view bytes, StreamMessage& out) {
  const auto take = [&](std::size_t size) {
    const std::string_view run = bytes.substr(0, size);
    bytes.remove_prefix(size);
    return run;
  };
  while (!bytes.empty()) {
    const std::size_t name_size = number(take(1), 1);
    if (name_size == 0 || bytes.size() < name_size + 1) return false;
    const std::string_view name = take(name_size);
    const unsigned type = number(take(1), 1);
    if (type >= std::size(kSizes)) return false;
    std::size_t size = 0;
    if (kSizes[type] >= 0) {
      size = static_cast<std::size_t>(kSizes[type]);
    } else {
      if (bytes.size() < 2) return false;
      size = number(take(2), 2);
    }
    if (bytes.size() < size) return false;
    const std::string_view value = take(size);
    if (type == kText) out.headers.emplace(name, value);
  }
  return true;
}

}  // namespace

std::string_view StreamMessage::header(std::string_view name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

Status EventStreamReader::read(std::string_view bytes, const std::function<void(StreamMessage&&)>& on_message) {
  const auto broken = [&](Code code, const char* why) {
    failed_ = true;
    bytes_.clear();
    return Error{code, why};
  };
  if (failed_) return Error{Code::corrupt, "the event stream broke off"};
  bytes_.append(bytes);
  std::string_view rest = bytes_;
  while (rest.size() >= kPrelude) {
    const std::size_t total = number(rest, 4), headers = number(rest.substr(4), 4);
    if (number(rest.substr(8), 4) != crc32(rest.substr(0, 8)))
      return broken(Code::corrupt, "an event's prelude has a wrong checksum");
    if (total > kMaxMessage || headers > kMaxHeaders) return broken(Code::too_large, "an event is longer than 16 MiB");
    if (total < kPrelude + headers + kCrc) return broken(Code::corrupt, "an event's lengths contradict each other");
    if (rest.size() < total) break;
    const std::string_view whole = rest.substr(0, total);
    rest.remove_prefix(total);
    if (number(whole.substr(total - kCrc), 4) != crc32(whole.substr(0, total - kCrc)))
      return broken(Code::corrupt, "an event has a wrong checksum");
    StreamMessage message{.headers = {},
                          .payload = std::string(whole.substr(kPrelude + headers, total - kPrelude - headers - kCrc))};
    if (!read_headers(whole.substr(kPrelude, headers), message))
      return broken(Code::corrupt, "an event's headers are cut");
    on_message(std::move(message));
  }
  bytes_.erase(0, bytes_.size() - rest.size());
  return {};
}

std::string write_stream_message(const std::map<std::string, std::string>& headers, std::string_view payload) {
  std::string fields;
  for (const auto& [name, value] : headers) {
    append_number(fields, static_cast<std::uint32_t>(name.size()), 1);
    fields += name;
    append_number(fields, kText, 1);
    append_number(fields, static_cast<std::uint32_t>(value.size()), 2);
    fields += value;
  }
  std::string out;
  append_number(out, static_cast<std::uint32_t>(kPrelude + fields.size() + payload.size() + kCrc), 4);
  append_number(out, static_cast<std::uint32_t>(fields.size()), 4);
  append_number(out, crc32(out), 4);
  out.append(fields).append(payload);
  append_number(out, crc32(out), 4);
  return out;
}

}  // namespace ashlar::gateway
