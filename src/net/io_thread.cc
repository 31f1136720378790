#include "net/io_thread.h"

#include <boost/asio/post.hpp>
#include <exception>
#include <future>
#include <new>
#include <utility>

#include "base/log.h"

namespace ashlar::net {
namespace {
thread_local IoThread* running = nullptr;
}  // namespace

IoThread* IoThread::current() { return running; }

void IoThread::start(const char* name) {
  thread_ = std::thread([this, name] { loop(name); });
}

void IoThread::loop(const char* name) {
  name_this_thread(name);
  running = this;
  while (true) {
    try {
      io.run();
      return;
    } catch (const std::bad_alloc&) {  // then there is none for a line of the log either
    } catch (const std::exception& e) {
      log::error("network_thread_threw", {{"what", e.what()}});
    }
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

void IoThread::call(FunctionRef<void()> task) {
  auto done = std::make_shared<std::promise<void>>();
  boost::asio::post(io, [done, task] {
    task();
    done->set_value();
  });
  done->get_future().wait();
}

}  // namespace ashlar::net
