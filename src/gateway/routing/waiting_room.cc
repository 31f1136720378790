#include "gateway/routing/waiting_room.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace ashlar::gateway {
namespace {

std::int64_t second_of(WorkRate::TimePoint now) {
  return std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
}

}  // namespace

void WorkRate::done(double work, TimePoint now) {
  const std::int64_t second = second_of(now);
  if (first_ < 0) first_ = second;
  Slice& slice = slices_[static_cast<std::size_t>(second % 10)];
  if (slice.second != second) slice = {.second = second};
  slice.work += work;
}

// Of whole seconds, so that the one that has just begun does not count as an idle one.
double WorkRate::per_second(TimePoint now) const {
  const std::int64_t second = second_of(now);
  double work = 0;
  for (const Slice& slice : slices_)
    if (slice.second >= 0 && slice.second > second - 10 && slice.second < second) work += slice.work;
  const std::int64_t seconds = std::min<std::int64_t>(9, second - first_);
  return first_ < 0 || seconds < 1 ? 0 : work / static_cast<double>(seconds);
}

WaitingRoom::Verdict WaitingRoom::offer(Rank rank, Waiter waiter, double rate, TimePoint now) {
  double ahead = 0;
  for (const auto& [other, each] : waiters_) {
    if (other > rank) break;
    if (each.group == waiter.group) ahead += each.work;
  }
  Verdict verdict;
  if (rate > 0) verdict.wait = std::chrono::milliseconds{static_cast<std::int64_t>(std::min(ahead / rate, 1e6) * 1000)};
  if (verdict.wait > most_wait(waiter)) {
    verdict.why = fmt::format("about {:.1f} s of work wait before this request",
                              static_cast<double>(verdict.wait.count()) / 1000);
    return verdict;
  }
  if (waiter.deadline != TimePoint::max() && now + verdict.wait >= waiter.deadline) {
    verdict.why = "its deadline would pass while it waits";
    return verdict;
  }
  if (waiters_.size() >= options_.most) {
    if (waiters_.empty() || waiters_.rbegin()->first < rank) {
      verdict.why = fmt::format("{} requests wait already", waiters_.size());
      verdict.wait = std::max(verdict.wait, std::chrono::milliseconds{1000});
      return verdict;
    }
    verdict.evicted = waiters_.rbegin()->second.id;
    waiters_.erase(std::prev(waiters_.end()));
  }
  waiter.since = now;
  verdict.admitted = true;
  waiters_.emplace(rank, std::move(waiter));
  return verdict;
}

void WaitingRoom::take_back(Rank rank, Waiter waiter) { waiters_.emplace(rank, std::move(waiter)); }

std::optional<std::pair<WaitingRoom::Rank, WaitingRoom::Waiter>> WaitingRoom::next(const std::string& group) {
  const auto found = std::ranges::find_if(waiters_, [&](const auto& each) { return each.second.group == group; });
  if (found == waiters_.end()) return std::nullopt;
  std::pair<Rank, Waiter> out{found->first, std::move(found->second)};
  waiters_.erase(found);
  return out;
}

std::vector<std::uint64_t> WaitingRoom::expired(TimePoint now) {
  std::vector<std::uint64_t> out;
  std::erase_if(waiters_, [&](const auto& each) {
    const bool late = now - each.second.since >= most_wait(each.second) || now >= each.second.deadline;
    if (late) out.push_back(each.second.id);
    return late;
  });
  return out;
}

WaitingRoom::TimePoint WaitingRoom::next_expiry() const {
  TimePoint first = TimePoint::max();
  for (const auto& [rank, each] : waiters_) first = std::min({first, each.since + most_wait(each), each.deadline});
  return first;
}

std::vector<std::string> WaitingRoom::groups() const {
  std::set<std::string> out;
  for (const auto& [rank, each] : waiters_) out.insert(each.group);
  return {out.begin(), out.end()};
}

std::map<std::string, WaitingRoom::Queue> WaitingRoom::queues() const {
  std::map<std::string, Queue> out;
  for (const auto& [rank, waiter] : waiters_) {
    Queue& queue = out[waiter.group];
    ++queue.requests;
    queue.work += waiter.work;
  }
  return out;
}

}  // namespace ashlar::gateway
