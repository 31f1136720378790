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

void ClientPool::start(std::shared_ptr<ClientTask> task) {
  if (task->is_over()) return;
  if (ending_) return task->done(std::unexpected(Error{Code::cancelled, "The HTTP client was closed."}));
  if (!is_token(task->request.method))
    return task->done(std::unexpected(Error{Code::invalid, "The method is not a word."}));
  auto url = parse_url(task->request.url);
  if (!url) return task->done(std::unexpected(url.error()));
  task->url = std::move(*url);
  auto proxy = options.proxies.find(task->url);
  if (!proxy) return task->done(std::unexpected(proxy.error()));
  task->proxy = std::move(*proxy);
  const std::string key = fmt::format("{}://{}", task->url.tls ? "https" : "http", task->url.authority());
  if (const auto found = idle_.find(key); found != idle_.end() && !task->retried) {
    const auto link = found->second.back();
    found->second.pop_back();
    if (found->second.empty()) idle_.erase(found);
    return link->serve(std::move(task));
  }
  const auto link = std::make_shared<ClientLink>(*this, key);
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
