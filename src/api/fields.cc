#include "api/fields.h"

#include <fmt/format.h>

#include <cmath>

#include "base/duration.h"
#include "base/json_full.h"

namespace ashlar::api {
namespace {

Fault wrong_type(std::string_view name, std::string_view expected, const Json& got) {
  return bad(std::string(name), fmt::format("'{}' should be {}, not {}", name, expected, kind(got)));
}

std::string describe(Range range) {
  if (range.high == std::numeric_limits<double>::max())
    return fmt::format("{} {}", range.above_low ? "greater than" : "at least", range.low);
  return fmt::format("{} {} and at most {}", range.above_low ? "greater than" : "at least", range.low, range.high);
}

bool inside(double value, Range range) {
  return value <= range.high && (range.above_low ? value > range.low : value >= range.low);
}

// A whole number: written as one, or as a float without a fraction (1.0).
std::optional<std::int64_t> whole(const Json& json) {
  if (json.is_number_unsigned()) {
    const auto value = json.get<std::uint64_t>();
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
    return static_cast<std::int64_t>(value);
  }
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_number_float()) {
    const auto value = json.get<double>();
    if (std::trunc(value) == value && std::abs(value) < 9e15) return static_cast<std::int64_t>(value);
  }
  return std::nullopt;
}

}  // namespace

std::string_view kind(const Json& json) {
  switch (json.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    default:
      return "a number";
  }
}

Outcome<Json> parse_body(const net::HttpRequest& request) {
  if (request.body.empty()) return bad("", "the request has no body: send a JSON object");
  auto parsed = parse_json(request.body);
  const auto encoding = net::find_header(request.headers, "content-encoding");
  if (!parsed && !encoding.empty() && encoding != "identity") {
    Fault fault({Code::unsupported, fmt::format("a body in the content-encoding '{}' is not read: send it as it is",
                                                encoding.substr(0, 40))},
                "", "unsupported_content_encoding");
    fault.status = 415;
    return fault;
  }
  if (!parsed) return bad("", fmt::format("the body is not acceptable {}", parsed.error().message));
  if (!parsed->is_object()) return bad("", fmt::format("the body should be a JSON object, not {}", kind(*parsed)));
  return std::move(*parsed);
}

const Json* Fields::find(std::string_view name) const {
  if (!object_.is_object()) return nullptr;
  for (const auto& [member, value] : object_.get_ref<const Json::object_t&>())
    if (std::string_view(member) == name) return value.is_null() ? nullptr : &value;
  return nullptr;
}

void Fields::read(std::string_view name, bool& out) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) return fail(wrong_type(name, "a boolean", *value));
  out = value->get<bool>();
}

void Fields::read(std::string_view name, std::int64_t& out, Range range) {
  const Json* value = find(name);
  if (value == nullptr) return;
  const auto number = whole(*value);
  if (!number) {
    if (value->is_number())
      return fail(bad(std::string(name), fmt::format("'{}' should be a whole number of 64 bits", name)));
    return fail(wrong_type(name, "a whole number", *value));
  }
  if (!inside(static_cast<double>(*number), range))
    return fail(bad(std::string(name), fmt::format("'{}' is {}; it should be {}", name, *number, describe(range))));
  out = *number;
}

void Fields::read(std::string_view name, int& out, Range range) {
  std::int64_t wide = out;
  range.low = std::max<double>(range.low, std::numeric_limits<int>::min());
  range.high = std::min<double>(range.high, std::numeric_limits<int>::max());
  read(name, wide, range);
  out = static_cast<int>(wide);
}

void Fields::read(std::string_view name, float& out, Range range) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_number()) return fail(wrong_type(name, "a number", *value));
  const auto number = value->get<double>();
  if (!inside(number, range))
    return fail(bad(std::string(name), fmt::format("'{}' is {}; it should be {}", name, number, describe(range))));
  out = static_cast<float>(number);
}

void Fields::read(std::string_view name, std::string& out, std::size_t max_bytes) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_string()) return fail(wrong_type(name, "a string", *value));
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes)
    return fail(
        bad(std::string(name), fmt::format("'{}' has {} bytes; at most {} are allowed", name, text.size(), max_bytes)));
  out = text;
}

void Fields::read_ids(std::string_view name, std::vector<std::int32_t>& out, int vocabulary) {
  const Json* value = read_array(name);
  if (value == nullptr) return;
  auto ids = read_token_ids(*value, name, vocabulary);
  if (!ids) return fail(std::move(ids).error());
  out = std::move(*ids);
}

void Fields::read(std::string_view name, std::optional<std::chrono::milliseconds>& out) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_number() && !value->is_string())
    return fail(wrong_type(name, "a number of seconds or a text such as \"5m\"", *value));
  const auto time =
      value->is_string() ? parse_duration(value->get_ref<const std::string&>()) : duration_of(value->get<double>());
  if (!time)
    return fail(bad(std::string(name), fmt::format("'{}' should be a number of seconds or a text such as \"5m\", "
                                                   "\"1h30m\" or \"-1\"",
                                                   name)));
  out = *time;
}

const Json* Fields::read_object(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_object()) return value;
  fail(wrong_type(name, "an object", *value));
  return nullptr;
}

const Json* Fields::read_array(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_array()) return value;
  fail(wrong_type(name, "an array", *value));
  return nullptr;
}

void Fields::refuse(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || *value == Json(false)) return;
  if ((value->is_array() || value->is_object()) && value->empty()) return;
  if (value->is_string() && value->get_ref<const std::string&>().empty()) return;
  fail(not_yet(std::string(name), fmt::format("'{}'", name)));
}

void Fields::fail(Fault fault) {
  if (!fault_) fault_ = std::move(fault);
}

Outcome<void> Fields::done() const {
  if (fault_) return Fault(*fault_);
  return {};
}

Outcome<std::vector<std::int32_t>> read_token_ids(const Json& array, std::string_view param, int vocabulary) {
  std::vector<std::int32_t> out;
  out.reserve(array.size());
  for (const Json& item : array) {
    const auto id = whole(item);
    if (!id) return bad(std::string(param), fmt::format("'{}' should hold token ids, not {}", param, kind(item)));
    if (*id < 0 || *id >= vocabulary)
      return bad(std::string(param),
                 fmt::format("'{}' holds the token id {}; this model's ids are 0 to {}", param, *id, vocabulary - 1));
    out.push_back(static_cast<std::int32_t>(*id));
  }
  return out;
}

}  // namespace ashlar::api
