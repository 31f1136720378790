#include "net/http_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <span>
#include <utility>

#include "base/json.h"

namespace ashlar::net {
namespace {

constexpr std::size_t kMostFields = 256;

constexpr std::array<bool, 256> make_token_table() {
  std::array<bool, 256> table{};
  for (int c = 0; c < 256; ++c) {
    const bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    table[static_cast<std::size_t>(c)] =
        alnum ||
        (c != 0 && c < 128 && std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != std::string_view::npos);
  }
  return table;
}
constexpr auto kToken = make_token_table();

// What a header's name may hold, in small letters; 0: it may not.
constexpr std::array<char, 256> make_name_table() {
  std::array<char, 256> table{};
  for (std::size_t c = 0; c < table.size(); ++c)
    if (kToken[c]) table[c] = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return table;
}
constexpr auto kName = make_name_table();

char lower_char(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char l = lower_char(c);
  return l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
}

bool is_control(char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f; }
// To the end in any case: so it is many characters at a time.
bool has_control(std::string_view text) {
  bool has = false;
  for (const char c : text) has |= is_control(c);
  return has;
}

}  // namespace

std::string_view reason(int status) {
  static constexpr std::pair<int, std::string_view> kNames[] = {{100, "Continue"},
                                                                {200, "OK"},
                                                                {201, "Created"},
                                                                {202, "Accepted"},
                                                                {204, "No Content"},
                                                                {206, "Partial Content"},
                                                                {301, "Moved Permanently"},
                                                                {302, "Found"},
                                                                {303, "See Other"},
                                                                {304, "Not Modified"},
                                                                {307, "Temporary Redirect"},
                                                                {308, "Permanent Redirect"},
                                                                {400, "Bad Request"},
                                                                {401, "Unauthorized"},
                                                                {402, "Payment Required"},
                                                                {403, "Forbidden"},
                                                                {404, "Not Found"},
                                                                {405, "Method Not Allowed"},
                                                                {406, "Not Acceptable"},
                                                                {408, "Request Timeout"},
                                                                {409, "Conflict"},
                                                                {410, "Gone"},
                                                                {411, "Length Required"},
                                                                {412, "Precondition Failed"},
                                                                {413, "Content Too Large"},
                                                                {414, "URI Too Long"},
                                                                {415, "Unsupported Media Type"},
                                                                {416, "Range Not Satisfiable"},
                                                                {417, "Expectation Failed"},
                                                                {421, "Misdirected Request"},
                                                                {422, "Unprocessable Content"},
                                                                {429, "Too Many Requests"},
                                                                {431, "Request Header Fields Too Large"},
                                                                {499, "Client Closed Request"},
                                                                {500, "Internal Server Error"},
                                                                {501, "Not Implemented"},
                                                                {502, "Bad Gateway"},
                                                                {503, "Service Unavailable"},
                                                                {504, "Gateway Timeout"},
                                                                {505, "HTTP Version Not Supported"},
                                                                {529, "Overloaded"}};
  for (const auto& [code, text] : kNames)
    if (code == status) return text;
  return "Unknown";
}

std::string_view http_date() {
  thread_local std::time_t made = -1;
  thread_local char text[32];
  thread_local std::size_t length = 0;
  const std::time_t now = std::time(nullptr);
  if (now != made) {
    std::tm utc{};
    gmtime_r(&now, &utc);
    static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                              "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    const auto end =
        fmt::format_to_n(text, sizeof text, "{}, {:02} {} {} {:02}:{:02}:{:02} GMT", kDays[utc.tm_wday], utc.tm_mday,
                         kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
    length = std::min(end.size, sizeof text);
    made = now;
  }
  return {text, length};
}

// As api/ has them: `code` is a string or null, and clients that know types read nothing else.
std::string error_body(int status, std::string_view message) {
  const char* type = status == 408   ? "timeout_error"
                     : status == 413 ? "request_too_large"
                     : status == 503 ? "service_unavailable_error"
                     : status < 500  ? "invalid_request_error"
                                     : "server_error";
  std::string out = R"({"error":{"message":)";
  append_json_string(out, message);
  out.append(fmt::format(R"(,"type":"{}","param":null,"code":{}}}}})", type,
                         status == 503 ? R"("server_is_overloaded")" : "null"));
  return out;
}

Headers error_headers(int status) {
  Headers headers{{"content-type", "application/json"}};
  if (status == 503) headers.emplace_back("retry-after", "1");
  return headers;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return kToken[static_cast<unsigned char>(c)]; });
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), lower_char);
  return out;
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower_char, lower_char);
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::string_view take_item(std::string_view& rest) {
  const std::size_t comma = std::min(rest.find(','), rest.size());
  const std::string_view item = trim(rest.substr(0, comma));
  rest.remove_prefix(std::min(comma + 1, rest.size()));
  return item;
}

