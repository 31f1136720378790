#include "net/deadlines.h"

namespace ashlar::net {

void Deadlines::Entry::set(TimePoint when) {
  wanted_ = when;
  if (when >= listed_) return;
  unlist();
  listed_ = when;
  all_.list_.emplace(when, this);
  all_.arm();
}

void Deadlines::Entry::unlist() {
  if (listed_ != kNever) all_.list_.erase({listed_, this});
  listed_ = kNever;
}

void Deadlines::stop() {
  stopped_ = true;
  timer_.cancel();
}

void Deadlines::arm() {
  if (stopped_ || list_.empty() || list_.begin()->first >= armed_) return;
  armed_ = list_.begin()->first;
  timer_.expires_at(armed_);  // ends an earlier wait, which then finds itself cancelled
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) pass();
  });
}

void Deadlines::pass() {
  armed_ = kNever;
  const TimePoint now = Clock::now();
  while (!list_.empty() && list_.begin()->first <= now) {
    Entry* entry = list_.begin()->second;
    list_.erase(list_.begin());
    entry->listed_ = kNever;
    const TimePoint wanted = std::exchange(entry->wanted_, kNever);
    if (wanted > now) {
      entry->set(wanted);
      continue;
    }
    const auto due = entry->due_;  // the entry may die of it
    due();
  }
  arm();
}

}  // namespace ashlar::net
