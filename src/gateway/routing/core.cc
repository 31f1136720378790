#include "gateway/routing/core.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/threads.h"
#include "gateway/routing/flight.h"

namespace ashlar::gateway {
namespace {

// How many of those that wait are asked to try when a place may be free: one place ended, and a limit may have grown.
constexpr int kWoken = 2;

bool serves(const Live& live, const std::string& model) {
  const auto cards = live.config.generator->models();
  return std::ranges::any_of(cards, [&](const engine::ModelCard& card) {
    return card.id == model || (!card.parent.empty() && card.parent + ":" + card.id == model);
  });
}

bool on_trial(const RouteTable& table, const Deployment& deployment) {
  return std::ranges::any_of(table.groups, [&](const Group& group) {
    return group.name == deployment.group && group.rollout && group.rollout->to == deployment.name;
  });
}

}  // namespace

Router::Core::Core(RouterOptions options, RouteTable table)
    : options_(std::move(options)),
      fleet_([this] {
        FleetOptions fleet = options_.fleet;
        fleet.reserve = options_.shedding.reserve;
        return fleet;
      }()),
      room_(options_.shedding),
      cache_(options_.cache),
      retries_(options_.retry_share, options_.retry_reserve) {
  set_table(std::move(table));
}

void Router::Core::set_table(RouteTable table) {
  for (Deployment& deployment : table.deployments) deployment.trial = on_trial(table, deployment);
  // First, so that nobody is sent to a trial before it is known, nor after it is over.
  if (options_.steering != nullptr) options_.steering->set_groups(table.groups);
  std::vector<std::shared_ptr<Live>> before = all();  // die outside the lock, generators and all
  RouteTable old;
  std::shared_ptr<const Counted> gone;
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::shared_ptr<const Group>> groups;
  for (const Group& group : table.groups) groups[group.name] = std::make_shared<const Group>(group);
  std::erase_if(scales_, [&](const auto& each) { return !groups.contains(each.first); });
  for (const auto& [name, group] : groups)
    if (auto& scale = scales_[name]; !scale) scale = std::make_unique<Scale>(name, options_.demand);
  groups_ = std::move(groups);
  fleet_.set(table.deployments);
  old = std::exchange(table_, std::move(table));
  auto counted = std::make_shared<Counted>();
  counted->tables = (counted_ != nullptr ? counted_->tables : 0) + 1;
  for (const Deployment& each : table_.deployments) {
    counted->held.push_back(each.generator);
    counted->names.push_back(dynamic_cast<const engine::CountedNames*>(each.generator.get()));
  }
  gone = std::exchange(counted_, std::move(counted));
}

Status Router::Core::change(const std::function<Status(RouteTable&)>& edit) {
  const std::lock_guard lock(changing_);
  RouteTable edited = table();
  TRY(edit(edited));
  set_table(std::move(edited));
  return {};
}

RouteTable Router::Core::table() const {
  const std::lock_guard lock(mutex_);
  return table_;
}

std::optional<std::uint64_t> Router::Core::names_version() const {
  std::shared_ptr<const Counted> counted;
  {
    const std::lock_guard lock(mutex_);
    counted = counted_;
  }
  std::uint64_t version = counted->tables;
  for (const engine::CountedNames* each : counted->names) {
    const auto one = each != nullptr ? each->names_version() : std::nullopt;
    if (!one) return std::nullopt;
    version = engine::mixed_version(version, *one);
  }
  return version;
}

std::shared_ptr<Live> Router::Core::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return fleet_.find(name);
}

std::vector<std::shared_ptr<Live>> Router::Core::all() const {
  const std::lock_guard lock(mutex_);
  return fleet_.all();
}

std::vector<std::shared_ptr<Live>> Router::Core::members(const std::string& group) const {
  const std::lock_guard lock(mutex_);
  return fleet_.members(group);
}

