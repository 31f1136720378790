#include "cli/rollout_admin.h"

#include <functional>
#include <string>
#include <utility>

#include "base/json_full.h"

namespace ashlar::cli {
namespace {

using api::AdminCall;
using api::AdminOperation;
using gateway::Scope;

Json schema(Json properties) { return {{"type", "object"}, {"properties", std::move(properties)}}; }

Json text(int most) { return {{"type", "string"}, {"maxLength", most}}; }

// What Rollouts::show() gives.
Json rollout_schema() {
  const Json number{{"type", "number"}}, whole{{"type", "integer"}}, object{{"type", "object"}};
  return schema(
      {{"route", text(256)},
       {"to", text(512)},
       {"version", text(256)},
       {"state", {{"type", "string"}, {"enum", {"idle", "running", "paused", "waiting", "promoted", "rolled_back"}}}},
       {"share", number},
       {"step", whole},
       {"steps", {{"type", "array"}, {"items", number}}},
       {"since_ms", whole},
       {"why", text(4096)},
       {"hold_ms", whole},
       {"held_ms", whole},
       {"minimum_requests", whole},
       {"canary", object},
       {"stable", object},
       {"gates", {{"type", "array"}, {"items", object}}}});
}

std::string text_of(const AdminCall& call, const char* name) {
  if (!call.body.is_object()) return "";
  const auto found = call.body.find(name);
  return found != call.body.end() && found->is_string() ? found->get<std::string>() : "";
}

const std::string& route_of(const AdminCall& call) { return call.path.at("route"); }

AdminOperation operation(std::string method, std::string path, Scope scope, std::string id, std::string summary) {
  return {.method = std::move(method),
          .path = "/admin/v1/rollouts" + std::move(path),
          .scope = scope,
          .id = std::move(id),
          .tag = "rollouts",
          .summary = std::move(summary),
          .answer = rollout_schema()};
}

// One that does something to a rollout, and answers what has become of it.
using Change = std::function<Status(const AdminCall& call, const std::string& actor)>;
AdminOperation change(gateway::Rollouts* rollouts, std::string path, std::string id, std::string summary, Json body,
                      Change what) {
  AdminOperation out =
      operation("POST", "/{route}/" + std::move(path), Scope::operate, std::move(id), std::move(summary));
  if (!body.is_null()) body["additionalProperties"] = false;
  out.body = std::move(body);
  out.audited = false;  // its event says more
  out.run = [rollouts, what = std::move(what)](const AdminCall& call, const api::AdminDone& done) {
    if (const Status made = what(call, api::actor_of(call.who)); !made) return done(api::Fault(made.error()));
    auto shown = rollouts->show(route_of(call));
    if (!shown) return done(api::Fault(std::move(shown.error())));
    done(std::move(*shown));
  };
  return out;
}

}  // namespace

std::vector<AdminOperation> rollout_operations(gateway::Rollouts* rollouts, const gateway::Shadows* shadows) {
  std::vector<AdminOperation> out;
  AdminOperation list =
      operation("GET", "", Scope::audit, "listRollouts", "Every route's version on trial, and where it stands.");
  list.answer = schema({{"rollouts", {{"type", "array"}, {"items", rollout_schema()}}},
                        {"shadows", {{"type", "array"}, {"items", text(256)}}}});
  list.run = [=](const AdminCall&, const api::AdminDone& done) {
    done(Json{{"rollouts", rollouts->list()}, {"shadows", shadows->routes()}});
  };
  out.push_back(std::move(list));

  AdminOperation show = operation("GET", "/{route}", Scope::audit, "showRollout",
                                  "One rollout, with the figures of both sides and of each gate.");
  show.run = [=](const AdminCall& call, const api::AdminDone& done) {
    auto found = rollouts->show(route_of(call));
    if (!found) return done(api::Fault(std::move(found.error())));
    done(std::move(*found));
  };
  out.push_back(std::move(show));

  out.push_back(
      change(rollouts, "start", "startRollout", "Begin at the first step, also one that was rolled back.", Json(),
             [=](const AdminCall& call, const std::string& actor) { return rollouts->start(route_of(call), actor); }));
  out.push_back(
      change(rollouts, "pause", "pauseRollout", "Stay at this share; the gates still stand.", Json(),
             [=](const AdminCall& call, const std::string& actor) { return rollouts->pause(route_of(call), actor); }));
  out.push_back(
      change(rollouts, "resume", "resumeRollout", "Go on after a pause.", Json(),
             [=](const AdminCall& call, const std::string& actor) { return rollouts->resume(route_of(call), actor); }));
  out.push_back(change(
      rollouts, "promote", "promoteRollout", "Every request goes to the version on trial.", Json(),
      [=](const AdminCall& call, const std::string& actor) { return rollouts->promote(route_of(call), actor); }));
  out.push_back(change(rollouts, "rollback", "rollbackRollout", "No request goes to the version on trial from now on.",
                       schema({{"why", text(1024)}}), [=](const AdminCall& call, const std::string& actor) {
                         return rollouts->rollback(route_of(call), text_of(call, "why"), actor);
                       }));
  Json judgement = schema({{"side", {{"type", "string"}, {"enum", {"canary", "stable"}}}},
                           {"request", text(256)},
                           {"score", {{"type", "number"}, {"minimum", 0}, {"maximum", 1}}}});
  judgement["required"] = {"score"};
  out.push_back(change(rollouts, "scores", "scoreRollout",
                       "What a judge says of an answer, 0 to 1: of one that a client has by this id, or of one of a side.",
                       std::move(judgement), [=](const AdminCall& call, const std::string&) -> Status {
                         const std::string side = text_of(call, "side"), request = text_of(call, "request");
                         const auto score = call.body.is_object() ? call.body.find("score") : call.body.end();
                         if (score == call.body.end() || !score->is_number() || side.empty() == request.empty())
                           return Error{Code::invalid,
                                        "expected {\"request\": \"chatcmpl-...\", \"score\": 0 to 1}, or a \"side\", "
                                        "canary or stable, in the place of the request"};
                         if (!request.empty()) return rollouts->score_answer(route_of(call), request, score->get<double>());
                         if (side != "canary" && side != "stable")
                           return Error{Code::invalid, "a \"side\" is canary or stable"};
                         return rollouts->score(route_of(call), side == "canary", score->get<double>());
                       }));

  AdminOperation shadow = operation("GET", "/{route}/shadow", Scope::audit, "showShadow",
                                    "What the route's shadow answered, beside what its clients got.");
  shadow.answer = schema({{"route", text(256)}, {"to", text(256)}, {"compared", {{"type", "object"}}}});
  shadow.run = [=](const AdminCall& call, const api::AdminDone& done) {
    auto found = shadows->report(route_of(call));
    if (!found) return done(api::Fault(std::move(found.error())));
    done(std::move(*found));
  };
  out.push_back(std::move(shadow));
  if (rollouts == nullptr || shadows == nullptr)
    for (AdminOperation& each : out)
      each.run = [](const AdminCall&, const api::AdminDone& done) {
        done(api::Fault(Error{Code::unavailable, "this server is not ready to say"}));
      };
  return out;
}

}  // namespace ashlar::cli
