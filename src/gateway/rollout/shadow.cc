#include "gateway/rollout/shadow.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "base/json_full.h"
#include "base/threads.h"
#include "gateway/rollout/shadow_findings.h"

namespace ashlar::gateway {
namespace {

// After every client's request, whatever its class.
constexpr int kLeastUrgent = 1'000'000;
// The generator knows the deadline and says so itself; one that hangs does not.
constexpr std::chrono::milliseconds kGrace{1'000}, kLook{1'000};

bool allows(const ShadowPlan& plan, const engine::Request& request) {
  return std::ranges::all_of(request.sender.data_classes, [&](const std::string& each) {
    return std::ranges::find(plan.data_classes, each) != plan.data_classes.end();
  });
}

// What the shadow is asked: the same, for its model, by nobody in particular.
engine::Request for_shadow(const engine::Request& request, const ShadowPlan& plan) {
  engine::Request out = request;
  out.id += "-shadow";
  out.model = plan.to;
  out.n = 1;
  out.priority = kLeastUrgent;
  out.notes.reset();
  return out;
}

}  // namespace

// One request for both. Its lock is not held while a generator is called.
class Shadows::Copy final : public engine::Sink {
 public:
  Copy(std::shared_ptr<Core> core, std::shared_ptr<ShadowFindings> findings, engine::Request request, TimePoint now)
      : core_(std::move(core)), findings_(std::move(findings)), request_(std::move(request)) {
    client_.began = now;
  }

  // The client's answer.
  void said(const engine::Event& event);
  void left();
  // The shadow's, on its generator's thread.
  void on(engine::Event event) override;

  // On the shadows' thread: what is due. Returns whether it is over.
  bool advance(TimePoint now);
  void drop() { ticket_.reset(); }
  ShadowFindings& findings() { return *findings_; }

 private:
  void ask(TimePoint now);
  void fail(Error error);
  void wake();

  const std::shared_ptr<Core> core_;
  const std::shared_ptr<ShadowFindings> findings_;
  engine::Request request_;
  // The shadows' thread:
  std::unique_ptr<engine::Ticket> ticket_;
  bool asked_ = false;

  std::mutex mutex_;
  ShadowAnswer client_, shadow_;
  bool left_ = false;
};

// One lock; nothing is called under it but the findings.
class Shadows::Core : public std::enable_shared_from_this<Shadows::Core> {
 public:
  explicit Core(ShadowOptions options) : options_(std::move(options)), draws_(std::random_device{}()) {}

  const ShadowOptions& options() const { return options_; }
  void set_groups(const std::vector<Group>& groups);
  std::shared_ptr<Copy> copy(const std::string& group, const engine::Request& request);
  std::shared_ptr<ShadowFindings> find(const std::string& route) const;
  std::vector<std::string> routes() const;
  // The client's own was taken: so may the copy be, if there is a place.
  void enter(const std::shared_ptr<Copy>& copy);
  void wake(Copy& copy);
  void turn();
  void begin();
  void end();

 private:
  void work();

  const ShadowOptions options_;
  std::atomic<bool> any_{false};
  mutable std::mutex mutex_;
  std::condition_variable due_;
  std::map<std::string, std::shared_ptr<ShadowFindings>> routes_;
  std::map<Copy*, std::shared_ptr<Copy>> under_way_;
  std::set<Copy*> awake_;  // of these
  std::mt19937_64 draws_;
  TimePoint looked_{};
  bool stopping_ = false;
  std::thread thread_;
};

// What the router holds: when it goes, so has the client's answer.
class Shadows::Follower final : public Tap {
 public:
  Follower(std::shared_ptr<Core> core, std::shared_ptr<Copy> copy) : core_(std::move(core)), copy_(std::move(copy)) {}
  ~Follower() override { copy_->left(); }
  void started() override { core_->enter(copy_); }
  void said(const engine::Event& event) override { copy_->said(event); }

