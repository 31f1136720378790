// JSON as every room sees it: object members keep their order.
// Headers need only this one; sources that build or read JSON include
// <nlohmann/json.hpp> through base/json_full.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar {

using Json = nlohmann::ordered_json;

// Bounds on hostile JSON. Objects keep their order by linear search, so the
// number of members is bounded too.
struct JsonLimits {
  std::size_t depth = 128;
  std::size_t members = 1024;       // of one object
  std::size_t elements = SIZE_MAX;  // of one array
  bool unique = false;              // a name twice in one object is an error; else its last value stands
};

// Strict RFC 8259, UTF-8 checked. invalid: not JSON, with the byte where it
// broke; too_large: over a limit.
Result<Json> parse_json(std::string_view text, JsonLimits limits = {});

// For an object with more members than one Json should hold, such as a
// checkpoint's tensors: `in` is a member of the text's object, or empty for that
// object itself. Each member of it goes to `visit` as soon as it is read, in
// order, one that appears twice twice; there may be `most` of them, and `limits`
// holds for everything else. Gives what remains: the text's value, with that
// object empty. Errors as parse_json(), and the first that `visit` gives.
using JsonVisitor = std::function<Status(const std::string& name, const Json& value)>;
Result<Json> parse_json_members(std::string_view text, std::string_view in, std::size_t most, JsonLimits limits,
                                const JsonVisitor& visit);

// Compact text. Bytes that are not UTF-8 become U+FFFD rather than an error.
std::string dump_json(const Json& json);

// `text` as a JSON string with its quotes, appended to `out`; for hot paths
// that write a chunk by hand. Bad UTF-8 becomes U+FFFD.
void append_json_string(std::string& out, std::string_view text);

}  // namespace ashlar
