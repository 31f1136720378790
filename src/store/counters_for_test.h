// What the tests of counters share: time that a test turns, and a model of all limits that is slow and plain to see.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <map>
#include <string>
#include <vector>

#include "store/counters.h"

namespace ashlar::store {

struct TestTime {
  std::atomic<std::int64_t> steady_ms{10'000'000};
  std::atomic<std::int64_t> utc_ms{1'772'366'399'000};  // 2026-03-01T11:59:59Z
  void pass(std::chrono::milliseconds time) {
    steady_ms += time.count();
    utc_ms += time.count();
  }
  CounterClock clock() {
    return [this] { return Instant{steady_ms, utc_ms}; };
  }
};

inline Limit limit_of(LimitKind kind, std::string key, std::int64_t capacity,
                      std::chrono::milliseconds period = std::chrono::minutes(1), Calendar calendar = Calendar::total) {
  return {.key = std::move(key), .kind = kind, .capacity = capacity, .period = period, .calendar = calendar};
}
inline Limit money(std::string key, std::int64_t capacity, Calendar calendar = Calendar::total) {
  return limit_of(LimitKind::budget, std::move(key), capacity, {}, calendar);
}

// Remembers every amount with its time, and adds them up anew for each question.
class SlowModel {
 public:
  explicit SlowModel(TestTime& time) : time_(time) {}

  bool reserve(const std::string& id, const std::vector<Charge>& charges) {
    for (const Charge& charge : charges)
      if (!fits(charge)) return false;
    for (const Charge& charge : charges) {
      const Limit& limit = charge.limit;
      parts(limit) += static_cast<__int128>(charge.amount) * limit.period.count();
      entries_[limit.key].push_back(
          {id, charge.amount, time_.steady_ms, window(limit.calendar), time_.steady_ms + limit.period.count()});
    }
    held_[id] = charges;
    return true;
  }

  void settle(const std::string& id, const std::vector<std::int64_t>& amounts) {
    if (!held_.contains(id)) return;
    for (std::size_t i = 0; i < amounts.size(); ++i) {
      const Charge& charge = held_[id][i];
      const Limit& limit = charge.limit;
      __int128& used = parts(limit);
      used = std::max<__int128>(0, used + static_cast<__int128>(amounts[i] - charge.amount) * limit.period.count());
      auto& entries = entries_[limit.key];
      const auto entry = std::ranges::find(entries, id, &Entry::id);
      if (limit.kind == LimitKind::semaphore)
        entry->lease_end = 0;
      else if (limit.kind == LimitKind::sliding_window && amounts[i] > charge.amount)
        entries.push_back({"more", amounts[i] - charge.amount, time_.steady_ms, {}, 0});
      else
        entry->amount = amounts[i];
    }
    held_.erase(id);
  }

  void renew(const std::string& id) {
    if (!held_.contains(id)) return;
    for (const Charge& charge : held_[id])
      for (Entry& entry : entries_[charge.limit.key])
        if (entry.id == id) entry.lease_end = time_.steady_ms + charge.limit.period.count();
  }

  std::int64_t remaining(const Limit& limit) { return std::max<std::int64_t>(0, limit.capacity - used(limit)); }

 private:
  struct Entry {
    std::string id;
    std::int64_t amount, at_ms;
    std::string window;
    std::int64_t lease_end;
  };

  // "2026-03-01 11" for an hour, and so on.
  std::string window(Calendar calendar) const {
    const std::time_t seconds = time_.utc_ms / 1000;
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    char text[32] = "";
    const char* format = calendar == Calendar::hour    ? "%Y-%m-%d %H"
                         : calendar == Calendar::day   ? "%Y-%m-%d"
                         : calendar == Calendar::month ? "%Y-%m"
                                                       : "-";
    (void)std::strftime(text, sizeof text, format, &parts);
    return text;
  }

  // Of a bucket, in 1/period; leaks by the millisecond.
  __int128& parts(const Limit& limit) {
    auto& [at_ms, used] = buckets_.try_emplace(limit.key, time_.steady_ms, 0).first->second;
    for (; at_ms < time_.steady_ms; ++at_ms) used = std::max<__int128>(0, used - limit.capacity);
    return used;
  }

  std::int64_t used(const Limit& limit) {
    if (limit.kind == LimitKind::token_bucket || limit.kind == LimitKind::leaky_bucket) {
      const std::int64_t period = limit.period.count();
      return static_cast<std::int64_t>((parts(limit) + period - 1) / period);
    }
    std::int64_t sum = 0;
    const std::int64_t slot = (limit.period.count() + kWindowSlots - 1) / kWindowSlots;
    for (const Entry& entry : entries_[limit.key]) {
      if (limit.kind == LimitKind::semaphore) sum += entry.lease_end > time_.steady_ms;
      if (limit.kind == LimitKind::budget && entry.window == window(limit.calendar)) sum += entry.amount;
      if (limit.kind != LimitKind::sliding_window) continue;
      const std::int64_t leaves =
          entry.at_ms / slot * slot + limit.period.count() + slot;  // periods here are whole slots
      EXPECT_GE(leaves, entry.at_ms + limit.period.count());
      if (time_.steady_ms < leaves) sum += entry.amount;
    }
    return sum;
  }

  bool fits(const Charge& charge) {
    const std::int64_t now = used(charge.limit), capacity = charge.limit.capacity;
    if (charge.limit.kind == LimitKind::token_bucket || charge.limit.kind == LimitKind::leaky_bucket)
      return capacity > 0 && (now + charge.amount <= capacity || (charge.amount > capacity && now == 0));
    if (charge.limit.kind == LimitKind::budget && charge.amount == 0) return true;
    return capacity > 0 && now + charge.amount <= capacity;
  }

  TestTime& time_;
  std::map<std::string, std::vector<Entry>> entries_;
  std::map<std::string, std::pair<std::int64_t, __int128>> buckets_;
  std::map<std::string, std::vector<Charge>> held_;
};

}  // namespace ashlar::store
