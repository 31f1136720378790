#include "cli/reload.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "base/log.h"
#include "base/threads.h"

namespace ashlar::cli {
namespace {

std::int64_t utc_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string stamp_of(const std::string& path) {
  struct stat found{};
  if (stat(path.c_str(), &found) != 0) return {};
  return fmt::format("{}:{}:{}:{}.{}", found.st_dev, found.st_ino, found.st_size, found.st_mtim.tv_sec,
                     found.st_mtim.tv_nsec);
}

Json lines_of(const std::string& text) {
  Json out = Json::array();
  std::string line;
  for (std::istringstream lines(text); std::getline(lines, line);) out.push_back(line);
  return out;
}

std::string joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, ", ")); }

}  // namespace

Reloader::Reloader(Parts parts, ServePlan running, std::vector<std::string> files, ReloadOptions options)
    : parts_(std::move(parts)),
      options_(options),
      at_start_(running.options),
      running_(std::make_shared<const ServePlan>(std::move(running))),
      files_(std::move(files)),
      applied_ms_(utc_ms()),
      tried_(look(files_)) {
  thread_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
}

Reloader::~Reloader() {
  thread_.request_stop();
  wake_.notify_all();
  thread_.join();
  const std::lock_guard lock(changing_);
}

Result<Json> Reloader::reload(const std::string& actor) {
  const std::lock_guard changing(changing_);
  std::vector<std::string> files;
  {
    const std::lock_guard lock(mutex_);
    files = files_;
  }
  // Looked at before they are read, those that are new to us after: what changes meanwhile is seen as a change.
  Stamps stamps = look(files);
  auto [named, next] = parts_.read(nullptr);
  {
    const std::lock_guard lock(mutex_);
    tried_.clear();
    for (const auto& [file, stamp] : look(named)) tried_[file] = stamps.contains(file) ? stamps[file] : stamp;
    files_ = std::move(named);
  }
  auto done = next ? apply(std::move(*next), actor) : Result<Json>(std::unexpected(next.error()));
  if (!done) refuse(done.error(), actor);
  return done;
}

Result<Json> Reloader::apply(ServePlan next, const std::string& actor) {
  std::shared_ptr<const ServePlan> before;
  {
    const std::lock_guard lock(mutex_);
    before = running_;
  }
  const Outcome outcome = TRY(parts_.apply(*before, next));
  const std::vector<std::string> waiting = waits_for_restart(at_start_, next.options);
  const bool said = !outcome.made.empty() || !outcome.refused.empty() || next.stamp != before->stamp;
  Json out{{"changes", outcome.made}, {"refused", outcome.refused}, {"waits_for_restart", waiting}};
  {
    const std::lock_guard lock(mutex_);
    running_ = std::make_shared<const ServePlan>(std::move(next));
    applied_ms_ = utc_ms();
    waiting_ = waiting;
    kept_ = outcome.refused;
    refused_.reset();
  }
  const std::string changes = outcome.made.empty() ? "nothing" : joined(outcome.made);
  log::info("config_applied", {{"changes", changes}});
  if (!waiting.empty())
    log::warn("config_waits_for_restart", {{"options", joined(waiting)}, {"why", "these hold from the next start on"}});
  if (said && parts_.events != nullptr)
    parts_.events->write(
        {.kind = "config.applied",
         .subject = "config",
         .severity = outcome.refused.empty() && waiting.empty() ? gateway::Severity::info : gateway::Severity::warning,
         .message = fmt::format("The configuration was applied: {}.{}", changes,
                                waiting.empty() ? "" : " Waiting for a restart: " + joined(waiting) + "."),
         .actor = actor,
         .details = out});
  return out;
}

void Reloader::refuse(const Error& why, const std::string& actor) {
  log::error("config_refused", {{"why", why.message}});
  {
    const std::lock_guard lock(mutex_);
    refused_ = Refusal{.at_ms = utc_ms(), .why = why.message};
  }
  if (parts_.events != nullptr)
    parts_.events->write({.kind = "config.refused",
                          .subject = "config",
                          .severity = gateway::Severity::error,
                          .message = "The configuration was refused, and all is as it was: " + why.message,
                          .actor = actor,
                          .details = {{"faults", lines_of(why.message)}}});
}