std::shared_ptr<const Group> Router::Core::group(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(name);
  return found == groups_.end() ? nullptr : found->second;
}

std::string Router::Core::alias_of(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = table_.aliases.find(name);
  return found == table_.aliases.end() ? "" : found->second;
}

std::vector<std::shared_ptr<Live>> Router::Core::members_of(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto alias = table_.aliases.find(name);
  const auto found = groups_.find(alias == table_.aliases.end() ? name : alias->second);
  if (found == groups_.end()) return {};
  const Group& group = *found->second;
  return fleet_.members(group.tiers ? group.tiers->middle : group.name);
}

Result<std::shared_ptr<const Group>> Router::Core::resolve(const std::string& model,
                                                           std::set<std::string>& only) const {
  std::vector<std::shared_ptr<Live>> lives;
  {
    const std::lock_guard lock(mutex_);
    const auto alias = table_.aliases.find(model);
    const auto found = groups_.find(alias == table_.aliases.end() ? model : alias->second);
    if (found != groups_.end()) return found->second;
    if (model.empty() && !table_.groups.empty()) return groups_.at(table_.groups.front().name);
    lives = fleet_.all();
  }
  std::string group;
  for (const auto& live : lives) {
    if ((!group.empty() && live->config.group != group) || !serves(*live, model)) continue;
    group = live->config.group;
    only.insert(live->config.name);
  }
  if (auto found = this->group(group)) return found;
  return Error{Code::not_found, fmt::format("there is no model '{}' here", model)};
}

std::shared_ptr<Live> Router::Core::first_of(const std::string& model, std::string& name) const {
  std::set<std::string> only;
  auto group = resolve(model, only);
  if (!group) return nullptr;
  const std::string& of = (*group)->tiers ? (*group)->tiers->middle : (*group)->name;
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Live> first;  // those on trial come last
  for (auto& live : fleet_.members(of)) {
    if (!only.empty() && !only.contains(live->config.name)) continue;
    if (first == nullptr || (first->config.trial && !live->config.trial)) first = std::move(live);
    if (!first->config.trial) break;
  }
  if (first != nullptr) name = only.empty() && !first->config.model.empty() ? first->config.model : model;
  return first;
}

void Router::Core::with_fleet(const std::function<void(Fleet&)>& call) {
  {
    const std::lock_guard lock(mutex_);
    call(fleet_);
  }
  publish();
}

std::uint64_t Router::Core::number() {
  const std::lock_guard lock(mutex_);
  return ++numbers_;
}

std::variant<Picked, Router::Core::Wait, Nobody, Router::Core::Turned> Router::Core::pick(Flight& flight,
                                                                                          const Question& question) {
  const TimePoint now = this->now();
  std::variant<Picked, Wait, Nobody, Turned> out;
  {
    const std::lock_guard lock(mutex_);
    const auto waited = std::exchange(flight.waits_, std::nullopt);
    auto found = fleet_.pick(question, now);
    if (auto* picked = std::get_if<Picked>(&found)) {
      out = std::move(*picked);
    } else if (!std::get<Nobody>(found).busy || stopping_) {
      out = std::get<Nobody>(found);
    } else if (waited) {
      flight.waits_ = waited;
      room_.take_back(*waited, flight.waiter_);
      out = Wait{};
    } else {
      flight.waiter_ = {.id = flight.id(),
                        .group = question.group->name,
                        .work = static_cast<double>(flight.cost()),
                        .since = now,
                        .deadline = flight.deadline(),
                        .most = most_wait(*question.group)};
      const WaitingRoom::Rank rank{flight.priority(), ++numbers_};
      const auto verdict = room_.offer(rank, flight.waiter_, fleet_.work_rate(question.group->name, now), now);
      if (verdict.evicted) {
        metrics_.shed.add();
        stir(TimePoint::min());
        if (const auto other = flights_.find(*verdict.evicted); other != flights_.end())
          tasks_.push_back(
              {.what = Task::What::refuse,
               .flight = other->second.lock(),
               .refusal = {.error = {Code::unavailable, "more urgent requests took its place in the queue"},
                           .retry_after = std::chrono::seconds{1},
                           .dropped = engine::Dropped::outranked}});
      }
      if (verdict.admitted) {
        flight.waits_ = rank;
        const auto most = flight.waiter_.most.count() > 0 ? flight.waiter_.most : options_.shedding.max_wait;
        stir(std::min(now + most, flight.deadline()));
        out = Wait{};
      } else {
        metrics_.shed.add();
        out = Turned{.refusal = {.error = {Code::unavailable, "the service is overloaded: " + verdict.why},
                                 .retry_after = std::max(verdict.wait, std::chrono::milliseconds{1000}),
                                 .dropped = engine::Dropped::saturated}};
      }
    }
    metrics_.waiting.set(static_cast<double>(room_.size()));
  }
  publish();
  return out;
}

