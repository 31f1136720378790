#include "net/client_pool.h"

#include <fmt/compile.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "net/http_text.h"

namespace ashlar::net {
namespace {

std::string key_of(const Url& url) {
  return fmt::format(FMT_COMPILE("{}://{}"), url.tls ? "https" : "http", url.authority());
}

constexpr int kMostLost = 8;
constexpr std::chrono::minutes kSpeakHttp1{10};
constexpr std::size_t kMostRemembered = 1000;

}  // namespace

void ClientPool::end() {
  const Error why{Code::cancelled, "The HTTP client was closed."};
  ending_ = true;
  while (!alarms_.empty()) disarm(std::shared_ptr(*alarms_.begin()));
  std::list<Waiting> waiting;
  for (auto& [key, host] : hosts_) waiting.splice(waiting.end(), host.waiting);
  for (const Waiting& each : waiting) each.task->done(std::unexpected(why));
  while (!links_.empty()) std::shared_ptr(*links_.begin())->close(why);
}

// Finds out where the task's request goes: the name of connections to there.
Result<std::string> ClientPool::place(ClientTask& task) {
  if (!is_token(task.request.method)) return Error{Code::invalid, "The method is not a word."};
  auto known = ways_.find(task.request.url);
  if (known == ways_.end()) {
    Way way{.url = TRY(parse_url(task.request.url)), .proxy = {}, .key = {}};
    way.proxy = TRY(options.proxies.find(way.url));
    way.key = key_of(way.url);
    if (ways_.size() >= kMostRemembered) ways_.clear();
    known = ways_.emplace(task.request.url, std::move(way)).first;
  }
  task.url = known->second.url;
  task.proxy = known->second.proxy;
  std::string key = known->second.key;
  if (const auto wanted = http1_until_.find(key); wanted != http1_until_.end()) {
    task.http1 = Clock::now() < wanted->second;
    if (!task.http1) http1_until_.erase(wanted);
  }
  return key;
}

void ClientPool::speak_http1(const std::string& name) {
  if (http1_until_.size() >= kMostRemembered) http1_until_.clear();
  http1_until_[name] = Clock::now() + kSpeakHttp1;
}

bool ClientPool::may_share(const ClientTask& task) const {
  return options.http2 != Http2::off && !task.http1 &&
         (task.url.tls || (options.http2 == Http2::always && !task.proxy));
}

bool ClientPool::start_at_once(const std::shared_ptr<ClientTask>& task) {
  if (ending_ || hosts_.empty()) return false;
  const auto key = place(*task);
  const auto host = key ? hosts_.find(*key) : hosts_.end();
  const auto link = host != hosts_.end() ? take_free(host->second, *task) : nullptr;
  if (link) link->serve(task);
  return link != nullptr;
}

void ClientPool::start(std::shared_ptr<ClientTask> task) {
  if (task->is_over()) return;
  if (ending_) return task->done(std::unexpected(Error{Code::cancelled, "The HTTP client was closed."}));
  const auto key = place(*task);
  if (!key) return task->done(std::unexpected(key.error()));
  Host& host = hosts_[*key];
  if (const auto link = take_free(host, *task)) return link->serve(std::move(task));
  if (!may_share(*task) || host.http1) return make(*key, std::move(task), false);
  // Whether one connection serves all of them shows when it is made.
  wait(*key, std::move(task));
  make_for_waiting(*key);
}

// Null: there is none.
std::shared_ptr<ClientLink> ClientPool::take_free(Host& host, const ClientTask& task) {
  for (const auto& link : host.shared)
    if (!task.http1 && link->born() >= task.not_before && link->room() > 0) return link;
  if (host.idle.empty() || host.idle.back()->born() < task.not_before) return nullptr;
  const auto link = std::move(host.idle.back());
  host.idle.pop_back();
  return link;
}

void ClientPool::make(const std::string& key, std::shared_ptr<ClientTask> task, bool for_waiting) {
  const auto link = std::make_shared<ClientLink>(*this, key);
  Host& host = hosts_[key];
  if (for_waiting) host.making = link.get();
  ++host.links;
  links_.insert(link);
  link->connect(std::move(task));
}

void ClientPool::wait(const std::string& key, std::shared_ptr<ClientTask> task) {
  const TimePoint until = std::min(task->until, Clock::now() + task->connect_timeout(options));
  auto& waiting = hosts_[key].waiting;
  waiting.emplace_back(task, thread.deadlines, [this, key, task = task.get()] { waited_enough(key, *task); });
  waiting.back().until.set(until);
}

void ClientPool::waited_enough(const std::string& key, const ClientTask& task) {
  Host& host = hosts_[key];
  const auto found = std::ranges::find_if(host.waiting, [&](const Waiting& each) { return each.task.get() == &task; });
  const auto late = std::move(found->task);
  host.waiting.erase(found);
  if (Clock::now() >= late->until)
    return late->done(std::unexpected(Error{Code::deadline, fmt::format("{} did not finish its answer within {} ms.",
                                                                        key, late->request.timeout.count())}));
  late->done(std::unexpected(
      Error{Code::unavailable, fmt::format("{} had no connection with room for one more request within {} ms.", key,
                                           late->connect_timeout(options).count())}));
}

// One at a time: how much room it has shows only then.
void ClientPool::make_for_waiting(const std::string& key) {
  const auto found = hosts_.find(key);
  if (found == hosts_.end()) return;
  Host& host = found->second;
  const auto open = std::ranges::count_if(host.shared, [](const auto& link) { return link->room() >= 0; });
  if (ending_ || host.making != nullptr || host.waiting.empty() || open >= options.max_http2_per_host) return;
  auto task = std::move(host.waiting.front().task);
  host.waiting.pop_front();
  make(key, std::move(task), true);
}

void ClientPool::cancel(const ClientTask& task) {
  if (const auto link = task.link.lock()) link->cancel(task);
  const auto found = hosts_.find(key_of(task.url));
  if (found == hosts_.end()) return;
  std::erase_if(found->second.waiting, [&](const Waiting& each) { return each.task.get() == &task; });
}

void ClientPool::made(const std::shared_ptr<ClientLink>& link, bool http2) {
  Host& host = hosts_[link->name()];
  host.http1 = !http2;
  if (http2) return host.shared.push_back(link);  // and it is offered when it knows its room
  if (host.making == link.get()) host.making = nullptr;
  for (const Waiting& each : std::exchange(host.waiting, {})) make(link->name(), each.task, false);
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

bool ClientPool::offer(const std::shared_ptr<ClientLink>& link) {
  if (ending_) return false;
  Host& host = hosts_[link->name()];
  host.lost = 0;
  if (host.making == link.get()) host.making = nullptr;
  for (auto each = host.waiting.begin(); each != host.waiting.end() && link->room() > 0;) {
    const auto next = std::next(each);
    if (link->born() >= each->task->not_before) {
      auto task = std::move(each->task);
      host.waiting.erase(each);
      link->serve(std::move(task));
    }
    each = next;
  }
  const bool shared = std::ranges::find(host.shared, link) != host.shared.end();
  if (!shared && link->room() > 0) {
    if (std::ssize(host.idle) >= options.max_idle_per_host) return false;
    host.idle.push_back(link);
  }
  make_for_waiting(link->name());
  return true;
}

void ClientPool::forget(const std::shared_ptr<ClientLink>& link, const Error& why) {
  links_.erase(link);
  Host& host = hosts_[link->name()];
  std::erase(host.idle, link);
  std::erase(host.shared, link);
  --host.links;
  std::list<Waiting> failed;
  if (host.making == link.get()) {
    host.making = nullptr;
    // Whatever it was, it is the same for who waited for it; unless it was a matter of the one it was made for, or of
    // that connection alone.
    const bool its_own = why.code == Code::cancelled || why.code == Code::deadline;
    if (!its_own && (why.code != Code::exhausted || ++host.lost >= kMostLost)) failed.swap(host.waiting);
  }
  make_for_waiting(link->name());
  drop_if_empty(link->name());
  for (const Waiting& each : failed) each.task->done(std::unexpected(why));
}

void ClientPool::drop_if_empty(const std::string& key) {
  const auto found = hosts_.find(key);
  if (found != hosts_.end() && found->second.links == 0 && found->second.waiting.empty()) hosts_.erase(found);
}

}  // namespace ashlar::net
