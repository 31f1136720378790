// The words of HTTP: statuses, dates, header fields, request targets. Strict
// where leniency lets two parsers see two different requests.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "net/http.h"

namespace ashlar::net {

// Why a message is refused: the status a server answers, and a sentence.
struct Refusal {
  int status = 400;
  std::string why;
};

// "Not Found"; "Unknown" for a status without a name.
std::string_view reason(int status);

// Now, as in "Sat, 21 Nov 2026 00:10:00 GMT" (RFC 9110, 5.6.7). Made once a
// second per thread; valid until the thread's next call.
std::string_view http_date();

// The body of an answer that this room gives by itself, as JSON:
// {"error":{"message":...,"type":...,"param":null,"code":null, or a string}}
std::string error_body(int status, std::string_view message);
// Its headers.
Headers error_headers(int status = 500);

bool is_token(std::string_view text);  // RFC 9110, 5.6.2; not empty
std::string lower(std::string_view text);
bool equals_ignoring_case(std::string_view a, std::string_view b);
// Without blanks and tabs around it.
std::string_view trim(std::string_view text);
// Takes the first item off the comma-separated list `rest`, without blanks around it: it may be empty.
std::string_view take_item(std::string_view& rest);
// Whether the comma-separated list `value` holds `word`, in any case.
bool has_word(std::string_view value, std::string_view word);

// Digits only, below 2^63.
std::optional<std::uint64_t> parse_decimal(std::string_view text);

// The wait that Retry-After asks for, at most ten days: seconds, or a date seen from `now`.
std::optional<std::chrono::milliseconds> parse_retry_after(std::string_view text,
                                                           std::chrono::system_clock::time_point now);

// nullopt: a '%' without two hex digits, or %00.
std::optional<std::string> percent_decode(std::string_view text);

// Splits "/a%20b?c=d", "http://host/a" or "*" into decoded path and raw query.
// False: not such a target.
bool split_target(std::string_view target, std::string& path, std::string& query);

// One header line without its CRLF, appended in lower case and trimmed.
// nullptr, or what is wrong with it.
const char* parse_field(std::string_view line, Headers& headers);

// A field that we may send: the name a token and none of those that frame a
// message (they are ours to say).
bool may_send(std::string_view name);
// Appends "name: value\r\n", if it may_send(name), with the value as safe_value() leaves it.
void append_field(std::string& head, std::string_view name, std::string_view value);
// `value` with control characters, above all CR and LF, made spaces.
std::string safe_value(std::string_view value);

}  // namespace ashlar::net