// What is left of the target of a first token once it is made, which takes half as long again as usual at times. 0:
// there is no target.
std::chrono::milliseconds Router::Core::most_wait(const Group& group) const {
  using std::chrono::milliseconds;
  if (group.first_token.count() == 0) return milliseconds{0};
  const auto making = milliseconds{static_cast<std::int64_t>(fleet_.usual_first_token(group.name) * 1.5 * 1000)};
  return std::max({group.first_token - making, group.first_token / 10, milliseconds{1}});
}

void Router::Core::ended(const std::shared_ptr<Live>& live, const Breaker::Call& call, const Fleet::Ended& how) {
  {
    const std::lock_guard lock(mutex_);
    fleet_.ended(*live, call, how, now());
    wake(live->config.group);
  }
  publish();
}

void Router::Core::wake(const std::string& group) {
  for (int i = 0; i < kWoken; ++i) {
    auto next = room_.next(group);
    if (!next) return;
    const auto found = flights_.find(next->second.id);
    auto flight = found == flights_.end() ? nullptr : found->second.lock();
    if (!flight) continue;
    tasks_.push_back({.what = Task::What::advance, .flight = std::move(flight)});
    stir(TimePoint::min());
  }
}

bool Router::Core::may_retry(bool paid) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  if (paid && !retries_.take()) {
    metrics_.retries_refused.add();
    return false;
  }
  metrics_.fallbacks.add();
  return true;
}

void Router::Core::enter(const std::shared_ptr<Flight>& flight) {
  const std::lock_guard lock(mutex_);
  flights_[flight->id()] = flight;
  retries_.first();
  metrics_.running.set(static_cast<double>(flights_.size()));
}

void Router::Core::leave(Flight& flight) {
  const std::lock_guard lock(mutex_);
  flights_.erase(flight.id());
  if (flight.waits_) room_.leave(*flight.waits_);
  if (std::exchange(flight.has_timer_, false)) timers_.erase(flight.timer_);
  metrics_.running.set(static_cast<double>(flights_.size()));
}

void Router::Core::set_timer(Flight& flight, TimePoint when) {
  const std::lock_guard lock(mutex_);
  if (!flights_.contains(flight.id())) return;
  if (std::exchange(flight.has_timer_, false)) timers_.erase(flight.timer_);
  if (when == TimePoint::max()) return;
  flight.timer_ = timers_.emplace(when, flight.id());
  flight.has_timer_ = true;
  stir(when);
}

Router::Core::Answered Router::Core::look_up(const std::string& key, const CacheControl& control,
                                             const std::string& group, bool trial) {
  const TimePoint now = this->now();
  Answered out;
  {
    const std::lock_guard lock(mutex_);
    out.found = cache_.find(key, control, fleet_.degraded(group, now, trial), now);
    if (!out.found.answer && !control.no_cache && cache_.options().single_flight)
      if (const auto leader = leaders_.find(key); leader != leaders_.end()) out.leader = leader->second.lock();
  }
  publish();
  return out;
}

