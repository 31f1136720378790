#include "net/http1_message.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ashlar::net {
namespace {

constexpr std::size_t kMostChunkLine = 256;  // a size and its extensions
constexpr std::size_t kMostTrailer = 8 << 10;
constexpr std::size_t kMostMethod = 64;

std::unexpected<Refusal> refuse(int status, const char* why) { return std::unexpected(Refusal{status, why}); }

// The next line of a scanned head, without its CRLF.
std::string_view take_line(std::string_view& head) {
  const std::size_t end = head.find("\r\n");
  const std::string_view line = head.substr(0, end);
  head.remove_prefix(std::min(head.size(), line.size() + 2));
  return line;
}

// Header lines up to the empty one.
std::expected<Headers, Refusal> parse_fields(std::string_view head) {
  Headers headers;
  headers.reserve(8);
  while (true) {
    const std::string_view line = take_line(head);
    if (line.empty()) return headers;
    if (const char* wrong = parse_field(line, headers)) return refuse(400, wrong);
  }
}

// Content-length, transfer-encoding and connection, read so that no other
// parser on the way may find another end of the body.
std::expected<Framing, Refusal> parse_framing(const Headers& headers, int minor, bool server) {
  Framing framing;
  framing.keep_alive = minor >= 1;
  for (const auto& [name, value] : headers) {
    if (name == "content-length") {
      const auto length = parse_decimal(value);
      if (!length) return refuse(400, "content-length is not a number");
      if (framing.length && *framing.length != *length) return refuse(400, "two content-lengths differ");
      framing.length = length;
    } else if (name == "transfer-encoding") {
      if (framing.chunked) return refuse(400, "two transfer-encodings");
      if (!equals_ignoring_case(value, "chunked"))
        return refuse(501, "only the transfer-encoding 'chunked' is understood");
      if (minor == 0) return refuse(400, "HTTP/1.0 has no transfer-encoding");
      framing.chunked = true;
    } else if (name == "connection") {
      if (has_word(value, "close"))
        framing.keep_alive = false;
      else if (minor == 0 && has_word(value, "keep-alive"))
        framing.keep_alive = true;
    }
  }
  if (framing.chunked && framing.length) {
    if (server) return refuse(400, "both content-length and transfer-encoding");
    framing.length.reset();
    framing.keep_alive = false;
  }
  return framing;
}

bool is_host(std::string_view value) {
  return std::ranges::none_of(
      value, [](char c) { return static_cast<unsigned char>(c) <= 0x20 || std::strchr("/?#@,\\", c); });
}

// "HTTP/1.x" -> x, -1 for another version, -2 for nonsense.
int parse_version(std::string_view text) {
  if (text.size() != 8 || !text.starts_with("HTTP/") || text[6] != '.') return -2;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (!digit(text[5]) || !digit(text[7])) return -2;
  return text[5] == '1' ? std::min(text[7] - '0', 1) : -1;
}

}  // namespace

std::expected<std::size_t, Refusal> HeadScanner::scan(std::string_view bytes) {
  while (seen_ < bytes.size()) {
    const auto* found = static_cast<const char*>(std::memchr(bytes.data() + seen_, '\n', bytes.size() - seen_));
    if (!found) {
      seen_ = bytes.size();
      break;
    }
    const auto at = static_cast<std::size_t>(found - bytes.data());
    seen_ = at + 1;
    if (at == line_ || bytes[at - 1] != '\r') return refuse(400, "a line of the header ends without CR LF");
    if (at == line_ + 1) return seen_;
    line_ = seen_;
  }
  return 0;
}

std::expected<RequestHead, Refusal> parse_request_head(std::string_view head) {
  RequestHead out;
  const std::string_view line = take_line(head);
  const std::size_t space = line.find(' ');
  const std::size_t last = line.rfind(' ');
  if (space == line.npos || last == space) return refuse(400, "the first line is not 'METHOD target HTTP/1.1'");
  const int minor = parse_version(line.substr(last + 1));
  if (minor == -2) return refuse(400, "the first line is not 'METHOD target HTTP/1.1'");
  if (minor == -1) return refuse(505, "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here");
  const std::string_view method = line.substr(0, space);
  if (!is_token(method) || method.size() > kMostMethod) return refuse(400, "the method is not a word");
  if (method == "CONNECT") return refuse(501, "this server is no proxy");
  if (!split_target(line.substr(space + 1, last - space - 1), out.path, out.query))
    return refuse(400, "the request target is not a valid path");

  auto headers = parse_fields(head);
  if (!headers) return std::unexpected(std::move(headers).error());
  auto framing = parse_framing(*headers, minor, true);
  if (!framing) return std::unexpected(std::move(framing).error());
  int hosts = 0;
  for (const auto& [name, value] : *headers) {
    if (name == "host") {
      if (++hosts > 1 || !is_host(value)) return refuse(400, "the host is given twice or is not a host");
    } else if (name == "expect") {
      if (!equals_ignoring_case(value, "100-continue")) return refuse(417, "only 'expect: 100-continue' is understood");
      out.expects_continue = minor == 1;
    }
  }
  if (minor == 1 && hosts == 0) return refuse(400, "HTTP/1.1 needs a host");
  out.method = method;
  out.minor = minor;
  out.headers = std::move(*headers);
  out.framing = *framing;
  return out;
}

