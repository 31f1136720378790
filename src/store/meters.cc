#include "store/meters.h"

#include <algorithm>
#include <limits>

namespace ashlar::store {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a <= 0 ? 0 : (a - 1) / b + 1; }

std::int64_t clamp_amount(std::int64_t amount) { return std::clamp<std::int64_t>(amount, 0, kMostAmount); }

std::int64_t left_of(std::int64_t capacity, std::int64_t used) { return std::max<std::int64_t>(0, capacity - used); }

}  // namespace

SlotShape slot_shape(std::int64_t period_ms) {
  const std::int64_t slot = ceil_div(period_ms, kWindowSlots);
  return {slot, ceil_div(period_ms, slot)};
}

CalendarWindow calendar_window(Calendar calendar, std::int64_t utc_ms) {
  using namespace std::chrono;
  const sys_time<milliseconds> now{milliseconds(utc_ms)};
  switch (calendar) {
    case Calendar::total:
      return {};
    case Calendar::hour: {
      const auto begin = floor<hours>(now);
      return {begin.time_since_epoch().count(), (begin + hours(1) - now).count()};
    }
    case Calendar::day: {
      const auto begin = floor<days>(now);
      return {begin.time_since_epoch().count(), (begin + days(1) - now).count()};
    }
    case Calendar::month: {
      const year_month_day day(floor<days>(now));
      const auto next = sys_days(day.year() / day.month() / 1 + months(1));
      return {static_cast<int>(day.year()) * 12 + static_cast<int>(static_cast<unsigned>(day.month())),
              (next - now).count()};
    }
  }
  return {};
}

Meter make_meter(LimitKind kind) {
  switch (kind) {
    case LimitKind::token_bucket:
    case LimitKind::leaky_bucket:
      return BucketMeter();
    case LimitKind::sliding_window:
      return WindowMeter();
    case LimitKind::semaphore:
      return SeatMeter();
    case LimitKind::budget:
      return BudgetMeter();
  }
  return WindowMeter();
}

// Buckets.

void BucketMeter::advance(const Limit& limit, Instant now) {
  const std::int64_t passed = std::max<std::int64_t>(0, now.steady_ms - last_ms_);
  last_ms_ += passed;
  if (limit.capacity == 0) return;
  used_ = passed >= ceil_div(used_, limit.capacity) ? 0 : used_ - passed * limit.capacity;
}

Fit BucketMeter::fit(const Limit& limit, std::int64_t amount) const {
  if (limit.capacity == 0) return {.never = true};
  const std::int64_t most = left_of(limit.capacity, amount) * limit.period.count();  // for the amount to go in
  if (used_ <= most) return {.fits = true};
  return {.wait_ms = ceil_div(used_ - most, limit.capacity)};
}

std::int64_t BucketMeter::take(const Limit& limit, std::int64_t amount, const std::string& id) {
  give(limit, 0, 0, amount, id);
  return 0;
}

void BucketMeter::give(const Limit& limit, std::int64_t, std::int64_t taken, std::int64_t amount, const std::string&) {
  const std::int64_t period = limit.period.count(), deepest = kMostAmount / period;
  used_ = clamp_amount(used_ + std::clamp(amount - taken, -deepest, deepest) * period);
}

Standing BucketMeter::standing(const Limit& limit) const {
  const std::int64_t used = ceil_div(used_, limit.period.count());
  return {limit.capacity, left_of(limit.capacity, used),
          std::chrono::milliseconds(limit.capacity == 0 ? 0 : ceil_div(used_, limit.capacity))};
}

void BucketMeter::replay(const Limit& limit, std::span<const Past::Use> uses) {
  BucketMeter then;
  then.last_ms_ = std::numeric_limits<std::int64_t>::min() / 2;
  for (const auto& [ago, amount] : uses) {
    then.advance(limit, {.steady_ms = last_ms_ - ago.count()});
    then.give(limit, 0, 0, amount, {});
  }
  then.advance(limit, {.steady_ms = last_ms_});
  used_ = clamp_amount(used_ + then.used_);
}

// Sliding windows. A slot counts until it has lain behind for as many slots as the period has, so that an amount never
// leaves before its period is over.

void WindowMeter::advance(const Limit& limit, Instant now) {
  now_ms_ = std::max(now_ms_, now.steady_ms);
  const SlotShape shape = slot_shape(limit.period.count());
  const std::int64_t oldest = now_ms_ / shape.slot_ms - shape.slots;
  while (!slots_.empty() && slots_.begin()->first < oldest) {
    total_ -= slots_.begin()->second;
    slots_.erase(slots_.begin());
  }
}

Fit WindowMeter::fit(const Limit& limit, std::int64_t amount) const {
  if (amount > limit.capacity || limit.capacity == 0) return {.never = true};
  std::int64_t excess = total_ + amount - limit.capacity;
  if (excess <= 0) return {.fits = true};
  const SlotShape shape = slot_shape(limit.period.count());
  for (const auto& [slot, count] : slots_)
    if ((excess -= count) <= 0)
      return {.wait_ms = std::max<std::int64_t>(1, (slot + shape.slots + 1) * shape.slot_ms - now_ms_)};
  return {.wait_ms = limit.period.count()};
}

