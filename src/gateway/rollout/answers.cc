#include "gateway/rollout/answers.h"

#include <utility>

namespace ashlar::gateway {

void KeptAnswers::keep(const std::string& name, KeptAnswer answer) {
  if (name.empty() || name.size() > 256) return;
  const auto now = answer.at;
  if (!all_.emplace(name, std::move(answer)).second) return;
  order_.push_back(name);
  while (order_.size() > kMost || now - all_.at(order_.front()).at > kKept) {
    all_.erase(order_.front());
    order_.pop_front();
  }
}

KeptAnswer* KeptAnswers::find(const std::string& name, engine::Clock::time_point now) {
  const auto found = all_.find(name);
  return found == all_.end() || now - found->second.at > kKept ? nullptr : &found->second;
}

}  // namespace ashlar::gateway
