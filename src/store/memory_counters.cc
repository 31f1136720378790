#include "store/memory_counters.h"

#include <algorithm>

namespace ashlar::store {

class MemoryCounters::Grip {
 public:
  // `limit_of` gives the i-th of `count` limits; `old`: as they were when something was reserved, and where they have
  // changed since, they are now as whoever reserved last has it.
  template <class LimitOf>
  Grip(MemoryCounters& all, std::size_t count, LimitOf limit_of, bool old = false) : shards_(all.shards_), old_(old) {
    CHECK(count <= kMostCharges, "no more limits than were checked");
    std::array<std::size_t, kMostCharges> of;
    for (std::size_t i = 0; i < count; ++i) locked_[i] = of[i] = all.shard_of(limit_of(i));
    const auto begin = locked_.begin();
    std::sort(begin, begin + count);
    locks_ = static_cast<std::size_t>(std::unique(begin, begin + count) - begin);
    for (std::size_t i = 0; i < locks_; ++i) shards_[locked_[i]].mutex.lock();
    now_ = all.clock_();  // under the locks: it does not go back from one holder to the next
    for (std::size_t i = 0; i < locks_; ++i) all.sweep(shards_[locked_[i]], now_);
    for (std::size_t i = 0; i < count; ++i) counted_[i] = &find(shards_[of[i]], limit_of(i));
  }
  ~Grip() {
    for (std::size_t i = 0; i < locks_; ++i) shards_[locked_[i]].mutex.unlock();
  }
  Grip(const Grip&) = delete;
  Grip& operator=(const Grip&) = delete;

  Instant now() const { return now_; }
  // What `use` gives for the i-th limit's meter.
  decltype(auto) with(std::size_t i, auto use) { return std::visit(use, counted_[i]->meter); }

 private:
  Counted& find(Shard& shard, const Limit& limit) {
    auto found = shard.meters.find(NameView{limit.kind, limit.key});
    const bool fresh = found == shard.meters.end();
    if (fresh)
      found = shard.meters.emplace(Name{limit.kind, limit.key}, Counted{.meter = make_meter(limit.kind)}).first;
    Counted& counted = found->second;
    if (fresh) counted.shape.capacity = limit.capacity;
    counted.shape.period = limit.period;
    counted.shape.calendar = limit.calendar;
    std::visit([&](auto& meter) { meter.advance(counted.shape, now_); },
               counted.meter);  // what has passed is of before
    if (!old_) counted.shape.capacity = limit.capacity;
    return counted;
  }