std::int64_t WindowMeter::take(const Limit& limit, std::int64_t amount, const std::string&) {
  const std::int64_t slot = now_ms_ / slot_shape(limit.period.count()).slot_ms;
  if (amount == 0) return slot;
  slots_[slot] += amount;
  total_ += amount;
  return slot;
}

void WindowMeter::give(const Limit& limit, std::int64_t mark, std::int64_t taken, std::int64_t amount,
                       const std::string&) {
  if (amount > taken) {  // what came on top came now
    (void)take(limit, amount - taken, {});
    return;
  }
  const auto slot = slots_.find(mark);
  if (slot == slots_.end()) return;  // it has passed
  const std::int64_t back = std::min(taken - amount, slot->second);
  total_ -= back;
  if ((slot->second -= back) == 0) slots_.erase(slot);
}

void WindowMeter::replay(const Limit& limit, std::span<const Past::Use> uses) {
  const SlotShape shape = slot_shape(limit.period.count());
  const std::int64_t now = now_ms_ / shape.slot_ms;
  for (const auto& [ago, amount] : uses) {
    // The later of the two that it may have been in.
    const std::int64_t slot = now - std::max<std::int64_t>(0, ago.count()) / shape.slot_ms;
    if (amount <= 0 || slot < now - shape.slots) continue;
    slots_[slot] = clamp_amount(slots_[slot] + amount);
    total_ = clamp_amount(total_ + amount);
  }
}

Standing WindowMeter::standing(const Limit& limit) const {
  const SlotShape shape = slot_shape(limit.period.count());
  return {limit.capacity, left_of(limit.capacity, total_),
          std::chrono::milliseconds(
              slots_.empty()
                  ? 0
                  : std::max<std::int64_t>(1, (slots_.rbegin()->first + shape.slots + 1) * shape.slot_ms - now_ms_))};
}

// Seats.

void SeatMeter::advance(const Limit&, Instant now) {
  now_ms_ = std::max(now_ms_, now.steady_ms);
  while (!leases_.empty() && leases_.begin()->first <= now_ms_) {
    holders_.erase(leases_.begin()->second);
    leases_.erase(leases_.begin());
  }
}

// When a seat comes free nobody knows: at the latest when the first lease ends, and it is worth asking sooner.
Fit SeatMeter::fit(const Limit& limit, std::int64_t) const {
  if (limit.capacity == 0) return {.never = true};
  if (static_cast<std::int64_t>(leases_.size()) < limit.capacity) return {.fits = true};
  return {.wait_ms = std::clamp<std::int64_t>(leases_.begin()->first - now_ms_, 1, 1000)};
}

std::int64_t SeatMeter::take(const Limit& limit, std::int64_t, const std::string& id) {
  const auto held = holders_.find(id);
  if (held != holders_.end()) leases_.erase({held->second, id});
  const std::int64_t end = now_ms_ + limit.period.count();
  holders_[id] = end;
  leases_.emplace(end, id);
  return end;
}

void SeatMeter::give(const Limit&, std::int64_t, std::int64_t, std::int64_t, const std::string& id) {
  const auto held = holders_.find(id);
  if (held == holders_.end()) return;
  leases_.erase({held->second, id});
  holders_.erase(held);
}

Standing SeatMeter::standing(const Limit& limit) const {
  return {limit.capacity, left_of(limit.capacity, static_cast<std::int64_t>(leases_.size())),
          std::chrono::milliseconds(leases_.empty() ? 0 : leases_.rbegin()->first - now_ms_)};
}

// Budgets.

void BudgetMeter::advance(const Limit& limit, Instant now) {
  const CalendarWindow open = calendar_window(limit.calendar, now.utc_ms);
  window_ = open.number;
  left_ms_ = open.left_ms;
}

std::int64_t BudgetMeter::used() const {
  const auto open = windows_.find(window_);
  return open == windows_.end() ? 0 : open->second;
}

Fit BudgetMeter::fit(const Limit& limit, std::int64_t amount) const {
  if (amount == 0) return {.fits = true};
  if (amount > limit.capacity) return {.never = true};
  if (used() + amount <= limit.capacity) return {.fits = true};
  return {.never = left_ms_ == 0, .wait_ms = left_ms_};
}

std::int64_t BudgetMeter::take(const Limit&, std::int64_t amount, const std::string&) {
  raise(clamp_amount(used() + amount));
  return window_;
}

void BudgetMeter::raise(std::int64_t to) {
  std::int64_t& open = windows_[window_];
  open = std::max(open, to);
  while (windows_.size() > kMostWindows) {
    const auto oldest = windows_.begin()->first == window_ ? std::next(windows_.begin()) : windows_.begin();
    windows_.erase(oldest);
  }
}

void BudgetMeter::give(const Limit&, std::int64_t mark, std::int64_t taken, std::int64_t amount, const std::string&) {
  const auto window = windows_.find(mark);
  if (window != windows_.end()) window->second = clamp_amount(window->second + amount - taken);
}

Standing BudgetMeter::standing(const Limit& limit) const {
  return {limit.capacity, left_of(limit.capacity, used()), std::chrono::milliseconds(used() == 0 ? 0 : left_ms_)};
}

}  // namespace ashlar::store
