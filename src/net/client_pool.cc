#include "net/client_pool.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>

#include "net/http_text.h"

namespace ashlar::net {

void ClientPool::end() {
  ending_ = true;
  while (!alarms_.empty()) disarm(std::shared_ptr(*alarms_.begin()));
  while (!links_.empty()) std::shared_ptr(*links_.begin())->close({Code::cancelled, "The HTTP client was closed."});
}

// Finds out where the task's request goes: the name of connections to there.
Result<std::string> ClientPool::place(ClientTask& task) const {
  if (!is_token(task.request.method)) return Error{Code::invalid, "The method is not a word."};
  task.url = TRY(parse_url(task.request.url));
  task.proxy = TRY(options.proxies.find(task.url));
  return fmt::format("{}://{}", task.url.tls ? "https" : "http", task.url.authority());
}

bool ClientPool::serve_kept(const std::shared_ptr<ClientTask>& task, const std::string& key) {
  const auto found = idle_.find(key);
  if (found == idle_.end() || found->second.empty() || task->retried) return false;
  const auto link = std::move(found->second.back());
  found->second.pop_back();
  link->serve(task);
  return true;
}

bool ClientPool::start_at_once(const std::shared_ptr<ClientTask>& task) {
  if (ending_ || idle_.empty()) return false;
  const auto key = place(*task);
  return key && serve_kept(task, *key);
}

void ClientPool::start(std::shared_ptr<ClientTask> task) {
  if (task->is_over()) return;
  if (ending_) return task->done(std::unexpected(Error{Code::cancelled, "The HTTP client was closed."}));
  const auto key = place(*task);
  if (!key) return task->done(std::unexpected(key.error()));
  if (serve_kept(task, *key)) return;
  const auto link = std::make_shared<ClientLink>(*this, *key);
  links_.insert(link);
  link->connect(std::move(task));
}

void ClientPool::cancel(const ClientTask& task) {
  if (const auto link = task.link.lock()) link->cancel(task);
}

void ClientPool::arm(const std::shared_ptr<ClientAlarm>& alarm, TimePoint when) {
  if (ending_) return;
  alarms_.insert(alarm);
  alarm->entry.emplace(thread.deadlines, [weak = std::weak_ptr(alarm)] {
    const auto rung = weak.lock();
    if (!rung) return;
    const std::lock_guard lock(rung->mutex);
    if (!std::exchange(rung->over, true)) rung->due();
  });
  alarm->entry->set(when);
}

void ClientPool::disarm(const std::shared_ptr<ClientAlarm>& alarm) {
  alarm->entry.reset();
  alarms_.erase(alarm);
}

bool ClientPool::keep(const std::shared_ptr<ClientLink>& link) {
  auto& kept = idle_[link->name()];
  if (ending_ || std::ssize(kept) >= options.max_idle_per_host) return false;
  kept.push_back(link);
  return true;
}

void ClientPool::forget(const std::shared_ptr<ClientLink>& link) {
  links_.erase(link);
  const auto found = idle_.find(link->name());
  if (found == idle_.end()) return;
  std::erase(found->second, link);
  if (found->second.empty()) idle_.erase(found);
}

}  // namespace ashlar::net
