#include "cli/admin/records.h"

#include <fmt/format.h>

#include "cli/times.h"
#include "gateway/limits/prices.h"

namespace ashlar::cli {
namespace {

// A member that is there goes to `out`.
template <class T>
void read(const Json& body, const char* name, T& out) {
  if (const auto found = body.find(name); found != body.end()) out = found->get<T>();
}

}  // namespace

std::string_view state_of(const gateway::KeyRecord& key) {
  if (key.blocked) return "blocked";
  return key.expires_at != 0 && key.expires_at <= gateway::system_unix_seconds() ? "expired" : "active";
}

Json json_of(const gateway::KeyRecord& key) {
  Json tags = Json::object();
  for (const auto& [name, value] : key.tags) tags[name] = value;
  const auto time = [](std::int64_t at) { return at == 0 ? Json() : Json(utc(at)); };
  return {{"id", key.id},
          {"name", key.name},
          {"prefix", key.prefix},
          {"state", state_of(key)},
          {"user", key.user},
          {"team", key.team},
          {"tenant", key.tenant},
          {"roles", names(key.roles)},
          {"models", key.models},
          {"networks", key.networks},
          {"tags", std::move(tags)},
          {"max_output_tokens", key.output_cap},
          {"min_priority", key.min_priority},
          {"metadata", parse_json(key.metadata).value_or(Json::object())},
          {"created_at", time(key.created_at)},
          {"expires_at", time(key.expires_at)},
          {"previous_valid_until", key.previous_hash ? time(key.previous_until) : Json()}};
}

Json json_of(const gateway::TeamRecord& team) {
  return {{"name", team.name},
          {"state", team.blocked ? "blocked" : "active"},
          {"tenant", team.tenant},
          {"description", team.description},
          {"members", team.members},
          {"models", team.models},
          {"created_at", utc(team.created_at)}};
}

Json json_of(const gateway::KeptBudget& budget) {
  return {{"id", budget.id},
          {"name", budget.name},
          {"scope", gateway::name(budget.scope)},
          {"who", budget.who},
          {"window", gateway::name(budget.window)},
          {"dollars", store::dollars(budget.capacity)},
          {"capacity_nano_usd", budget.capacity},
          {"alerts", budget.alerts},
          {"soft", budget.soft},
          {"created_at", utc(budget.created_at)}};
}

Json json_of(const store::UsageSum& sum, const std::vector<std::string>& by) {
  Json json = Json::object();
  for (std::size_t i = 0; i < by.size(); ++i) json[by[i]] = sum.by[i];
  json["requests"] = sum.requests;
  json["failed"] = sum.failed;
  json["prompt_tokens"] = sum.prompt_tokens;
  json["cached_tokens"] = sum.cached_tokens;
  json["cache_write_tokens"] = sum.cache_write_tokens;
  json["completion_tokens"] = sum.completion_tokens;
  json["reasoning_tokens"] = sum.reasoning_tokens;
  json["cost_nano_usd"] = sum.cost_nano;
  return json;
}

Status read_wishes(const Json& body, gateway::KeyRecord& record) {
  read(body, "name", record.name);
  read(body, "user", record.user);
  read(body, "team", record.team);
  read(body, "tenant", record.tenant);
  read(body, "models", record.models);
  read(body, "networks", record.networks);
  read(body, "max_output_tokens", record.output_cap);
  read(body, "min_priority", record.min_priority);
  read(body, "blocked", record.blocked);
  if (body.contains("roles")) record.roles = TRY(gateway::parse_roles(body["roles"].get<std::vector<std::string>>()));
  if (body.contains("tags")) {
    record.tags.clear();
    for (const auto& [name, value] : body["tags"].items()) record.tags.emplace_back(name, value.get<std::string>());
  }
  if (body.contains("metadata")) record.metadata = dump_json(body["metadata"]);
  if (body.contains("expires"))
    record.expires_at =
        body["expires"].is_null() ? 0 : TRY(parse_expiry(body["expires"].get<std::string>(), "'expires'"));
  return {};
}

Status read_wishes(const Json& body, gateway::TeamRecord& record) {
  read(body, "tenant", record.tenant);
  read(body, "description", record.description);
  read(body, "members", record.members);
  read(body, "models", record.models);
  read(body, "blocked", record.blocked);
  return {};
}

Status read_wishes(const Json& body, gateway::KeptBudget& budget) {
  read(body, "name", budget.name);
  read(body, "alerts", budget.alerts);
  read(body, "soft", budget.soft);
  if (body.contains("dollars")) budget.capacity = TRY(read_dollars(body["dollars"]));
  return {};
}

Result<std::int64_t> read_dollars(const Json& value) {
  return gateway::parse_dollars(value.is_string() ? value.get<std::string>() : dump_json(value));
}

}  // namespace ashlar::cli
