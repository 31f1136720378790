#include "gateway/rollout/rollouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>
#include <utility>

#include "base/json_full.h"
#include "base/log.h"
#include "base/threads.h"
#include "gateway/rollout/shadow.h"
#include "gateway/routing/ring.h"

namespace ashlar::gateway {
namespace {

using enum RolloutState;

constexpr std::array<std::pair<RolloutState, std::string_view>, 6> kStates = {{{idle, "idle"},
                                                                               {running, "running"},
                                                                               {paused, "paused"},
                                                                               {waiting, "waiting"},
                                                                               {promoted, "promoted"},
                                                                               {rolled_back, "rolled_back"}}};

// A key may be a whole application: where it alone names the sender, its side holds only as long as the trial's share
// is off by no more than so many requests.
constexpr std::int64_t kKeySlack = 50;
// Requests of one sender that the deployment found fault with and that count, in a step: a client that is wrong all the
// time says nothing of the version.
constexpr int kMostRefusals = 3;
constexpr std::int64_t kJudged = 16;
constexpr std::size_t kMostSenders = 10'000;
// Changes that other servers may have written while a rollback was on its way.
constexpr std::int64_t kAhead = 1'000;
// Before a step, the stable one's figures of so many requests are kept to compare the last step with.
constexpr std::int64_t kBaseline = 100;

// Spreads the bits of a hash evenly (splitmix64's finalizer), as a number from 0 to below 1.
double unit(std::uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
  bits ^= bits >> 31;
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// Who stays on one side: the session, or the user, or the key.
struct Identity {
  std::string text;  // "": nobody in particular
  bool by_key = false;
};

Identity identity_of(const engine::Request& request) {
  const engine::Sender& sender = request.sender;
  if (!sender.session.empty()) return {"s\n" + request.tenant + '\n' + sender.session};
  if (!sender.user.empty()) return {"u\n" + request.tenant + '\n' + sender.user};
  if (!sender.key.empty()) return {.text = "k\n" + sender.key, .by_key = true};
  return {};
}

std::string version_of(const RolloutPlan& plan) {
  return plan.version.empty() ? plan.to : fmt::format("{} {}", plan.to, plan.version);
}

std::string percent(double share) { return fmt::format("{:.4g} %", 100 * share); }

Error no_rollout(const std::string& route) {
  return {Code::not_found, fmt::format("the route '{}' has no rollout", route)};
}

}  // namespace

std::string_view name(RolloutState state) {
  for (const auto& [known, text] : kStates)
    if (known == state) return text;
  return "";
}

Rollouts::Metrics::Metrics(const std::string& route)
    : share("gateway_rollout_share", "Share of the route's requests that its version on trial gets.",
            {{"route", route}}),
      state("gateway_rollout_state", "0 idle, 1 running, 2 paused, 3 waiting, 4 promoted, 5 rolled back.",
            {{"route", route}}),
      rollbacks("gateway_rollout_rollbacks_total", "Versions that were rolled back.", {{"route", route}}) {}

double Rollouts::Trial::share() const {
  switch (state) {
    case idle:
    case rolled_back:
      return 0;
    case running:
    case paused:
    case waiting:
      return plan.steps[step];
    case promoted:
      return 1;
  }
  return 0;
}

bool Rollouts::Trial::watched() const { return state == running || state == paused || state == waiting; }

Rollouts::Rollouts(RolloutsOptions options) : options_(std::move(options)) {
  drawn_ = options_.seed != 0 ? options_.seed : std::random_device{}();
}

Result<std::unique_ptr<Rollouts>> Rollouts::open(RolloutsOptions options) {
  std::unique_ptr<Rollouts> out(new Rollouts(std::move(options)));
  if (store::Database* const database = out->options_.database; database != nullptr) {
    TRY(store::migrate(*database, std::span(&rollout_schema(), 1)));
    for (RolloutRow& row : TRY(read_rollouts(*database))) out->rows_[row.route] = std::move(row);
    out->outcomes_ = TRY(read_rollout_outcomes(*database));
  }
  if (out->options_.own_thread) out->thread_ = std::thread([raw = out.get()] { raw->work(); });
  return out;
}

Rollouts::~Rollouts() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    due_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  settle();
}

std::int64_t Rollouts::utc_ms() const {
  if (options_.utc_ms) return options_.utc_ms();
  using std::chrono::duration_cast, std::chrono::milliseconds, std::chrono::system_clock;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

double Rollouts::draw() { return unit(drawn_ += 0x9e3779b97f4a7c15ull); }

// Requests.

std::optional<Split> Rollouts::split(const std::string& group, const engine::Request& request) {
  if (!any_.load(std::memory_order_acquire)) return std::nullopt;
  const std::lock_guard lock(mutex_);
  const auto found = trials_.find(group);
  if (found == trials_.end()) return std::nullopt;
  Trial& trial = found->second;
  return Split{.canary = trial.plan.to, .chosen = chosen(trial, request, trial.share()), .version = trial.version};
}

bool Rollouts::takes(const std::string& group) const {
  const std::lock_guard lock(mutex_);
  const auto found = trials_.find(group);
  return found != trials_.end() && found->second.share() > 0;
}

// A sender's place is the same at every step, so that shares that grow only add to those who are in.
bool Rollouts::chosen(Trial& trial, const engine::Request& request, double share) {
  if (share <= 0) return false;
  if (share >= 1) return true;
  const Identity who = trial.plan.sticky ? identity_of(request) : Identity{};
  if (who.text.empty()) return draw() < share;
  bool in = unit(stable_hash(who.text, stable_hash(trial.route + '\n' + trial.version))) < share;
  if (!who.by_key) return in;
  const double over = static_cast<double>(trial.by_key_chosen) - share * static_cast<double>(trial.by_key);
  if (in && over > kKeySlack) in = false;
  if (!in && over < -kKeySlack) in = draw() < share;
  ++trial.by_key;
  trial.by_key_chosen += in ? 1 : 0;
  return in;
}

bool Rollouts::counts(Trial& trial, const AttemptEnd& end) {
  if (end.how != AttemptEnd::How::refused) return true;
  const Identity who = identity_of(end.request);
  if (who.text.empty()) return true;
  const std::uint64_t hash = stable_hash(who.text);
  if (trial.refusals.size() >= kMostSenders && !trial.refusals.contains(hash)) return false;
  return ++trial.refusals[hash] <= kMostRefusals;
}

void Rollouts::ended(const AttemptEnd& end) {
  if (!any_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex_);
  const auto found = trials_.find(end.group);
  if (found == trials_.end() || !found->second.watched()) return;
  Trial& trial = found->second;
  if (!counts(trial, end)) return;
  const bool canary = end.deployment == trial.plan.to;
  Samples& side = canary ? trial.canary : trial.stable;
  ++side.requests;
  if (end.how != AttemptEnd::How::good)
    ++side.errors;
  else if (end.first_token)
    side.first_token.add(std::chrono::duration<double>(*end.first_token).count());
  if (end.seconds_per_token > 0) side.between_tokens.add(end.seconds_per_token);
  // Here, not when the thread comes to it: each request more is one too many. Good ones change little.
  if (canary && (end.how != AttemptEnd::How::good || trial.canary.requests % kJudged == 0)) judge_now(trial);
}

std::shared_ptr<Tap> Rollouts::tap(const std::string& group, const engine::Request& request) {
  return options_.shadows != nullptr ? options_.shadows->tap(group, request) : nullptr;
}

// Steps.

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

Status Rollouts::score(const std::string& route, bool canary, double score) {
  if (!(score >= 0 && score <= 1)) return Error{Code::invalid, "a score is a number from 0 to 1"};
  return command(route, [&](Trial& trial) -> Status {
    if (!trial.watched())
      return Error{Code::invalid,
                   fmt::format("the rollout of '{}' is not under way: it is {}", route, name(trial.state))};
    (canary ? trial.canary : trial.stable).scores.add(score);
    if (!canary) trial.baseline.scores = trial.stable.scores;
    judge_now(trial);
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
  name_this_thread("rollouts");
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
