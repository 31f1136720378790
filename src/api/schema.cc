#include "api/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "api/fields.h"
#include "base/json_full.h"

namespace ashlar::api {
namespace {

std::string shown(const std::string& name) { return name.empty() ? "the body" : fmt::format("'{}'", name); }

bool is_of(const Json& value, std::string_view type) {
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  return type == "null" && value.is_null();
}

std::string_view called(std::string_view type) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"string", "a string"}, {"integer", "a whole number"}, {"number", "a number"}, {"boolean", "true or false"},
      {"array", "an array"},  {"object", "an object"},       {"null", "null"}};
  for (const auto& [each, name] : kNames)
    if (each == type) return name;
  return type;
}

Outcome<void> check_type(const Json& value, const Json& schema, const std::string& name) {
  const auto type = schema.find("type");
  if (type == schema.end()) return {};
  std::vector<std::string> types;
  if (type->is_array())
    types = type->get<std::vector<std::string>>();
  else
    types.push_back(type->get<std::string>());
  if (std::ranges::any_of(types, [&](const std::string& each) { return is_of(value, each); })) return {};
  std::string wanted;
  for (const std::string& each : types) wanted += (wanted.empty() ? "" : " or ") + std::string(called(each));
  return bad(name, fmt::format("{} should be {}, not {}", shown(name), wanted, kind(value)));
}

Outcome<void> check_number(const Json& value, const Json& schema, const std::string& name) {
  const double number = value.get<double>();
  if (const auto low = schema.find("minimum"); low != schema.end() && number < low->get<double>())
    return bad(name, fmt::format("{} should be at least {}", shown(name), dump_json(*low)));
  if (const auto high = schema.find("maximum"); high != schema.end() && number > high->get<double>())
    return bad(name, fmt::format("{} should be at most {}", shown(name), dump_json(*high)));
  return {};
}

Outcome<void> check_length(const Json& value, const Json& schema, const std::string& name) {
  const auto& text = value.get_ref<const std::string&>();
  const auto length = std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; });
  if (const auto most = schema.find("maxLength"); most != schema.end() && length > most->get<std::int64_t>())
    return bad(name,
               fmt::format("{} should have at most {} characters, not {}", shown(name), dump_json(*most), length));
  if (const auto least = schema.find("minLength"); least != schema.end() && length < least->get<std::int64_t>())
    return bad(name, fmt::format("{} should have at least {} characters", shown(name), dump_json(*least)));
  return {};
}

Outcome<void> check_members(const Json& value, const Json& schema, const std::string& name) {
  const auto inside = [&](const std::string& member) { return name.empty() ? member : name + "." + member; };
  if (const auto required = schema.find("required"); required != schema.end())
    for (const Json& each : *required)
      if (!value.contains(each.get<std::string>())) {
        const std::string missing = inside(each.get<std::string>());
        return bad(missing, fmt::format("'{}' is missing", missing));
      }
  static const Json kNone = Json::object();
  const auto found = schema.find("properties");
  const Json& properties = found == schema.end() ? kNone : *found;
  const auto more = schema.find("additionalProperties");
  for (const auto& [member, each] : value.items()) {
    const std::string path = inside(member.substr(0, 100));
    if (const auto known = properties.find(member); known != properties.end()) {
      TRY(check_schema(each, *known, path));
    } else if (more != schema.end() && more->is_object()) {
      TRY(check_schema(each, *more, path));
    } else if (more != schema.end() && *more == false) {
      std::vector<std::string> names;
      for (const auto& property : properties.items()) names.push_back(property.key());
      return bad(path, fmt::format("'{}' is not known here: there are {}", path, fmt::join(names, ", ")));
    }
  }
  return {};
}

Outcome<void> check_items(const Json& value, const Json& schema, const std::string& name) {
  if (const auto most = schema.find("maxItems"); most != schema.end() && std::ssize(value) > most->get<std::int64_t>())
    return bad(name,
               fmt::format("{} should have at most {} elements, not {}", shown(name), dump_json(*most), value.size()));
  const auto items = schema.find("items");
  if (items == schema.end()) return {};
  for (std::size_t i = 0; i < value.size(); ++i) TRY(check_schema(value[i], *items, fmt::format("{}[{}]", name, i)));
  return {};
}

}  // namespace

Outcome<void> check_schema(const Json& value, const Json& schema, const std::string& name) {
  TRY(check_type(value, schema, name));
  if (const auto one = schema.find("enum"); one != schema.end() && std::ranges::find(*one, value) == one->end()) {
    std::string words;
    for (const Json& each : *one)
      words += (words.empty() ? "" : ", ") + (each.is_string() ? each.get<std::string>() : dump_json(each));
    return bad(name, fmt::format("{} should be one of {}", shown(name), words));
  }
  if (value.is_number()) return check_number(value, schema, name);
  if (value.is_string()) return check_length(value, schema, name);
  if (value.is_object()) return check_members(value, schema, name);
  if (value.is_array()) return check_items(value, schema, name);
  return {};
}

Outcome<void> check_text(std::string_view text, const Json& schema, const std::string& name) {
  const auto type = schema.find("type");
  const std::string wanted = type != schema.end() && type->is_string() ? type->get<std::string>() : "string";
  if (wanted == "string") return check_schema(Json(text), schema, name);
  auto value = parse_json(text);
  return check_schema(value && !value->is_structured() ? *value : Json(text), schema, name);
}

}  // namespace ashlar::api
