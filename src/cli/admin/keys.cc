// The admin API's operations on keys.
#include <fmt/format.h>

#include "cli/admin/admin.h"
#include "cli/admin/operation.h"
#include "cli/admin/records.h"
#include "cli/times.h"

namespace ashlar::cli {
namespace {

using api::AdminCall;
using api::AdminOperation;
using api::Outcome;
using gateway::KeyRecord;
using gateway::Scope;

Json wishes() {
  return {{"name", text()},
          {"user", text()},
          {"team", text()},
          {"tenant", text()},
          {"roles", list_of(words({"admin", "operator", "auditor", "developer", "app"}))},
          {"models", texts(1'000)},
          {"networks", texts(1'000, 64)},
          {"tags", {{"type", "object"}, {"additionalProperties", text()}}},
          {"max_output_tokens", whole(0, 1'000'000'000)},
          {"min_priority", whole(-1'000'000, 0)},
          {"metadata", {{"type", "object"}}},
          {"expires",
           {{"type", Json::array({"string", "null"})},
            {"maxLength", 64},
            {"description", "after 30d or 12h, on a day or at a time (UTC); null: never"}}}};
}

Json key_schema() {
  return object({{"id", {{"type", "string"}}},
                 {"name", {{"type", "string"}}},
                 {"prefix", {{"type", "string"}}},
                 {"state", words({"active", "blocked", "expired"})},
                 {"user", {{"type", "string"}}},
                 {"team", {{"type", "string"}}},
                 {"tenant", {{"type", "string"}}},
                 {"roles", list_of({{"type", "string"}})},
                 {"models", list_of({{"type", "string"}})},
                 {"networks", list_of({{"type", "string"}})},
                 {"tags", {{"type", "object"}}},
                 {"max_output_tokens", {{"type", "integer"}}},
                 {"min_priority", {{"type", "integer"}}},
                 {"metadata", {{"type", "object"}}},
                 {"created_at", time_or_null()},
                 {"expires_at", time_or_null()},
                 {"previous_valid_until", time_or_null()}});
}

Json shown_schema() {
  Json schema = key_schema();
  schema["properties"]["key"] = {{"type", "string"}, {"description", "the secret; it is shown this once"}};
  return schema;
}

// The ring has it when the answer goes out.
void reload(const AdminParts& parts) {
  if (parts.ring != nullptr) (void)parts.ring->reload();  // else it has it within a quarter of a second
}

Json show_new(const gateway::ShownKey& shown) {
  Json out = json_of(shown.record);
  out["key"] = shown.text;
  return out;
}

Outcome<Json> list_keys(const AdminParts& parts, const AdminCall& call) {
  if (parts.keys == nullptr) return not_kept();
  const auto wanted = [&](const char* name, const std::string& value) {
    const auto found = call.query.find(name);
    return found == call.query.end() || found->second == value;
  };
  Json out = Json::array();
  for (const KeyRecord& key : TRY_FAULT(parts.keys->list()))
    if (wanted("team", key.team) && wanted("user", key.user) && wanted("tenant", key.tenant))
      out.push_back(json_of(key));
  return Json{{"keys", std::move(out)}};
}

Outcome<Json> create_key(const AdminParts& parts, const AdminCall& call) {
  if (parts.keys == nullptr) return not_kept();
  KeyRecord wished;
  TRY_FAULT(read_wishes(call.body, wished));
  const auto shown = TRY_FAULT(parts.keys->create(std::move(wished)));
  reload(parts);
  tell(parts, call, "key.created", shown.record.id, fmt::format("the key '{}' was made", shown.record.name),
       {{"key", json_of(shown.record)}});
  return show_new(shown);
}

Outcome<Json> change_key(const AdminParts& parts, const AdminCall& call) {
  if (parts.keys == nullptr) return not_kept();
  KeyRecord before;
  const auto after = TRY_FAULT(parts.keys->edit(call.path.at("id"), [&](KeyRecord& record) -> Status {
    before = record;
    return read_wishes(call.body, record);
  }));
  reload(parts);
  if (before.blocked != after.blocked)
    tell(parts, call, after.blocked ? "key.blocked" : "key.unblocked", after.id,
         fmt::format("the key '{}' was {}", after.name, after.blocked ? "blocked" : "unblocked"));
  if (call.body.size() > (call.body.contains("blocked") ? 1u : 0u))
    tell(parts, call, "key.changed", after.id, fmt::format("the key '{}' was changed", after.name),
         {{"changes", call.body}});
  return json_of(after);
}

Outcome<Json> rotate_key(const AdminParts& parts, const AdminCall& call) {
  if (parts.keys == nullptr) return not_kept();
  const auto overlap = TRY_FAULT(parse_span(call.body.value("overlap", "24h"), "'overlap'"));
  const auto shown = TRY_FAULT(parts.keys->rotate(call.path.at("id"), overlap, call.came));
  reload(parts);
  tell(parts, call, "key.rotated", shown.record.id, fmt::format("the key '{}' got a new secret", shown.record.name),
       {{"old_valid_until", utc(shown.record.previous_until)}});
  return show_new(shown);
}

Outcome<Json> delete_key(const AdminParts& parts, const AdminCall& call) {
  if (parts.keys == nullptr) return not_kept();
  const std::string& id = call.path.at("id");
  const auto found = parts.keys->find(id);
  // Who deletes it again finds it deleted.
  if (!found && found.error().code == Code::not_found && id.starts_with("key_"))
    return Json{{"id", id}, {"deleted", false}};
  const KeyRecord record = TRY_FAULT(found);
  TRY_FAULT(parts.keys->remove(record.id));
  reload(parts);
  tell(parts, call, "key.deleted", record.id, fmt::format("the key '{}' was deleted", record.name));
  return Json{{"id", record.id}, {"deleted", true}};
}

}  // namespace

std::vector<AdminOperation> key_operations(const AdminParts& parts) {
  Json changes = wishes();
  changes["blocked"] = {{"type", "boolean"}};
  const auto with = [&parts](Outcome<Json> (*action)(const AdminParts&, const AdminCall&)) {
    return at_once([parts, action](const AdminCall& call) { return action(parts, call); });
  };
  return {
      {.method = "GET",
       .path = "/admin/v1/keys",
       .scope = Scope::audit,
       .id = "listKeys",
       .tag = "keys",
       .summary = "The API keys, oldest first, without their secrets.",
       .parameters = Json::array({parameter("team", "Only those of this team.", text()),
                                  parameter("user", "Only those of this user.", text()),
                                  parameter("tenant", "Only those of this tenant.", text())}),
       .answer = object({{"keys", list_of(key_schema())}}),
       .run = with(list_keys)},
      {.method = "POST",
       .path = "/admin/v1/keys",
       .id = "createKey",
       .tag = "keys",
       .summary = "Make a key. Its secret is in the answer, this once.",
       .body = body(wishes()),
       .answer = shown_schema(),
       .run = with(create_key),
       .audited = false},
      {.method = "GET",
       .path = "/admin/v1/keys/{id}",
       .scope = Scope::audit,
       .id = "showKey",
       .tag = "keys",
       .summary = "A key, by its id, the beginning that is shown, or its name.",
       .answer = key_schema(),
       .run = at_once([parts](const AdminCall& call) -> Outcome<Json> {
         if (parts.keys == nullptr) return not_kept();
         return json_of(TRY_FAULT(parts.keys->find(call.path.at("id"))));
       })},
      {.method = "PATCH",
       .path = "/admin/v1/keys/{id}",
       .id = "changeKey",
       .tag = "keys",
       .summary = "Change a key: what is sent is changed, the rest stays. Block it with {\"blocked\": true}.",
       .body = body(std::move(changes)),
       .answer = key_schema(),
       .run = with(change_key),
       .audited = false},
      {.method = "POST",
       .path = "/admin/v1/keys/{id}/rotate",
       .id = "rotateKey",
       .tag = "keys",
       .summary = "A new secret for a key; the old one is valid for `overlap` (24h) longer.",
       .body = body({{"overlap", text(32)}}),
       .answer = shown_schema(),
       .run = with(rotate_key),
       .audited = false},
      {.method = "DELETE",
       .path = "/admin/v1/keys/{id}",
       .id = "deleteKey",
       .tag = "keys",
       .summary = "Delete a key for good.",
       .answer = object({{"id", {{"type", "string"}}}, {"deleted", {{"type", "boolean"}}}}),
       .run = with(delete_key),
       .audited = false},
  };
}

}  // namespace ashlar::cli