 private:
  const std::shared_ptr<Core> core_;
  const std::shared_ptr<Copy> copy_;
};

void Shadows::Copy::wake() { core_->wake(*this); }

void Shadows::Copy::said(const engine::Event& event) {
  bool over = false;
  {
    const std::lock_guard lock(mutex_);
    client_.take(event, core_->options().now());
    over = client_.over;
  }
  if (over) wake();
}

void Shadows::Copy::left() {
  {
    const std::lock_guard lock(mutex_);
    if (client_.over) return;
    left_ = true;
  }
  wake();
}

void Shadows::Copy::on(engine::Event event) {
  bool over = false;
  {
    const std::lock_guard lock(mutex_);
    if (shadow_.over) return;
    shadow_.take(event, core_->options().now());
    over = shadow_.over;
  }
  if (over) wake();
}

void Shadows::Copy::fail(Error error) {
  const std::lock_guard lock(mutex_);
  if (!shadow_.over) shadow_.take(engine::Failed{.error = std::move(error)}, core_->options().now());
}

void Shadows::Copy::ask(TimePoint now) {
  asked_ = true;
  {
    const std::lock_guard lock(mutex_);
    shadow_.began = now;
  }
  request_.arrived = now;
  request_.deadline = now + findings_->plan().timeout;
  auto started = core_->options().models->start(request_, *this);
  if (started)
    ticket_ = std::move(*started);
  else
    fail(std::move(started.error().error));
}

bool Shadows::Copy::advance(TimePoint now) {
  const auto look = [this] {
    const std::lock_guard lock(mutex_);
    return std::tuple{left_, client_.over, shadow_.over};
  };
  if (!asked_ && !std::get<0>(look())) ask(now);
  auto [left, client_over, shadow_over] = look();
  if (asked_ && !shadow_over && now > request_.deadline + kGrace) {
    fail({Code::deadline, "the shadow did not answer in time"});
    shadow_over = true;
  }
  if (shadow_over || left) ticket_.reset();
  if (left) findings_->left();
  if (left || !client_over || !shadow_over) return left;
  // Both are over: nothing is written to them any more.
  findings_->add(request_, client_, shadow_);
  return true;
}

void Shadows::Core::set_groups(const std::vector<Group>& groups) {
  std::map<std::string, std::shared_ptr<ShadowFindings>> before;  // dies after the lock
  const std::lock_guard lock(mutex_);
  before = std::exchange(routes_, {});
  for (const Group& group : groups) {
    if (!group.shadow) continue;
    const auto old = before.find(group.name);
    const bool same = old != before.end() && old->second->plan() == *group.shadow;
    if (!same && old != before.end()) before.erase(old);  // its metrics go before those of the same name come
    routes_[group.name] = same ? old->second : std::make_shared<ShadowFindings>(group.name, *group.shadow);
  }
  any_.store(!routes_.empty(), std::memory_order_release);
}

std::shared_ptr<Shadows::Copy> Shadows::Core::copy(const std::string& group, const engine::Request& request) {
  if (!any_.load(std::memory_order_acquire)) return nullptr;
  std::shared_ptr<ShadowFindings> findings;
  {
    const std::lock_guard lock(mutex_);
    const auto found = routes_.find(group);
    if (found == routes_.end() || stopping_) return nullptr;
    findings = found->second;
    if (std::uniform_real_distribution<double>(0, 1)(draws_) >= findings->plan().share) findings = nullptr;
    found->second->seen();
  }
  if (!findings) return nullptr;
  if (!allows(findings->plan(), request)) {
    findings->hidden();
    return nullptr;
  }
  return std::make_shared<Copy>(shared_from_this(), findings, for_shadow(request, findings->plan()), options_.now());
}

std::shared_ptr<ShadowFindings> Shadows::Core::find(const std::string& route) const {
  const std::lock_guard lock(mutex_);
  const auto found = routes_.find(route);
  return found == routes_.end() ? nullptr : found->second;
}

std::vector<std::string> Shadows::Core::routes() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  for (const auto& [name, findings] : routes_) out.push_back(name);
  return out;
}

void Shadows::Core::enter(const std::shared_ptr<Copy>& copy) {
  const std::lock_guard lock(mutex_);
  if (stopping_ || !copy->findings().take_place()) return;
  under_way_.emplace(copy.get(), copy);
  awake_.insert(copy.get());
  due_.notify_one();
}

void Shadows::Core::wake(Copy& copy) {
  const std::lock_guard lock(mutex_);
  if (!under_way_.contains(&copy)) return;
  awake_.insert(&copy);
  due_.notify_one();
}

void Shadows::Core::turn() {
  for (;;) {
    const TimePoint now = options_.now();
    std::vector<std::shared_ptr<Copy>> due;
    {
      const std::lock_guard lock(mutex_);
      const bool all = now - looked_ >= kLook;  // also those that may be late
      if (all) looked_ = now;
      for (const auto& [raw, copy] : under_way_)
        if (all || awake_.contains(raw)) due.push_back(copy);
      awake_.clear();
    }
    if (due.empty()) return;
    for (const auto& copy : due) {
      if (!copy->advance(now)) continue;
      copy->findings().give_place();
      const std::lock_guard lock(mutex_);
      under_way_.erase(copy.get());
      awake_.erase(copy.get());
    }
  }
}

void Shadows::Core::begin() {
  if (options_.own_thread) thread_ = std::thread([this] { work(); });
}

void Shadows::Core::work() {
  begin_thread("shadows");
  for (;;) {
    turn();
    std::unique_lock lock(mutex_);
    const auto something = [&] { return stopping_ || !awake_.empty(); };
    if (under_way_.empty())
      due_.wait(lock, something);
    else
      due_.wait_for(lock, kLook, something);
    if (stopping_) return;
  }
}

void Shadows::Core::end() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    due_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  std::map<Copy*, std::shared_ptr<Copy>> dropped;
  {
    const std::lock_guard lock(mutex_);
    dropped = std::exchange(under_way_, {});
  }
  for (const auto& [raw, copy] : dropped) copy->drop();
}

Shadows::Shadows(ShadowOptions options) : core_(std::make_shared<Core>(std::move(options))) { core_->begin(); }

Shadows::~Shadows() { core_->end(); }

void Shadows::set_groups(const std::vector<Group>& groups) { core_->set_groups(groups); }

std::shared_ptr<Tap> Shadows::tap(const std::string& group, const engine::Request& request) {
  auto copy = core_->copy(group, request);
  if (!copy) return nullptr;
  return std::make_shared<Follower>(core_, std::move(copy));
}

Result<Json> Shadows::report(const std::string& route) const {
  const auto findings = core_->find(route);
  if (!findings) return Error{Code::not_found, fmt::format("the route '{}' has no shadow", route)};
  return findings->json();
}

std::vector<std::string> Shadows::routes() const { return core_->routes(); }

void Shadows::turn() { core_->turn(); }

}  // namespace ashlar::gateway
