#include "net/io_thread.h"

#include <boost/asio/post.hpp>
#include <exception>
#include <future>
#include <new>
#include <utility>

#include "base/cores.h"
#include "base/log.h"

namespace ashlar::net {
namespace {
thread_local IoThread* running = nullptr;

// False: it threw.
bool ran(FunctionRef<void()> act) {
  try {
    act();
    return true;
  } catch (const std::bad_alloc&) {  // then there is none for a line of the log either
  } catch (const std::exception& e) {
    log::error("network_thread_threw", {{"what", e.what()}});
  }
  return false;
}
}  // namespace

IoThread* IoThread::current() { return running; }

void IoThread::start(const char* name, std::optional<int> core) {
  thread_ = std::thread([this, name, core] { loop(name, core); });
}

void IoThread::loop(const char* name, std::optional<int> core) {
  begin_thread(name);
  if (core) confine(ThreadId::current(), *core);
  running = this;
  while (!ran([this] { io.run(); })) {
  }
}

void IoThread::take_in(const std::weak_ptr<Tenant>& tenant) {
  if (ends_) {
    if (const auto late = tenant.lock()) late->thread_ends();
    return;
  }
  std::erase_if(tenants_, [](const auto& each) { return each.expired(); });
  tenants_.push_back(tenant);
}

void IoThread::finish() {
  ends_ = true;
  for (const auto& each : std::exchange(tenants_, {}))
    if (const auto tenant = each.lock()) tenant->thread_ends();
  deadlines.stop();
  std::lock_guard lock(mutex_);
  finished_ = true;
  work_.reset();
}

bool IoThread::post(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (!finished_) boost::asio::post(io, std::move(task));
  return !finished_;
}

bool IoThread::put_off(const std::shared_ptr<PutOff>& what) {
  if (!is_this() || !in_turn_) return false;
  put_off_.push_back(what);
  return true;
}

// What the end of a turn sets going has its own turn.
void IoThread::end_turn() {
  in_turn_ = false;
  ending_.swap(put_off_);
  for (const auto& each : ending_) ran([&] { each->turn_ends(); });
  ending_.clear();
}

void IoThread::call(FunctionRef<void()> task) {
  auto done = std::make_shared<std::promise<void>>();
  boost::asio::post(io, [done, task] {
    task();
    done->set_value();
  });
  done->get_future().wait();
}

}  // namespace ashlar::net