void Router::Core::lead(const std::string& key, const std::shared_ptr<Flight>& flight) {
  const std::lock_guard lock(mutex_);
  leaders_[key] = flight;
}

void Router::Core::landed(const std::string& key, Flight& flight, ResponseCache::Answer answer) {
  const std::lock_guard lock(mutex_);
  const auto leader = leaders_.find(key);
  if (leader != leaders_.end() && leader->second.lock().get() == &flight) leaders_.erase(leader);
  if (answer) cache_.store(key, std::move(answer), now());
}

void Router::Core::count_joined() {
  const std::lock_guard lock(mutex_);
  cache_.count_joined();
  metrics_.joined.add();
}

ResponseCache::Counts Router::Core::cache_counts() const {
  const std::lock_guard lock(mutex_);
  return cache_.counts();
}

void Router::Core::post(Task task) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  stir(TimePoint::min());
}

void Router::Core::bury(std::shared_ptr<Attempt> attempt) {
  const std::lock_guard lock(mutex_);
  buried_.push_back(std::move(attempt));
  stir(TimePoint::min());
}

TimePoint Router::Core::next_due() const {
  if (!tasks_.empty() || !buried_.empty()) return TimePoint::min();
  TimePoint next = std::min(polled_ + options_.poll, room_.next_expiry());
  if (!timers_.empty()) next = std::min(next, timers_.begin()->first);
  return next;
}

// Something is due at `when`: wakes the thread only if it would sleep longer, since a wakeup costs more than a pick.
void Router::Core::stir(TimePoint when) {
  if (when >= sleeps_until_) return;
  sleeps_until_ = TimePoint::min();
  due_.notify_one();
}

TimePoint Router::Core::turn() {
  for (;;) {
    std::deque<Task> tasks;
    std::vector<std::shared_ptr<Attempt>> buried;
    std::vector<std::shared_ptr<Flight>> rung;
    const TimePoint now = this->now();
    bool polls = false;
    {
      const std::lock_guard lock(mutex_);
      tasks = std::exchange(tasks_, {});
      buried = std::exchange(buried_, {});
      while (!timers_.empty() && timers_.begin()->first <= now) {
        const auto found = flights_.find(timers_.begin()->second);
        auto flight = found == flights_.end() ? nullptr : found->second.lock();
        timers_.erase(timers_.begin());
        if (!flight) continue;
        flight->has_timer_ = false;
        rung.push_back(std::move(flight));
      }
      for (const std::uint64_t late : room_.expired(now)) {
        metrics_.shed.add();
        const auto found = flights_.find(late);
        if (found == flights_.end()) continue;
        if (auto flight = found->second.lock()) {
          flight->waits_.reset();
          tasks.push_back(
              {.what = Task::What::refuse,
               .flight = std::move(flight),
               .refusal = {.error = {Code::unavailable, "the service is overloaded: no place became free in time"},
                           .retry_after = std::chrono::seconds{1},
                           .dropped = engine::Dropped::expired}});
        }
      }
      polls = !stopping_ && now - polled_ >= options_.poll;
      if (polls) polled_ = now;
      if (tasks.empty() && buried.empty() && rung.empty() && !polls) return next_due();
    }
    buried.clear();
    for (Task& task : tasks) run(task);
    for (const auto& flight : rung) flight->check(now);
    if (polls) poll(now);
  }
}

void Router::Core::run(Task& task) {
  if (!task.flight) return;
  switch (task.what) {
    case Task::What::advance:
      if (auto refusal = task.flight->advance()) task.flight->refuse(std::move(*refusal));
      break;
    case Task::What::deliver:
      task.flight->deliver();
      break;
    case Task::What::refuse:
      task.flight->refuse(std::move(task.refusal));
      break;
  }
}

