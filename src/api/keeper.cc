#include "api/keeper.h"

#include <utility>

#include "base/metrics.h"
#include "base/threads.h"

namespace ashlar::api {
namespace {

Gauge under_way{"api_answers_under_way", "Generations whose client still waits for them."};

}  // namespace

Keeper::Keeper(std::chrono::milliseconds ping_interval)
    : ping_interval_(ping_interval), thread_([this](std::stop_token stop) { work(std::move(stop)); }) {}

Keeper::~Keeper() {
  thread_.request_stop();
  thread_.join();
  std::unordered_map<std::uint64_t, Held> dead;
  {
    std::lock_guard lock(mutex_);
    dead.swap(answers_);
  }
  dead.clear();  // outside the lock: one that is just ending looks for itself here
}

void Keeper::start(std::shared_ptr<net::Exchange> exchange, engine::Generator& generator,
                   std::unique_ptr<Dialect> dialect, Reply reply, std::vector<engine::Request> requests) {
  auto answer = std::make_shared<Answer>(exchange, std::move(dialect), std::move(reply), *this);
  answer->start(generator, std::move(requests));
  const auto number = answer->number();
  keep(std::move(answer));
  exchange->on_gone([keeper = weak_from_this(), number] {
    if (const auto alive = keeper.lock()) alive->drop(number);
  });
}

void Keeper::keep(Held answer) {
  const auto number = answer->number();
  const bool over = [&] {
    std::lock_guard lock(mutex_);
    const Answer& kept = *(answers_[number] = std::move(answer));
    return kept.over();
  }();
  under_way.add(1);
  if (over) ended(number);
}

void Keeper::drop(std::uint64_t number) {
  {
    std::lock_guard lock(mutex_);
    dropped_.push_back(number);
  }
  wake_.notify_one();
}

// Within the answer's own call: nothing here may be the last to hold it.
void Keeper::ended(std::uint64_t number) {
  {
    std::lock_guard lock(mutex_);
    const auto found = answers_.find(number);
    if (found == answers_.end()) return;
    if (found->second->exchange().later([answer = found->second] {})) {
      answers_.erase(found);
      under_way.add(-1);
      return;
    }
    dropped_.push_back(number);
  }
  wake_.notify_one();
}

void Keeper::work(std::stop_token stop) {
  begin_thread("api-keeper");
  auto next_ping = engine::Clock::now() + ping_interval_;
  while (!stop.stop_requested()) {
    std::vector<Held> dead;
    {
      std::unique_lock lock(mutex_);
      wake_.wait_until(lock, stop, next_ping, [&] { return !dropped_.empty(); });
      for (const auto number : std::exchange(dropped_, {})) {
        const auto found = answers_.find(number);
        if (found == answers_.end()) continue;
        dead.push_back(std::move(found->second));
        answers_.erase(found);
      }
    }
    under_way.add(-static_cast<double>(dead.size()));
    dead.clear();  // outside the lock: a ticket may wait for its generator
    if (engine::Clock::now() < next_ping) continue;
    ping_all();
    next_ping = engine::Clock::now() + ping_interval_;
  }
}

void Keeper::ping_all() {
  std::vector<Held> all;  // which die here where they end meanwhile
  {
    std::lock_guard lock(mutex_);
    all.reserve(answers_.size());
    for (const auto& [number, answer] : answers_) all.push_back(answer);
  }
  const auto quiet_since = engine::Clock::now() - ping_interval_;
  for (const Held& answer : all) answer->ping(quiet_since);
}

}  // namespace ashlar::api
