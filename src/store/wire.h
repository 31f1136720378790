// What HTTP servers say about files, and where they send us: read strictly, for
// all of it is hostile.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/http.h"

namespace ashlar::store {

// "bytes 0-99/200", "bytes */200", "bytes 0-99/*" (RFC 9110, 14.4).
struct ContentRange {
  bool unsatisfied = false;            // "*": no bytes come
  std::uint64_t first = 0, last = 0;   // inclusive
  std::optional<std::uint64_t> total;  // nullopt: the server does not know
};
std::optional<ContentRange> parse_content_range(std::string_view text);

// What tells one state of a file from another: its strong ETag, else when it was
// last modified, else "".
std::string validator_of(const net::Headers& headers);
// False: an answer with `headers` is of another state than the one of `validator`.
bool is_same_state(std::string_view validator, const net::Headers& headers);

// Whether another try may go better.
bool is_transient(int status);
bool is_transient(const Error& error);
bool is_redirect(int status);

// Everything but letters, digits and "-._~" as %XX (RFC 3986, 2.3); with
// `keep_slash`, "/" too stays.
std::string percent_encode(std::string_view text, bool keep_slash = false);

// "https://host:port" of a URL. invalid: as parse_url(), but the message shows no
// query, which may hold a signature.
Result<std::string> origin_of(std::string_view url);
// `url` without its query and fragment: what may be shown and kept.
std::string_view without_query(std::string_view url);

// Where a redirect from `url` to `location` leads. corrupt: nowhere; forbidden:
// from https to plain http, or to another kind of address.
Result<std::string> redirect_target(std::string_view url, std::string_view location);

}  // namespace ashlar::store
