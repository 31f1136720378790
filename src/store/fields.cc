#include "store/fields.h"

#include "base/json_full.h"

namespace ashlar::store {

const Json& member(const Json& json, std::string_view name) {
  static const Json kNothing;
  if (!json.is_object()) return kNothing;
  const auto found = json.find(std::string(name));
  return found == json.end() ? kNothing : *found;
}

std::string text_of(const Json& json, std::string_view name) {
  const Json& value = member(json, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::optional<std::uint64_t> count_of(const Json& json, std::string_view name) {
  const Json& value = member(json, name);
  if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<std::int64_t>() < 0)) return std::nullopt;
  return value.get<std::uint64_t>();
}

}  // namespace ashlar::store