Json Reloader::check(const std::string& text) const {
  const auto read = parts_.read(&text);
  return read.plan ? Json::array() : lines_of(read.plan.error().message);
}

Json Reloader::status() const {
  const std::lock_guard lock(mutex_);
  Json out{{"file", running_->config},      {"files", files_},
           {"applied_at_ms", applied_ms_},  {"hash", running_->stamp},
           {"waits_for_restart", waiting_}, {"refused_parts", kept_},
           {"last_refusal", nullptr}};
  if (refused_) out["last_refusal"] = {{"at_ms", refused_->at_ms}, {"faults", lines_of(refused_->why)}};
  return out;
}

void Reloader::request() {
  const std::lock_guard lock(mutex_);
  requested_ = true;
  wake_.notify_all();
}

std::chrono::milliseconds Reloader::drain_timeout() const {
  const std::lock_guard lock(mutex_);
  return running_->options.drain_timeout;
}

Reloader::Stamps Reloader::look(const std::vector<std::string>& files) {
  Stamps out;
  for (const std::string& file : files) out[file] = stamp_of(file);
  return out;
}

void Reloader::work(const std::stop_token& stop) {
  begin_thread("reloader");
  Stamps seen;
  auto turned = std::chrono::steady_clock::now();
  while (true) {
    bool wanted = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, stop, options_.look, [&] { return requested_; });
      if (stop.stop_requested()) return;
      Stamps now = look(files_);
      // Half-written files differ from one look to the next.
      wanted = std::exchange(requested_, false) || (now != tried_ && now == seen);
      seen = std::move(now);
    }
    if (wanted) (void)reload("");
    if (!parts_.turn || std::chrono::steady_clock::now() - turned < options_.turn) continue;
    const std::lock_guard changing(changing_);
    parts_.turn();
    turned = std::chrono::steady_clock::now();
  }
}

std::vector<api::AdminOperation> config_operations(Reloader* reloader) {
  using api::AdminCall;
  using api::AdminDone;
  using api::AdminOperation;
  using gateway::Scope;
  std::vector<AdminOperation> out;
  const Json strings{{"type", "array"}, {"items", {{"type", "string"}}}};
  out.push_back({.method = "GET",
                 .path = "/admin/v1/config",
                 .scope = Scope::audit,
                 .id = "showConfig",
                 .tag = "config",
                 .summary = "Which configuration holds, since when, and what was refused or waits for a restart.",
                 .parameters = {},
                 .body = {},
                 .answer = {{"type", "object"}},
                 .run = [reloader](const AdminCall&, const AdminDone& done) { done(reloader->status()); }});
  out.push_back({.method = "POST",
                 .path = "/admin/v1/config/check",
                 .scope = Scope::operate,
                 .id = "checkConfig",
                 .tag = "config",
                 .summary = "The faults of a configuration file's text, each with its line; nothing changes.",
                 .parameters = {},
                 .body = {{"type", "object"},
                          {"properties", {{"text", {{"type", "string"}, {"description", "YAML"}}}}},
                          {"required", {"text"}},
                          {"additionalProperties", false}},
                 .answer = {{"type", "object"}, {"properties", {{"fine", {{"type", "boolean"}}}, {"faults", strings}}}},
                 .run = [reloader](const AdminCall& call, const AdminDone& done) {
                   Json faults = reloader->check(call.body.at("text").get<std::string>());
                   const bool fine = faults.empty();
                   done(Json{{"fine", fine}, {"faults", std::move(faults)}});
                 },
                 .audited = false});
  out.push_back(
      {.method = "POST",
       .path = "/admin/v1/config/reload",
       .scope = Scope::operate,
       .id = "reloadConfig",
       .tag = "config",
       .summary = "Reads all configuration files anew and applies them, or refuses them as a whole.",
       .parameters = {},
       .body = {},
       .answer = {{"type", "object"},
                  {"properties", {{"changes", strings}, {"refused", strings}, {"waits_for_restart", strings}}}},
       .run = [reloader](const AdminCall& call, const AdminDone& done) {
         auto reloaded = reloader->reload(api::actor_of(call.who));
         if (!reloaded) return done(std::unexpected(api::Fault(reloaded.error())));
         done(std::move(*reloaded));
       },
       .audited = false});
  return out;
}

}  // namespace ashlar::cli