  std::array<Shard, kShards>& shards_;
  const bool old_;
  Instant now_;
  std::size_t locks_ = 0;
  std::array<std::size_t, kMostCharges> locked_;
  std::array<Counted*, kMostCharges> counted_;
};

void MemoryCounters::sweep(Shard& shard, Instant now) {
  if (shard.meters.size() < shard.sweep_at) return;
  for (auto item = shard.meters.begin(); item != shard.meters.end();) {
    Counted& counted = item->second;
    const bool idle = std::visit(
        [&](auto& meter) {
          meter.advance(counted.shape, now);
          return meter.idle();
        },
        counted.meter);
    item = idle ? shard.meters.erase(item) : std::next(item);
  }
  shard.sweep_at = std::max<std::size_t>(1024, 2 * shard.meters.size());
}

Result<Verdict> MemoryCounters::reserve(const std::string& id, std::span<const Charge> charges) {
  TRY(check_charges(id, charges));
  HeldShard& home = held_shard(id);
  const std::lock_guard lock(home.mutex);
  Grip grip(*this, charges.size(), [&](std::size_t i) -> const Limit& { return charges[i].limit; });
  Verdict verdict{.admitted = true};
  const bool held = home.held.contains(id);
  for (std::size_t i = 0; i < charges.size() && !held; ++i) {
    const Fit fit = grip.with(i, [&](auto& meter) { return meter.fit(charges[i].limit, charges[i].amount); });
    if (fit.fits) continue;
    const std::chrono::milliseconds wait(fit.never ? 0 : fit.wait_ms);
    if (verdict.admitted || (!verdict.never && (fit.never || wait > verdict.retry_after))) {
      verdict.refused_by = static_cast<int>(i);
      verdict.never = fit.never;
      verdict.retry_after = wait;
    }
    verdict.admitted = false;
  }
  if (verdict.admitted && !held) {
    Held record{.charges = {charges.begin(), charges.end()}, .since_ms = grip.now().steady_ms};
    record.marks.reserve(charges.size());
    for (std::size_t i = 0; i < charges.size(); ++i) {
      record.marks.push_back(
          grip.with(i, [&](auto& meter) { return meter.take(charges[i].limit, charges[i].amount, id); }));
      record.money |= charges[i].limit.kind == LimitKind::budget;
    }
    home.held.emplace(id, std::move(record));
  }
  verdict.standings.reserve(charges.size());
  for (std::size_t i = 0; i < charges.size(); ++i)
    verdict.standings.push_back(grip.with(i, [&](auto& meter) { return meter.standing(charges[i].limit); }));
  return verdict;
}

void MemoryCounters::end(const std::string& id, std::span<const std::int64_t> amounts) {
  HeldShard& home = held_shard(id);
  const std::lock_guard lock(home.mutex);
  const auto found = home.held.find(id);
  if (found == home.held.end()) return;
  const Held& record = found->second;
  CHECK(amounts.empty() || amounts.size() == record.charges.size(), "an amount for each charge");
  {
    Grip grip(
        *this, record.charges.size(), [&](std::size_t i) -> const Limit& { return record.charges[i].limit; },
        /*old=*/true);
    for (std::size_t i = 0; i < record.charges.size(); ++i) {
      const auto& [limit, taken] = record.charges[i];
      const std::int64_t amount = amounts.empty() ? 0 : std::clamp<std::int64_t>(amounts[i], 0, kMostAmount);
      grip.with(i, [&](auto& meter) { meter.give(limit, record.marks[i], taken, amount, id); });
    }
  }
  home.held.erase(found);
}

void MemoryCounters::renew(const std::string& id) {
  HeldShard& home = held_shard(id);
  const std::lock_guard lock(home.mutex);
  const auto found = home.held.find(id);
  if (found == home.held.end()) return;
  for (const Charge& charge : found->second.charges) {
    if (charge.limit.kind != LimitKind::semaphore) continue;
    Grip grip(*this, 1, [&](std::size_t) -> const Limit& { return charge.limit; }, /*old=*/true);
    grip.with(0, [&](auto& meter) { (void)meter.take(charge.limit, 1, id); });
  }
}

Result<std::vector<Standing>> MemoryCounters::look(std::span<const Limit> limits) {
  std::vector<Standing> standings;
  for (const Limit& limit : limits) {
    TRY(check_limit(limit));
    Grip grip(*this, 1, [&](std::size_t) -> const Limit& { return limit; });
    standings.push_back(grip.with(0, [&](auto& meter) { return meter.standing(limit); }));
  }
  return standings;
}

Status MemoryCounters::restore(std::span<const Spent> spent) {
  for (const auto& [limit, used] : spent) {
    TRY(check_limit(limit));
    if (limit.kind != LimitKind::budget || used < 0 || used > kMostAmount)
      return Error{Code::invalid, limit.key + ": what a ledger gives back is a budget's count"};
    Grip grip(*this, 1, [&](std::size_t) -> const Limit& { return limit; });
    grip.with(0, [&](auto& meter) {
      if constexpr (requires { meter.raise(used); }) meter.raise(used);
    });
  }
  return {};
}

Status MemoryCounters::replay(std::span<const Past> past) {
  for (const auto& [limit, uses] : past) {
    TRY(check_limit(limit));
    if (limit.kind == LimitKind::budget || limit.kind == LimitKind::semaphore)
      return Error{Code::invalid, limit.key + ": what a ledger tells the past of is a rate"};
    Grip grip(*this, 1, [&](std::size_t) -> const Limit& { return limit; });
    grip.with(0, [&](auto& meter) {
      if constexpr (requires { meter.replay(limit, uses); }) meter.replay(limit, uses);
    });
  }
  return {};
}

Result<std::vector<std::string>> MemoryCounters::unsettled(std::chrono::milliseconds age) {
  const std::int64_t before = clock_().steady_ms - age.count();
  std::vector<std::pair<std::int64_t, std::string>> found;
  for (HeldShard& home : held_) {
    const std::lock_guard lock(home.mutex);
    for (const auto& [id, record] : home.held)
      if (record.money && record.since_ms <= before) found.emplace_back(record.since_ms, id);
  }
  std::ranges::sort(found);
  if (found.size() > 1000) found.resize(1000);
  std::vector<std::string> ids;
  for (auto& [since, id] : found) ids.push_back(std::move(id));
  return ids;
}

bool MemoryCounters::holds(const std::string& id) {
  HeldShard& home = held_shard(id);
  const std::lock_guard lock(home.mutex);
  return home.held.contains(id);
}

std::size_t MemoryCounters::size() {
  std::size_t size = 0;
  for (Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    size += shard.meters.size();
  }
  return size;
}

std::unique_ptr<Counters> memory_counters(CounterClock clock) {
  return std::make_unique<MemoryCounters>(std::move(clock));
}

}  // namespace ashlar::store