bool has_word(std::string_view value, std::string_view word) {
  do {
    if (equals_ignoring_case(take_item(value), word)) return true;
  } while (!value.empty());
  return false;
}

std::optional<std::uint64_t> parse_decimal(std::string_view text) {
  if (text.empty() || text.size() > 18) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

std::optional<std::chrono::milliseconds> parse_retry_after(std::string_view text,
                                                           std::chrono::system_clock::time_point now) {
  // A date may be thousands of years away, beyond the clock's nanoseconds.
  constexpr std::int64_t kMost = 864'000;
  if (const auto seconds = parse_decimal(text))
    return std::chrono::seconds(static_cast<std::int64_t>(std::min<std::uint64_t>(*seconds, kMost)));
  std::tm parts{};
  const std::string copy(text);
  const char* end = ::strptime(copy.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  if (end == nullptr || *end != '\0') return std::nullopt;
  const std::int64_t wait = ::timegm(&parts) - std::chrono::system_clock::to_time_t(now);
  return std::chrono::seconds(std::clamp<std::int64_t>(wait, 0, kMost));
}

std::optional<std::string> percent_decode(std::string_view text) {
  if (text.find('%') == text.npos) return std::string(text);
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0 || (high == 0 && low == 0)) return std::nullopt;
    out.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return out;
}

bool split_target(std::string_view target, std::string& path, std::string& query) {
  const auto odd = [](char c) {
    return static_cast<unsigned char>(c) <= 0x20 || static_cast<unsigned char>(c) >= 0x7f || c == '#';
  };
  if (std::ranges::any_of(target, odd)) return false;
  if (!target.starts_with('/') && target != "*") {
    const std::size_t scheme = target.find("://");
    if (scheme == target.npos) return false;
    if (const auto name = target.substr(0, scheme);
        !equals_ignoring_case(name, "http") && !equals_ignoring_case(name, "https"))
      return false;
    target.remove_prefix(scheme + 3);
    const std::size_t slash = target.find_first_of("/?");
    if (slash == 0 || target.empty()) return false;  // no host
    target = slash == target.npos ? std::string_view() : target.substr(slash);
  }
  const std::size_t mark = target.find('?');
  auto decoded = percent_decode(target.substr(0, mark));
  if (!decoded) return false;
  path = decoded->empty() ? "/" : std::move(*decoded);
  query = mark == target.npos ? "" : target.substr(mark + 1);
  return true;
}

const char* parse_field(std::string_view line, Headers& headers) {
  if (line.starts_with(' ') || line.starts_with('\t')) return "a header line is folded";
  const std::size_t colon = line.find(':');
  if (colon == line.npos) return "a header line has no colon";
  std::string name(line.substr(0, colon));
  bool is_name = !name.empty();
  for (char& c : name) {
    c = kName[static_cast<unsigned char>(c)];
    is_name = is_name && c != '\0';
  }
  if (!is_name) return "a header's name has a character that may not be there";
  const std::string_view value = trim(line.substr(colon + 1));
  if (has_control(value)) return "a header's value has a control character";
  if (headers.size() >= kMostFields) return "too many header fields";
  headers.emplace_back(std::move(name), value);
  return nullptr;
}

bool may_send(std::string_view name) {
  static constexpr std::string_view kOurs[] = {"content-length", "transfer-encoding", "connection",
                                               "date",           "keep-alive",        "upgrade"};
  return is_token(name) &&
         std::ranges::none_of(kOurs, [&](std::string_view our) { return equals_ignoring_case(name, our); });
}

void append_field(std::string& head, std::string_view name, std::string_view value) {
  if (!may_send(name)) return;
  head.append(name).append(": ");
  if (has_control(value))
    head.append(safe_value(value));
  else
    head.append(value);
  head.append("\r\n");
}

std::string safe_value(std::string_view value) {
  std::string out(value);
  for (char& c : out)
    if (is_control(c)) c = ' ';
  return out;
}

}  // namespace ashlar::net
