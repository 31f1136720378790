// The admin API's operations on what happened: events, and usage.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "cli/admin/admin.h"
#include "cli/admin/operation.h"
#include "cli/admin/records.h"
#include "cli/times.h"

namespace ashlar::cli {
namespace {

using api::AdminCall;
using api::AdminOperation;
using api::bad;
using api::Outcome;
using gateway::Scope;

// Of the query; "": it was not said.
std::string said(const AdminCall& call, const char* name) {
  const auto found = call.query.find(name);
  return found == call.query.end() ? "" : found->second;
}
// A number that its schema has seen.
std::int64_t number(const std::string& text) {
  std::int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}
Outcome<void> read_time(const AdminCall& call, const char* name, std::int64_t& out) {
  const std::string text = said(call, name);
  if (text.empty()) return {};
  const auto at = parse_when(text);
  if (!at) return bad(name, at.error().message);
  out = *at;
  return {};
}

Json times() {
  return Json::array({parameter("since", "From then on: a UTC day or time, or how long ago (24h, 7d).", text(64)),
                      parameter("until", "Before then.", text(64))});
}

Outcome<Json> list_events(const AdminParts& parts, const AdminCall& call) {
  if (parts.events == nullptr) return not_kept();
  gateway::EventFilter filter;
  TRY(read_time(call, "since", filter.since_ms));
  TRY(read_time(call, "until", filter.until_ms));
  filter.kind = said(call, "kind");
  filter.subject = said(call, "subject");
  if (const auto least = gateway::severity_of(said(call, "severity"))) filter.least = *least;
  if (const std::string limit = said(call, "limit"); !limit.empty()) filter.limit = static_cast<int>(number(limit));
  if (const std::string cursor = said(call, "cursor"); !cursor.empty()) filter.before = number(cursor);
  if (const std::string after = said(call, "after"); !after.empty()) filter.after = number(after);
  const gateway::EventPage page = TRY_FAULT(parts.events->list(filter));
  Json out = Json::array();
  for (const gateway::KeptEvent& each : page.events) out.push_back(gateway::json_of(each));
  return Json{{"events", std::move(out)}, {"next_cursor", page.more ? Json(page.events.back().id) : Json()}};
}

Outcome<Json> show_usage(const AdminParts& parts, const AdminCall& call) {
  if (parts.database == nullptr) return not_kept();
  store::UsageFilter filter;
  TRY(read_time(call, "since", filter.since_ms));
  TRY(read_time(call, "until", filter.until_ms));
  for (const char* dimension : {"tenant", "team", "user", "key", "model", "deployment", "request"})
    if (call.query.contains(dimension)) filter.where.emplace_back(dimension, said(call, dimension));
  std::vector<std::string> by;
  const std::string list = call.query.contains("by") ? said(call, "by") : "model";
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    by.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  if (by.size() > 8) return bad("by", "usage is summed by at most eight dimensions");
  Json out = Json::array();
  for (const store::UsageSum& sum : TRY_FAULT(store::sum_usage(*parts.database, filter, by)))
    out.push_back(json_of(sum, by));
  return Json{{"usage", std::move(out)}};
}

}  // namespace

std::vector<AdminOperation> event_operations(const AdminParts& parts) {
  Json event_parameters = times();
  event_parameters.push_back(parameter("kind", "What the kind begins with: breaker, key.created.", text()));
  event_parameters.push_back(parameter("subject", "Whom it happened to.", text(256)));
  event_parameters.push_back(parameter("severity", "This or worse.", words({"info", "warning", "error"})));
  event_parameters.push_back(parameter("limit", "Most of one page; left out: 100.", whole(1, 1'000)));
  event_parameters.push_back(
      parameter("cursor", "The page after: next_cursor of the one before.", whole(0, INT64_MAX)));
  event_parameters.push_back(parameter("after", "Only those with a greater id.", whole(0, INT64_MAX)));
  Json usage_parameters = times();
  usage_parameters.push_back(parameter(
      "by",
      "tenant, team, user, key, model, deployment, request, status, day or tag:NAME; several with commas. Left out: model.",
      text(512)));
  for (const char* each : {"tenant", "team", "user", "key", "model", "deployment", "request"})
    usage_parameters.push_back(parameter(each, "Only of this one.", text(512)));
  const Json event = object({{"id", {{"type", "integer"}}},
                             {"at", {{"type", "string"}, {"format", "date-time"}}},
                             {"kind", {{"type", "string"}}},
                             {"subject", {{"type", "string"}}},
                             {"severity", words({"info", "warning", "error"})},
                             {"message", {{"type", "string"}}},
                             {"actor", {{"type", "string"}, {"description", "the key that asked; \"\": the server"}}},
                             {"details", {{"type", "object"}}}});
  return {
      {.method = "GET",
       .path = "/admin/v1/events",
       .scope = Scope::audit,
       .id = "listEvents",
       .tag = "events",
       .summary = "What happened to the server, the newest first.",
       .parameters = std::move(event_parameters),
       .answer = object({{"events", list_of(event)}, {"next_cursor", {{"type", Json::array({"integer", "null"})}}}}),
       .run = at_once([parts](const AdminCall& call) { return list_events(parts, call); })},
      {.method = "GET",
       .path = "/admin/v1/usage",
       .scope = Scope::audit,
       .id = "showUsage",
       .tag = "usage",
       .summary = "Requests, tokens and money, as `ashlar usage` sums them: the dearest first.",
       .parameters = std::move(usage_parameters),
       .answer = object({{"usage", list_of({{"type", "object"}})}}),
       .run = at_once([parts](const AdminCall& call) { return show_usage(parts, call); })},
  };
}

}  // namespace ashlar::cli
