#include "gateway/identity/rows.h"

#include <openssl/rand.h>

#include <cstdint>

#include "base/json_full.h"

namespace ashlar::gateway {

store::Statement next_keys_generation() {
  std::int64_t value = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&value), sizeof value);
  return {.sql = "UPDATE api_keys_generation SET value = ? WHERE one = 1", .args = {value & INT64_MAX}};
}

std::string list_json(const std::vector<std::string>& list) { return dump_json(Json(list)); }

std::vector<std::string> read_list(const store::Value& value) {
  std::vector<std::string> out;
  if (const auto json = parse_json(store::as_text(value)); json && json->is_array())
    for (const Json& each : *json)
      if (each.is_string()) out.push_back(each.get<std::string>());
  return out;
}

std::string tags_json(const Tags& tags) {
  Json out = Json::object();
  for (const auto& [name, value] : tags) out[name] = value;
  return dump_json(out);
}

Tags read_tags(const store::Value& value) {
  Tags out;
  if (const auto json = parse_json(store::as_text(value)); json && json->is_object())
    for (const auto& [name, each] : json->items())
      if (each.is_string()) out.emplace_back(name, each.get<std::string>());
  return out;
}

}  // namespace ashlar::gateway
