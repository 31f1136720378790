// From step to step, and from one configuration to the next.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/json_full.h"
#include "gateway/rollout/rollout_words.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/rollout/shadow.h"

namespace ashlar::gateway {
namespace {

using enum RolloutState;

constexpr std::array<std::pair<RolloutState, std::string_view>, 6> kStates = {{{idle, "idle"},
                                                                               {running, "running"},
                                                                               {paused, "paused"},
                                                                               {waiting, "waiting"},
                                                                               {promoted, "promoted"},
                                                                               {rolled_back, "rolled_back"}}};

// Before a step, the stable one's figures of so many requests are kept to compare the last step with.
constexpr std::int64_t kBaseline = 100;

std::string version_of(const RolloutPlan& plan) {
  return plan.version.empty() ? plan.to : fmt::format("{} {}", plan.to, plan.version);
}

}  // namespace

std::string_view name(RolloutState state) {
  for (const auto& [known, text] : kStates)
    if (known == state) return text;
  return "";
}

void Rollouts::judge_now(Trial& trial) {
  const bool more = trial.share() < 1;
  trial.verdicts = judge(trial.plan, trial.canary, more ? trial.stable : trial.baseline, more);
  for (const GateVerdict& verdict : trial.verdicts)
    if (verdict.state == GateVerdict::State::fails)
      return roll_back(trial, fmt::format("{}: {}", verdict.gate, verdict.why), "");
}

void Rollouts::roll_back(Trial& trial, std::string why, const std::string& actor) {
  const std::string at = percent(trial.share());
  enter(trial, rolled_back, why);
  trial.metrics->rollbacks.add();
  tell(trial, "rolled_back", actor.empty() ? Severity::error : Severity::warning,
       fmt::format("'{}' of route '{}' was rolled back from {} of the requests: {}", trial.plan.to, trial.route, at,
                   why),
       actor);
}

void Rollouts::enter(Trial& trial, RolloutState state, std::string why) {
  trial.state = state;
  trial.why = std::move(why);
  trial.since = options_.now();
  trial.since_ms = utc_ms();
  ++trial.revision;
  trial.dirty = true;
  trial.metrics->share.set(trial.share());
  trial.metrics->state.set(static_cast<double>(state));
  if (state == promoted || state == rolled_back)
    outcomes_[{trial.route, trial.version}] = {.outcome = std::string(name(state)), .why = trial.why};
  else
    outcomes_.erase({trial.route, trial.version});
  rows_[trial.route] = row_of(trial);
  due_.notify_one();
}

void Rollouts::begin(Trial& trial) {
  trial.step = 0;
  trial.canary = trial.stable = trial.baseline = {};
  trial.by_key = trial.by_key_chosen = 0;
  trial.refusals.clear();
  trial.verdicts.clear();
  enter(trial, running, "");
}

void Rollouts::next_step(Trial& trial) {
  const std::string figures = fmt::format("{} requests, {} failed", trial.canary.requests, trial.canary.errors);
  const bool last = trial.step + 1 >= trial.plan.steps.size();
  if (last && trial.plan.promote) {
    enter(trial, promoted, "it passed every step");
    return tell(trial, "promoted", Severity::info,
                fmt::format("'{}' of route '{}' gets every request: it passed its last step ({})", trial.plan.to,
                            trial.route, figures));
  }
  if (last) {
    enter(trial, waiting, "it passed every step, and waits to be promoted");
    return tell(trial, "waiting", Severity::info,
                fmt::format("'{}' of route '{}' passed its last step ({}) and waits to be promoted", trial.plan.to,
                            trial.route, figures));
  }
  if (trial.stable.requests >= kBaseline) trial.baseline = {};
  trial.baseline.add(trial.stable);
  trial.baseline.scores = trial.stable.scores;
  Json before = json_of(trial, true);
  const Moments scores = trial.canary.scores, stable_scores = trial.stable.scores;
  trial.canary = trial.stable = {};
  trial.canary.scores = scores;
  trial.stable.scores = stable_scores;
  trial.by_key = trial.by_key_chosen = 0;
  trial.refusals.clear();
  ++trial.step;
  enter(trial, running, "");
  tell(trial, "step", Severity::info,
       fmt::format("'{}' of route '{}' gets {} of the requests: it passed the step before ({})", trial.plan.to,
                   trial.route, percent(trial.share()), figures));
  events_.back().details["before"] = std::move(before);
}

void Rollouts::consider(Trial& trial) {
  if (trial.state != running) return;
  judge_now(trial);
  if (trial.state != running || options_.now() - trial.since < trial.plan.hold) return;
  if (trial.canary.requests < trial.plan.minimum_requests) return;
  const bool all =
      std::ranges::all_of(trial.verdicts, [](const auto& each) { return each.state == GateVerdict::State::passes; });
  if (all) next_step(trial);
}

void Rollouts::tell(const Trial& trial, std::string_view what, Severity severity, std::string message,
                    const std::string& actor) {
  events_.push_back({.kind = fmt::format("rollout.{}", what),
                     .subject = trial.route,
                     .severity = severity,
                     .message = std::move(message),
                     .actor = actor,
                     .details = json_of(trial, true),
                     .at_ms = utc_ms()});
}

// Configuration.

void Rollouts::set_groups(const std::vector<Group>& groups) {
  if (options_.shadows != nullptr) options_.shadows->set_groups(groups);
  const std::lock_guard lock(mutex_);
  std::map<std::string, Trial> before = std::exchange(trials_, {});
  for (const Group& group : groups) {
    if (!group.rollout || group.rollout->steps.empty()) continue;
    const std::string version = version_of(*group.rollout);
    const auto old = before.find(group.name);
    if (old != before.end() && old->second.version == version) {
      Trial& same = trials_[group.name] = std::move(old->second);
      same.plan = *group.rollout;
      same.step = std::min(same.step, same.plan.steps.size() - 1);
      same.metrics->share.set(same.share());
      continue;
    }
    Trial& trial = trials_[group.name];
    trial.route = group.name;
    trial.version = version;
    trial.plan = *group.rollout;
    trial.metrics = old != before.end() ? old->second.metrics : std::make_shared<Metrics>(group.name);
    const auto row = rows_.find(group.name);
    if (row != rows_.end()) trial.revision = row->second.revision;
    const auto outcome = outcomes_.find({group.name, version});
    if (row != rows_.end() && row->second.version == version) {
      take(trial, row->second);
      if (trial.state == idle && trial.plan.automatic) begin(trial);
    } else if (outcome != outcomes_.end()) {
      enter(trial, outcome->second.outcome == "promoted" ? promoted : rolled_back, outcome->second.why);
    } else if (!trial.plan.automatic) {
      enter(trial, idle, "it waits to be started");
    } else {
      begin(trial);
      tell(trial, "started", Severity::info,
           fmt::format("'{}' of route '{}' is on trial and gets {} of the requests", trial.plan.to, trial.route,
                       percent(trial.share())));
    }
  }
  any_.store(!trials_.empty(), std::memory_order_release);
  due_.notify_one();
}

void Rollouts::take(Trial& trial, const RolloutRow& row) {
  const auto known = std::ranges::find(kStates, row.state, [](const auto& each) { return each.second; });
  const RolloutState state = known == kStates.end() ? paused : known->first;
  const auto step = static_cast<std::size_t>(
      std::clamp<std::int64_t>(row.step, 0, static_cast<std::int64_t>(trial.plan.steps.size()) - 1));
  if (state != trial.state || step != trial.step) {
    trial.canary = trial.stable = {};
    trial.by_key = trial.by_key_chosen = 0;
    trial.refusals.clear();
    trial.verdicts.clear();
  }
  trial.state = state;
  trial.step = step;
  trial.why = row.why;
  trial.since = options_.now();
  trial.since_ms = row.since_ms;
  trial.revision = row.revision;
  trial.dirty = false;
  if (const auto kept = parse_json(row.baseline)) trial.baseline = Samples::of(*kept);
  trial.stable.scores = trial.baseline.scores;
  trial.metrics->share.set(trial.share());
  trial.metrics->state.set(static_cast<double>(state));
}

RolloutRow Rollouts::row_of(const Trial& trial) const {
  return {.route = trial.route,
          .version = trial.version,
          .state = std::string(name(trial.state)),
          .step = static_cast<std::int64_t>(trial.step),
          .since_ms = trial.since_ms,
          .why = trial.why,
          .baseline = dump_json(trial.baseline.json()),
          .revision = trial.revision};
}

}  // namespace ashlar::gateway
