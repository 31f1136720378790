#include "gateway/limits/running.h"

namespace ashlar::gateway {

RunningRequests::Pass RunningRequests::enter(std::shared_ptr<Running> request) {
  {
    const std::lock_guard lock(mutex_);
    here_.insert(request);
  }
  Running* const raw = request.get();
  return {raw, [all = shared_from_this(), request = std::move(request)](const void*) { all->leave(request); }};
}

void RunningRequests::leave(const std::shared_ptr<Running>& request) {
  const std::lock_guard lock(mutex_);
  here_.erase(request);
  if (keeps_) left_.push_back(request);
}

void RunningRequests::keep() {
  const std::lock_guard lock(mutex_);
  keeps_ = true;
}

void RunningRequests::forget() {
  std::vector<std::shared_ptr<Running>> left;  // dies outside of the lock
  const std::lock_guard lock(mutex_);
  keeps_ = false;
  left.swap(left_);
}

std::vector<std::shared_ptr<Running>> RunningRequests::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Running>> out(here_.begin(), here_.end());
  out.insert(out.end(), left_.begin(), left_.end());
  return out;
}

}  // namespace ashlar::gateway