void Router::Core::poll(TimePoint now) {
  std::vector<std::pair<std::shared_ptr<Live>, Signals>> read;
  Loads loads;
  for (auto& live : all()) {
    std::optional<Signals> signals;
    if (options_.signals) signals = options_.signals(live->config);
    const auto load = live->config.generator->load();
    if (const auto group = this->group(live->config.group); group && group->strategy == Strategy::prefix_index)
      live->config.generator->cached_prefixes(live->config.model);  // one elsewhere begins to tell once it was asked
    loads.emplace_back(live, load);
    if (!signals) {
      signals = Signals{.memory = load.kv_used, .queue = load.waiting};
    }
    read.emplace_back(std::move(live), *signals);
  }
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [live, signals] : read) fleet_.signal(*live, signals, now);
    fleet_.turn(now);
    look(loads, now);
    for (const std::string& group : room_.groups()) wake(group);
    for (const auto& [group, config] : groups_) {
      const bool was = degraded_.contains(group), is = fleet_.degraded(group, now, true);
      if (is == was) continue;
      if (is)
        degraded_.insert(group);
      else
        degraded_.erase(group);
      events_.push_back({now, is ? "degraded" : "recovered", group,
                         is ? "every deployment is out: the cache answers first" : "a deployment answers again"});
    }
  }
  publish();
}

void Router::Core::look(const Loads& loads, TimePoint now) {
  std::map<std::string, RouteUse> uses;
  for (const auto& [live, load] : loads) {
    const Vitals& vitals = *live->vitals;
    RouteUse& use = uses[live->config.group];
    use.running += vitals.running;
    use.waiting += load.waiting;
    use.outstanding_tokens +=
        static_cast<double>(std::max<std::int64_t>(0, vitals.outstanding.load(std::memory_order_relaxed)));
    if (fleet_.ejected(*live) || vitals.breaker.state() == Breaker::State::open) continue;
    ++use.ready;
    use.memory += load.kv_used;
    use.places += live->config.max_concurrent;
    if (live->config.max_concurrent > 0)
      use.placed += static_cast<double>(vitals.running) / live->config.max_concurrent;
  }
  const auto queues = room_.queues();
  for (auto& [name, scale] : scales_) {
    RouteUse use = uses[name];
    if (const auto queue = queues.find(name); queue != queues.end()) {
      use.waiting += queue->second.requests;
      use.waiting_tokens = queue->second.work;
      use.outstanding_tokens += queue->second.work;
    }
    use.tokens_per_second = fleet_.work_rate(name, now);
    const int desired = scale->demand.look(use, groups_.at(name)->tokens_per_second, now);
    scale->metrics.set(use, scale->demand.capacity(), desired);
  }
}

void Router::Core::publish() {
  std::vector<RouteEvent> events;
  {
    const std::lock_guard lock(mutex_);
    events = fleet_.events();
    std::ranges::move(std::exchange(events_, {}), std::back_inserter(events));
  }
  for (const RouteEvent& event : events) {
    log::info("route_event", {{"what", event.what}, {"deployment", event.deployment}, {"why", event.why}});
    if (options_.on_event) options_.on_event(event);
  }
}

void Router::Core::begin() {
  if (options_.own_thread) thread_ = std::thread([this] { work(); });
}

void Router::Core::work() {
  begin_thread("router");
  for (;;) {
    turn();
    std::unique_lock<std::mutex> lock(mutex_);
    if (stopping_) return;
    const TimePoint next = next_due();
    if (next <= options_.now()) continue;
    sleeps_until_ = next;
    due_.wait_until(lock, next);
    sleeps_until_ = TimePoint::min();
  }
}

void Router::Core::end() {
  std::vector<std::shared_ptr<Flight>> flights;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    due_.notify_one();
    for (const auto& [id, flight] : flights_)
      if (auto alive = flight.lock()) flights.push_back(std::move(alive));
  }
  if (thread_.joinable()) thread_.join();
  for (const auto& flight : flights) flight->shut();
  turn();
}

}  // namespace ashlar::gateway
