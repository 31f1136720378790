// What people do to rollouts, and what is kept of them.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/json_full.h"
#include "base/log.h"
#include "base/threads.h"
#include "gateway/rollout/rollout_words.h"
#include "gateway/rollout/rollouts.h"

namespace ashlar::gateway {
namespace {

using enum RolloutState;

// Changes that other servers may have written while a rollback was on its way.
constexpr std::int64_t kAhead = 1'000;

}  // namespace

// Commands.

Json Rollouts::json_of(const Trial& trial, bool all) const {
  Json out{{"route", trial.route},       {"to", trial.plan.to},        {"version", trial.plan.version},
           {"state", name(trial.state)}, {"share", trial.share()},     {"step", trial.step + 1},
           {"steps", trial.plan.steps},  {"since_ms", trial.since_ms}, {"why", trial.why}};
  if (!all) return out;
  out["hold_ms"] = trial.plan.hold.count();
  out["held_ms"] = std::chrono::duration_cast<std::chrono::milliseconds>(options_.now() - trial.since).count();
  out["minimum_requests"] = trial.plan.minimum_requests;
  out["canary"] = trial.canary.figures();
  out["stable"] = (trial.share() < 1 || trial.stable.requests > 0 ? trial.stable : trial.baseline).figures();
  Json gates = Json::array();
  for (const GateVerdict& verdict : trial.verdicts) gates.push_back(gateway::json_of(verdict));
  out["gates"] = std::move(gates);
  if (trial.plan.judge) {
    out["judge"] = graders_->figures(trial.route);
    out["judge"]["model"] = trial.plan.judge->model;
  }
  return out;
}

Json Rollouts::list() const {
  const std::lock_guard lock(mutex_);
  Json out = Json::array();
  for (const auto& [route, trial] : trials_) out.push_back(json_of(trial, false));
  return out;
}

Result<Json> Rollouts::show(const std::string& route) const {
  const std::lock_guard lock(mutex_);
  const auto found = trials_.find(route);
  if (found == trials_.end()) return no_rollout(route);
  return json_of(found->second, true);
}

Status Rollouts::command(const std::string& route, const std::function<Status(Trial&)>& what) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = trials_.find(route);
    if (found == trials_.end()) return no_rollout(route);
    TRY(what(found->second));
  }
  settle();  // kept before it is said to be done
  return {};
}

Status Rollouts::start(const std::string& route, const std::string& actor) {
  return command(route, [&](Trial& trial) -> Status {
    begin(trial);
    tell(trial, "started", Severity::info,
         fmt::format("'{}' of route '{}' was started and gets {} of the requests", trial.plan.to, route,
                     percent(trial.share())),
         actor);
    return {};
  });
}

Status Rollouts::pause(const std::string& route, const std::string& actor) {
  return command(route, [&](Trial& trial) -> Status {
    if (trial.state != running)
      return Error{Code::invalid,
                   fmt::format("the rollout of '{}' is not running: it is {}", route, name(trial.state))};
    enter(trial, paused, "somebody paused it");
    tell(trial, "paused", Severity::info, fmt::format("the rollout of '{}' stays at {}", route, percent(trial.share())),
         actor);
    return {};
  });
}

Status Rollouts::resume(const std::string& route, const std::string& actor) {
  return command(route, [&](Trial& trial) -> Status {
    if (trial.state != paused)
      return Error{Code::invalid, fmt::format("the rollout of '{}' is not paused: it is {}", route, name(trial.state))};
    enter(trial, running, "");
    tell(trial, "resumed", Severity::info,
         fmt::format("the rollout of '{}' goes on from {}", route, percent(trial.share())), actor);
    return {};
  });
}

Status Rollouts::promote(const std::string& route, const std::string& actor) {
  return command(route, [&](Trial& trial) -> Status {
    if (trial.state == promoted)
      return Error{Code::invalid, fmt::format("the rollout of '{}' is promoted already", route)};
    enter(trial, promoted, "somebody promoted it");
    tell(trial, "promoted", Severity::info,
         fmt::format("'{}' of route '{}' was promoted and gets every request", trial.plan.to, route), actor);
    return {};
  });
}

Status Rollouts::rollback(const std::string& route, const std::string& why, const std::string& actor) {
  return command(route, [&](Trial& trial) -> Status {
    if (trial.state == rolled_back)
      return Error{Code::invalid, fmt::format("the rollout of '{}' is rolled back already", route)};
    roll_back(trial, why.empty() ? "somebody rolled it back" : why, actor);
    return {};
  });
}

// The thread.

void Rollouts::turn() {
  read_others();
  {
    const std::lock_guard lock(mutex_);
    for (auto& [route, trial] : trials_) consider(trial);
  }
  settle();
}

void Rollouts::settle() {
  const std::lock_guard settling(settling_);
  std::vector<OperatorEvent> events;
  std::vector<RolloutRow> rows;
  {
    const std::lock_guard lock(mutex_);
    events = std::exchange(events_, {});
    for (auto& [route, trial] : trials_)
      if (std::exchange(trial.dirty, false)) rows.push_back(row_of(trial));
  }
  for (OperatorEvent& event : events) {
    log::info("rollout", {{"what", event.kind}, {"route", event.subject}, {"message", event.message}});
    if (options_.events != nullptr) options_.events->write(std::move(event));
  }
  if (options_.database == nullptr) return;
  bool behind = false;
  for (const RolloutRow& row : rows) {
    const auto done = write_rollout(*options_.database, row);
    if (done) continue;
    behind = behind || done.error().code == Code::exhausted;
    log::warn("rollout_not_kept", {{"route", row.route}, {"why", done.error().message}});
    const std::lock_guard lock(mutex_);
    const auto found = trials_.find(row.route);
    if (found == trials_.end()) continue;
    // What another server decided stands, but for a rollback of ours: it is written over theirs.
    if (done.error().code != Code::exhausted)
      found->second.dirty = true;
    else if (row.state != name(rolled_back))
      found->second.revision = -1;
    else {
      found->second.revision += kAhead;
      found->second.dirty = true;
    }
  }
  if (behind) synced_.reset();
}

void Rollouts::read_others() {
  const std::lock_guard settling(settling_);
  if (options_.database == nullptr || (synced_ && options_.now() - *synced_ < options_.sync)) return;
  synced_ = options_.now();
  const auto rows = read_rollouts(*options_.database);
  if (!rows) return log::warn("rollouts_not_read", {{"why", rows.error().message}});
  const std::lock_guard lock(mutex_);
  for (const RolloutRow& row : *rows) {
    const auto found = trials_.find(row.route);
    if (found == trials_.end() || found->second.version != row.version) continue;
    if (found->second.dirty || row.revision <= found->second.revision) continue;
    take(found->second, row);
    rows_[row.route] = row;
    if (row.state == "promoted" || row.state == "rolled_back")
      outcomes_[{row.route, row.version}] = {.outcome = row.state, .why = row.why};
  }
}

void Rollouts::work() {
  begin_thread("rollouts");
  for (;;) {
    turn();
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    if (trials_.empty())
      due_.wait(lock, [&] { return stopping_ || !trials_.empty(); });
    else
      due_.wait_for(lock, options_.every);
    if (stopping_) return;
  }
}

}  // namespace ashlar::gateway
