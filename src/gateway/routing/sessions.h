// Which deployment a session had last: a bounded table whose entries live for a while after their last use.
#pragma once

#include <chrono>
#include <cstddef>
#include <list>
#include <string>
#include <unordered_map>

namespace ashlar::gateway {

// Not thread-safe.
class Sessions {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  Sessions(std::chrono::nanoseconds ttl, std::size_t most) : ttl_(ttl), most_(most) {}

  // Empty: none, or it is too long ago. What is found lives on.
  std::string find(const std::string& key, TimePoint now) {
    drop_old(now);
    const auto found = index_.find(key);
    if (found == index_.end()) return {};
    touch(found->second, now);
    return found->second->deployment;
  }
  void set(const std::string& key, const std::string& deployment, TimePoint now) {
    if (most_ == 0) return;
    if (const auto found = index_.find(key); found != index_.end()) {
      found->second->deployment = deployment;
      return touch(found->second, now);
    }
    drop_old(now);
    if (entries_.size() >= most_) drop_oldest();
    entries_.push_back({key, deployment, now});
    index_[key] = std::prev(entries_.end());
  }
  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string key, deployment;
    TimePoint used;
  };
  using Place = std::list<Entry>::iterator;

  void touch(Place place, TimePoint now) {
    place->used = now;
    entries_.splice(entries_.end(), entries_, place);
  }
  void drop_old(TimePoint now) {
    while (!entries_.empty() && now - entries_.front().used > ttl_) drop_oldest();
  }
  void drop_oldest() {
    index_.erase(entries_.front().key);
    entries_.pop_front();
  }

  std::chrono::nanoseconds ttl_;
  std::size_t most_;
  std::list<Entry> entries_;  // the one used longest ago first
  std::unordered_map<std::string, Place> index_;
};

}  // namespace ashlar::gateway
