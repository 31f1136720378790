// The caller's end of a running request: its sink, until the last event or until
// the ticket is dropped.
#pragma once

#include <mutex>
#include <utility>

#include "engine/generator.h"

namespace ashlar::engine {

// The engine thread sends, any thread closes.
class Outlet {
 public:
  explicit Outlet(Sink& sink) : sink_(&sink) {}

  // false: closed; nobody saw the event.
  bool send(Event event) {
    std::lock_guard lock(mutex_);
    if (sink_ == nullptr) return false;
    sink_->on(std::move(event));
    return sink_ != nullptr;
  }

  // No call of the sink begins after this returns, and none goes on, but for the
  // one that we may be in ourselves: the mutex is recursive for that. false: it
  // was closed before.
  bool close() {
    std::lock_guard lock(mutex_);
    return std::exchange(sink_, nullptr) != nullptr;
  }

  bool closed() const {
    std::lock_guard lock(mutex_);
    return sink_ == nullptr;
  }

 private:
  mutable std::recursive_mutex mutex_;
  Sink* sink_;
};

}  // namespace ashlar::engine
