// The admin API's operations on what is served: models, upstreams, routes, the server itself.
#include <fmt/format.h>

#include <algorithm>

#include "cli/admin/admin.h"
#include "cli/admin/operation.h"
#include "cli/reload.h"
#include "cli/rollout_admin.h"

#include "cli/rollout_admin.h"

namespace ashlar::cli {
namespace {

using api::AdminCall;
using api::AdminDone;
using api::AdminOperation;
using api::Outcome;
using gateway::Breaker;
using gateway::Scope;

api::Fault not_yet() { return fault({Code::unavailable, "the server is still starting: try again soon"}); }

Json model_schema() {
  return object({{"id", {{"type", "string"}}},
                 {"state",
                  {{"type", "string"},
                   {"enum", Json::array({"loaded", "idle", "remote"})},
                   {"description", "loaded: in memory; idle: comes when it is asked for; remote: others answer"}}},
                 {"owner", {{"type", "string"}}},
                 {"parent", {{"type", "string"}, {"description", "of an adapter, its model"}}},
                 {"context", {{"type", "integer"}}},
                 {"parameters", {{"type", "integer"}}},
                 {"bytes", {{"type", "integer"}}}});
}

Json json_of(const AdminParts& parts, const engine::ModelCard& card, const std::vector<std::string>& loaded) {
  const std::string& home = card.parent.empty() ? card.id : card.parent;
  const bool here = !parts.loaded || std::ranges::find(loaded, home) != loaded.end();
  return {{"id", card.id},           {"state", card.foreign ? "remote" : here ? "loaded" : "idle"},
          {"owner", card.owner},     {"parent", card.parent},
          {"context", card.context}, {"parameters", card.parameters},
          {"bytes", card.bytes}};
}

Outcome<Json> list_models(const AdminParts& parts, const AdminCall&) {
  if (parts.generator == nullptr) return not_yet();
  const std::vector<std::string> loaded = parts.loaded ? parts.loaded() : std::vector<std::string>();
  Json out = Json::array();
  for (const engine::ModelCard& card : parts.generator->models()) out.push_back(json_of(parts, card, loaded));
  return Json{{"models", std::move(out)}};
}

Outcome<Json> show_model(const AdminParts& parts, const AdminCall& call) {
  if (parts.generator == nullptr) return not_yet();
  const auto cards = parts.generator->models();
  const auto found = std::ranges::find(cards, call.path.at("id"), &engine::ModelCard::id);
  if (found == cards.end())
    return fault({Code::not_found, fmt::format("no model is called '{}'", call.path.at("id").substr(0, 200))});
  return json_of(parts, *found, parts.loaded ? parts.loaded() : std::vector<std::string>());
}

void load_model(const AdminParts& parts, const AdminCall& call, const AdminDone& done) {
  const auto shown = show_model(parts, call);
  if (!shown) return done(shown);
  parts.generator->when_ready(call.path.at("id"), [parts, call, done](const Result<const engine::Generator*>& ready) {
    if (!ready) return done(fault(ready.error()));
    done(show_model(parts, call));
  });
}

Outcome<Json> unload_model(const AdminParts& parts, const AdminCall& call) {
  const Json shown = TRY(show_model(parts, call));
  const std::string& id = call.path.at("id");
  if (shown["state"] == "remote")
    return fault({Code::invalid, fmt::format("'{}' is in the memory of others", id.substr(0, 200))});
  if (!shown["parent"].get<std::string>().empty())
    return fault({Code::invalid, "an adapter stands and goes with its model: POST /v1/unload_lora_adapter ends it"});
  if (!parts.unload) return not_yet();
  TRY_FAULT(parts.unload(id));
  return show_model(parts, call);
}

Outcome<Json> force_route(const AdminParts& parts, const AdminCall& call) {
  if (!parts.force) return fault({Code::not_found, "this server has no routes"});
  constexpr std::pair<std::string_view, Breaker::Mode> kModes[] = {{"auto", Breaker::Mode::automatic},
                                                                   {"open", Breaker::Mode::forced_open},
                                                                   {"closed", Breaker::Mode::forced_closed}};
  const std::string wanted = call.body["breaker"].get<std::string>();
  const std::string& name = call.path.at("deployment");
  for (const auto& [word, mode] : kModes)
    if (word == wanted) TRY_FAULT(parts.force(name, mode));
  tell(parts, call, "breaker.forced", name, fmt::format("the breaker of '{}' was set to {}", name, wanted));
  return Json{{"deployment", name}, {"breaker", wanted}};
}

}  // namespace

std::vector<AdminOperation> serving_operations(const AdminParts& parts) {
  const auto list = [](const char* name, const std::function<Json()>& what) {
    return at_once([name, what](const AdminCall&) -> Outcome<Json> {
      Json out = Json::object();
      out[name] = what ? what() : Json::array();
      return out;
    });
  };
  return {
      {.method = "GET",
       .path = "/admin/v1/models",
       .scope = Scope::audit,
       .id = "listModels",
       .tag = "models",
       .summary = "All that is served by name, and whether it is in memory.",
       .answer = object({{"models", list_of(model_schema())}}),
       .run = at_once([parts](const AdminCall& call) { return list_models(parts, call); })},
      {.method = "GET",
       .path = "/admin/v1/models/{id}",
       .scope = Scope::audit,
       .id = "showModel",
       .tag = "models",
       .summary = "One of them.",
       .answer = model_schema(),
       .run = at_once([parts](const AdminCall& call) { return show_model(parts, call); })},
      {.method = "POST",
       .path = "/admin/v1/models/{id}/load",
       .scope = Scope::operate,
       .id = "loadModel",
       .tag = "models",
       .summary = "Bring a model into memory before somebody asks for it; answers when it is there.",
       .answer = model_schema(),
       .run = [parts](const AdminCall& call, const AdminDone& done) { load_model(parts, call, done); }},
      {.method = "POST",
       .path = "/admin/v1/models/{id}/unload",
       .scope = Scope::operate,
       .id = "unloadModel",
       .tag = "models",
       .summary = "Have a model leave memory with the last request that uses it; it comes back when somebody asks for it.",
       .answer = model_schema(),
       .run = at_once([parts](const AdminCall& call) { return unload_model(parts, call); })},
      {.method = "GET",
       .path = "/admin/v1/upstreams",
       .scope = Scope::audit,
       .id = "listUpstreams",
       .tag = "upstreams",
       .summary = "Other servers that answer for this one, and why one is down. Unknown: its probes have neither been answered yet nor "
                  "failed often enough, or there are none; it is asked as if it were up.",
       .answer = object({{"upstreams", list_of(object({{"name", {{"type", "string"}}},
                                                       {"state", words({"up", "down", "unknown"})},
                                                       {"trouble", {{"type", "string"}}},
                                                       {"models", list_of({{"type", "string"}})},
                                                       {"running", {{"type", "integer"}}},
                                                       {"breakers", list_of({{"type", "object"}})}}))}}),
       .run = list("upstreams", parts.upstreams)},
      {.method = "GET",
       .path = "/admin/v1/routes",
       .scope = Scope::audit,
       .id = "listRoutes",
       .tag = "routes",
       .summary = "The deployments of every route: breaker, load and speed.",
       .answer = object({{"routes", list_of(object({{"name", {{"type", "string"}}},
                                                    {"group", {{"type", "string"}}},
                                                    {"label", {{"type", "string"}}},
                                                    {"weight", {{"type", "number"}}},
                                                    {"breaker", words({"closed", "open", "half_open"})},
                                                    {"ejected", {{"type", "boolean"}}},
                                                    {"running", {{"type", "integer"}}},
                                                    {"outstanding_tokens", {{"type", "integer"}}},
                                                    {"cached_prefixes", {{"type", "integer"}}},
                                                    {"first_token_seconds", {{"type", "number"}}}}))}}),
       .run = list("routes", parts.routes)},
      {.method = "PUT",
       .path = "/admin/v1/routes/{deployment}/breaker",
       .scope = Scope::operate,
       .id = "forceBreaker",
       .tag = "routes",
       .summary =
           "Hold a deployment's breaker open (it gets no requests) or closed, or leave it to its triggers again.",
       .body = body({{"breaker", words({"auto", "open", "closed"})}}, {"breaker"}),
       .answer = object({{"deployment", {{"type", "string"}}}, {"breaker", {{"type", "string"}}}}),
       .run = at_once([parts](const AdminCall& call) { return force_route(parts, call); }),
       .audited = false},
      {.method = "GET",
       .path = "/admin/v1/status",
       .scope = Scope::audit,
       .id = "showStatus",
       .tag = "server",
       .summary = "The server: version, since when, what runs, what is wrong.",
       .answer = object({{"version", {{"type", "string"}}},
                         {"started_at", {{"type", "string"}, {"format", "date-time"}}},
                         {"running", {{"type", "integer"}}},
                         {"waiting", {{"type", "integer"}}},
                         {"healthy", {{"type", "boolean"}}},
                         {"database", {{"type", Json::array({"string", "null"})}}},
                         {"troubles", list_of({{"type", "string"}})}}),
       .run = at_once([parts](const AdminCall&) -> Outcome<Json> {
         if (!parts.status) return not_yet();
         return parts.status();
       })},
  };
}

std::vector<AdminOperation> admin_operations(const AdminParts& parts) {
  std::vector<AdminOperation> all;
  const auto add = [&all](std::vector<AdminOperation> some) { std::ranges::move(some, std::back_inserter(all)); };
  add(key_operations(parts));
  add(team_operations(parts));
  add(budget_operations(parts));
  add(event_operations(parts));
  add(serving_operations(parts));
  add(config_operations(parts.reloader));
  add(rollout_operations(parts.rollouts, parts.shadows));
  for (AdminOperation& each : all)
    if ((parts.reloader == nullptr && each.tag == "config") || (parts.rollouts == nullptr && each.tag == "rollouts"))
      each.run = at_once([](const AdminCall&) -> Outcome<Json> { return not_yet(); });
  return all;
}

}  // namespace ashlar::cli
