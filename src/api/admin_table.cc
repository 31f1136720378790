#include "api/admin_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <optional>
#include <utility>

#include "api/fields.h"
#include "api/schema.h"
#include "base/json_full.h"
#include "base/log.h"
#include "base/threads.h"
#include "net/http_text.h"

namespace ashlar::api {
namespace {

constexpr std::size_t kLongestPath = 2'048, kMostParts = 32, kLongestBody = 1 << 20, kMostWaiting = 256;
constexpr std::size_t kMostParameters = 32, kLongestValue = 4'096, kLongestReplayKey = 255;
constexpr int kThreads = 4;
constexpr JsonLimits kBodyLimits{.depth = 32, .members = 1'024, .elements = 100'000, .unique = true};

using Parts = std::vector<std::string_view>;

Parts parts_of(std::string_view path) {
  Parts parts;
  for (std::size_t at = 1; at <= path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    parts.push_back(path.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

bool is_name(std::string_view part) { return part.starts_with('{') && part.ends_with('}'); }

// Whether template[t..] fits path[p..]. Templates have few names, so the tries are few.
bool fits(const Parts& form, std::size_t t, const Parts& path, std::size_t p,
          std::map<std::string, std::string>& names) {
  if (t == form.size()) return p == path.size();
  if (p == path.size()) return false;
  if (!is_name(form[t])) return form[t] == path[p] && fits(form, t + 1, path, p + 1, names);
  std::string value;
  for (std::size_t end = p; end < path.size(); ++end) {
    value += (end == p ? "" : "/") + std::string(path[end]);
    if (value.empty() || !fits(form, t + 1, path, end + 1, names)) continue;
    names[std::string(form[t].substr(1, form[t].size() - 2))] = value;
    return true;
  }
  return false;
}

// "a=1&b=x%20y" by name. Bounded by the header's size.
Outcome<std::map<std::string, std::string>> read_query(std::string_view query, const Json& parameters) {
  std::map<std::string, std::string> out;
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (pair.empty()) continue;
    const std::size_t equals = std::min(pair.find('='), pair.size());
    const auto decode = [](std::string_view text) {
      std::string plain(text);
      std::ranges::replace(plain, '+', ' ');
      return net::percent_decode(plain);
    };
    const auto name = decode(pair.substr(0, equals));
    const auto value = decode(equals == pair.size() ? std::string_view() : pair.substr(equals + 1));
    if (!name || !value || value->size() > kLongestValue || out.size() == kMostParameters)
      return bad("", "the query is not well-formed, or too long");
    const auto known = parameters.is_array()
                           ? std::ranges::find_if(parameters, [&](const Json& each) { return each["name"] == *name; })
                           : parameters.end();
    const std::string shown = name->substr(0, 100);
    if (!parameters.is_array() || known == parameters.end())
      return bad(shown, fmt::format("the query's '{}' is not known here", shown));
    if (const auto schema = known->find("schema"); schema != known->end()) TRY(check_text(*value, *schema, shown));
    if (!out.emplace(*name, *value).second) return bad(shown, fmt::format("the query has '{}' twice", shown));
  }
  return out;
}

Outcome<Json> read_body(const std::string& body, const Json& schema) {
  if (body.size() > kLongestBody) return Fault({Code::too_large, "the body is larger than 1 MiB"});
  const bool blank = body.find_first_not_of(" \t\r\n") == std::string::npos;
  if (schema.is_null()) {
    if (blank || body == "{}") return Json();
    return bad("", "a body is not expected here");
  }
  Json value = Json::object();
  if (!blank) {
    auto parsed = parse_json(body, kBodyLimits);
    if (!parsed) return bad("", fmt::format("the body is not acceptable {}", parsed.error().message));
    value = std::move(*parsed);
  }
  TRY(check_schema(value, schema));
  return value;
}

// Somebody else was first.
Outcome<Json> conflict(const Fault& lost) {
  Fault fault({Code::invalid, lost.error.message}, "", "conflict");
  fault.status = 409;
  return fault;
}

}  // namespace

// A call on its way, kept by whoever will end it.
struct AdminTable::Running {
  const std::shared_ptr<const std::vector<AdminOperation>> table;
  const AdminOperation& operation;  // of it
  const std::shared_ptr<net::Exchange> exchange;
  const std::string request_id;
  gateway::EventLog* const events;
  const std::shared_ptr<Replays> replays;
  std::string replay_key{};  // "": none
  AdminCall call{};
  std::atomic<bool> ended = false;

  ~Running() {
    if (!ended && !replay_key.empty()) replays->forget(replay_key);
  }

  void end(Outcome<Json> outcome) {
    if (ended.exchange(true)) return;
    if (!outcome && outcome.error().error.code == Code::cancelled) outcome = conflict(outcome.error());
    if (operation.audited && operation.method != "GET") audit(outcome);
    if (!outcome) {
      if (!replay_key.empty()) replays->forget(replay_key);
      return respond_fault(*exchange, outcome.error());
    }
    std::string body = dump_json(*outcome);
    if (!replay_key.empty()) replays->end(replay_key, body);
    respond(std::move(body), false);
  }

  void respond(std::string body, bool replayed) const {
    net::Headers headers{{"content-type", "application/json"}, {"cache-control", "no-store"}};
    if (replayed) headers.emplace_back("idempotent-replayed", "true");
    exchange->respond(200, std::move(headers), std::move(body));
  }

  void audit(const Outcome<Json>& outcome) const {
    if (events == nullptr) return;
    std::string subject;
    for (const auto& [name, value] : call.path) subject += (subject.empty() ? "" : ", ") + value;
    if (subject.empty() && outcome && outcome->is_object())
      for (const char* member : {"id", "name"})
        if (const auto found = outcome->find(member); subject.empty() && found != outcome->end() && found->is_string())
          subject = found->get<std::string>();
    Json details{{"request_id", request_id}, {"operation", operation.id}};
    if (call.body.is_object()) {  // values may be secrets
      details["members"] = Json::array();
      for (const auto& member : call.body.items()) details["members"].push_back(member.key());
    }
    std::string_view what = operation.summary;
    if (!outcome && what.ends_with('.')) what.remove_suffix(1);  // the sentence goes on
    events->write(
        {.kind = "admin." + operation.id,
         .subject = std::move(subject),
         .severity = outcome ? gateway::Severity::info : gateway::Severity::warning,
         .message = outcome ? operation.summary : fmt::format("{}: refused: {}", what, outcome.error().error.message),
         .actor = actor_of(call.who),
         .details = std::move(details)});
  }
};

std::string actor_of(const gateway::Who& who) {
  if (who == nullptr || who->key_id.empty()) return "loopback";
  return who->key_id;
}

AdminTable::AdminTable(std::vector<AdminOperation> operations, gateway::EventLog* events)
    : events_(events), replays_(std::make_shared<Replays>()) {
  operations.push_back({.method = "GET",
                        .path = "/admin/v1/openapi.json",
                        .scope = gateway::Scope::audit,
                        .id = "showOpenApi",
                        .tag = "server",
                        .summary = "This document: every operation, and the public routes.",
                        .answer = {{"type", "object"}},
                        .run = [this](const AdminCall&, const AdminDone& done) { done(openapi(*operations_)); }});
  operations_ = std::make_shared<const std::vector<AdminOperation>>(std::move(operations));
  for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
}

void AdminTable::end() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  for (std::jthread& thread : threads_) thread.request_stop();
  threads_.clear();
  std::deque<std::function<void()>> left;
  {
    const std::lock_guard lock(mutex_);
    left.swap(waiting_);
  }
}

AdminTable::Found AdminTable::find(const net::HttpRequest& request) const {
  Found found;
  if (request.path.size() > kLongestPath) return found;
  const Parts path = parts_of(request.path);
  if (path.size() > kMostParts) return found;
  // The template with the most parts of its own; then its operation of the method.
  std::ptrdiff_t best = -1;
  const std::string_view method = request.method == "HEAD" ? "GET" : std::string_view(request.method);
  for (const AdminOperation& operation : *operations_) {
    const Parts form = parts_of(operation.path);
    std::map<std::string, std::string> names;
    const std::ptrdiff_t own = std::ssize(form) - std::ranges::count_if(form, is_name);
    if (own < best || !fits(form, 0, path, 0, names)) continue;
    if (own > best) found = {};
    best = own;
    if (operation.method == method) {
      found.operation = &operation;
      found.path = std::move(names);
    }
    found.allow += (found.allow.empty() ? "" : ", ") + (operation.method == "GET" ? "GET, HEAD" : operation.method);
  }
  return found;
}

Outcome<void> AdminTable::run(const Call& call, Found found) {
  const AdminOperation& operation = *found.operation;
  const net::HttpRequest& request = call.request();
  auto running = std::make_shared<Running>(operations_, operation, call.exchange, call.request_id, events_, replays_);
  running->call.path = std::move(found.path);
  running->call.query = TRY(read_query(request.query, operation.parameters));
  running->call.body = TRY(read_body(request.body, operation.body));
  running->call.who = call.who;
  if (const auto given = net::find_header(request.headers, "idempotency-key");
      !given.empty() && operation.method == "POST") {
    if (given.size() > kLongestReplayKey) return bad("", "an Idempotency-Key has at most 255 characters");
    // Of this sender and path alone.
    const std::string key = fmt::format("{}\n{}\n{}", actor_of(call.who), request.path, given);
    if (const auto answer = TRY(replays_->begin(key, request.body))) {
      running->respond(*answer, true);
      running->ended = true;
      return {};
    }
    running->replay_key = key;
  }
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return Fault({Code::unavailable, "the server is shutting down: try again soon"});
    if (waiting_.size() >= kMostWaiting)
      return Fault({Code::unavailable, "too many administrative requests wait: try again soon"});
    waiting_.push_back([this, running] { start(running); });
  }
  wake_.notify_one();
  return {};
}

void AdminTable::start(const std::shared_ptr<Running>& running) {
  try {
    running->operation.run(running->call, [running](Outcome<Json> outcome) { running->end(std::move(outcome)); });
  } catch (const std::exception& e) {
    log::error("admin_threw", {{"operation", running->operation.id}, {"what", e.what()}});
    running->end(Fault({Code::internal, "something went wrong inside the server; its log has the request's id"}));
  }
}

void AdminTable::work(const std::stop_token& stop) {
  begin_thread("admin");
  std::unique_lock lock(mutex_);
  while (wake_.wait(lock, stop, [&] { return !waiting_.empty(); })) {
    if (stop.stop_requested()) return;
    const auto next = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    next();
    lock.lock();
  }
}

}  // namespace ashlar::api
