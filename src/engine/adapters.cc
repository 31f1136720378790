#include "engine/adapters.h"

#include <fmt/format.h>

#include <atomic>
#include <ctime>
#include <utility>

#include "base/bytes.h"
#include "base/log.h"
#include "base/threads.h"

namespace ashlar::engine {
namespace {

constexpr std::size_t kMostOrders = 64;

std::uint64_t next_number() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace

AdapterShelf::~AdapterShelf() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  ordered_.notify_all();
  thread_.join();
}

Status AdapterShelf::may_add(const std::string& name, bool replace) const {
  if (name.empty() || name.size() > 256) return Error{Code::invalid, "an adapter needs a name of at most 256 bytes"};
  const bool there = served_.contains(name);
  if (there && !replace) return Error{Code::invalid, fmt::format("an adapter called '{}' is loaded already", name)};
  if (!there && served_.size() >= kMostAdapters)
    return Error{Code::exhausted, fmt::format("{} adapters are loaded; unload one first", served_.size())};
  return {};
}

Status AdapterShelf::add(const std::string& name, const std::string& path, bool replace) {
  {
    const std::lock_guard lock(mutex_);
    TRY(may_add(name, replace));
  }
  auto adapter = TRY(model_.load_adapter(path));
  const Bytes bytes = adapter->bytes();
  auto served = std::make_shared<const ServedAdapter>(ServedAdapter{.name = name,
                                                                    .path = path,
                                                                    .number = next_number(),
                                                                    .created = std::time(nullptr),
                                                                    .adapter = std::move(adapter)});
  {
    const std::lock_guard lock(mutex_);
    TRY(may_add(name, replace));  // somebody may have been quicker
    served_[name] = std::move(served);
  }
  log::info("adapter_loaded", {{"adapter", name}, {"path", path}, {"memory", to_string(bytes)}});
  return {};
}

void AdapterShelf::add_later(std::string name, std::string path, bool replace, std::function<void(Status)> done) {
  {
    const std::lock_guard lock(mutex_);
    if (orders_.size() < kMostOrders) {
      orders_.push_back({std::move(name), std::move(path), replace, std::move(done)});
      if (!thread_.joinable())
        thread_ = std::jthread([this](std::stop_token stop) {
          begin_thread("ashlar-adapter");
          work(std::move(stop));
        });
      ordered_.notify_one();
      return;
    }
  }
  done(Error{Code::exhausted, "too many adapters wait to be loaded"});
}

void AdapterShelf::work(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  for (;;) {
    ordered_.wait(lock, stop, [this] { return !orders_.empty(); });
    if (orders_.empty()) return;
    const Order order = std::move(orders_.front());
    orders_.pop_front();
    lock.unlock();
    order.done(stop.stop_requested() ? Status(Error{Code::unavailable, "the server is shutting down"})
                                     : add(order.name, order.path, order.replace));
    lock.lock();
  }
}

Status AdapterShelf::remove(const std::string& name) {
  {
    const std::lock_guard lock(mutex_);
    if (served_.erase(name) == 0) return Error{Code::not_found, fmt::format("there is no adapter called '{}'", name)};
  }
  log::info("adapter_unloaded", {{"adapter", name}});
  return {};
}

std::shared_ptr<const ServedAdapter> AdapterShelf::find(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = served_.find(name);
  return found == served_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<const ServedAdapter>> AdapterShelf::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const ServedAdapter>> list;
  for (const auto& [name, adapter] : served_) list.push_back(adapter);
  return list;
}

}  // namespace ashlar::engine