std::expected<ResponseHead, Refusal> parse_response_head(std::string_view head) {
  ResponseHead out;
  const std::string_view line = take_line(head);
  const int minor = parse_version(line.substr(0, line.find(' ')));
  const auto status = line.size() >= 12 ? parse_decimal(line.substr(9, 3)) : std::nullopt;
  if (minor < 0 || !status || *status < 100 || (line.size() > 12 && line[12] != ' '))
    return refuse(502, "the first line is not 'HTTP/1.1 status reason'");
  auto headers = parse_fields(head);
  if (!headers) return std::unexpected(std::move(headers).error());
  auto framing = parse_framing(*headers, minor, false);
  if (!framing) return std::unexpected(std::move(framing).error());
  out.status = static_cast<int>(*status);
  out.headers = std::move(*headers);
  out.framing = *framing;
  return out;
}

// "1a;name=value": the extensions are bounded and ignored.
std::expected<void, Refusal> ChunkReader::take_size_line() {
  std::string_view size = std::string_view(line_).substr(0, line_.find(';'));
  while (size.size() < line_.size() && !size.empty() && (size.back() == ' ' || size.back() == '\t'))
    size.remove_suffix(1);
  if (size.empty() || size.size() > 15) return refuse(400, "a chunk's size is not a number");
  left_ = 0;
  for (const char c : size) {
    const bool digit = c >= '0' && c <= '9';
    const char l = static_cast<char>(c | 0x20);
    if (!digit && (l < 'a' || l > 'f')) return refuse(400, "a chunk's size is not a number");
    left_ = left_ * 16 + static_cast<std::uint64_t>(digit ? c - '0' : l - 'a' + 10);
  }
  const auto odd = [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\t'; };
  if (std::ranges::any_of(line_, odd)) return refuse(400, "a chunk's extension has a control character");
  state_ = left_ == 0 ? State::trailer : State::data;
  return {};
}

std::expected<std::string_view, Refusal> ChunkReader::next(std::string_view& bytes) {
  while (!bytes.empty() && state_ != State::done) {
    if (state_ == State::data) {
      const std::string_view run = bytes.substr(0, left_);
      bytes.remove_prefix(run.size());
      left_ -= run.size();
      if (left_ == 0) state_ = State::data_end;
      return run;
    }
    const std::size_t end = bytes.find('\n');
    const bool whole = end != bytes.npos;
    line_.append(bytes.substr(0, whole ? end + 1 : bytes.size()));
    bytes.remove_prefix(whole ? end + 1 : bytes.size());
    const std::size_t most = state_ == State::data_end ? 2 : state_ == State::size ? kMostChunkLine : kMostTrailer;
    if (line_.size() > most) return refuse(400, "a chunk is not framed by CR LF, or its line is too long");
    if (!whole) break;
    if (line_.size() < 2 || line_[line_.size() - 2] != '\r') return refuse(400, "a chunk's line ends without CR LF");
    line_.resize(line_.size() - 2);
    if (state_ == State::size) {
      if (auto taken = take_size_line(); !taken) return std::unexpected(std::move(taken).error());
    } else if (state_ == State::data_end) {
      if (!line_.empty()) return refuse(400, "a chunk is longer than its size");
      state_ = State::size;
    } else if (line_.empty()) {
      state_ = State::done;
    } else {
      Headers dropped;
      trailer_bytes_ += line_.size();
      if (trailer_bytes_ > kMostTrailer) return refuse(400, "the trailer is too long");
      if (const char* wrong = parse_field(line_, dropped)) return refuse(400, wrong);
    }
    line_.clear();
  }
  return std::string_view();
}

}  // namespace ashlar::net
