// The arithmetic of one limit: what is counted, and how it passes with time. Numbers only: no lock, no names, no clock.
// The Redis scripts say the same in Lua (redis/scripts.cc), and one slow model in the tests holds both to it.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "store/counters.h"

namespace ashlar::store {

struct Fit {
  bool fits = false;
  bool never = false;
  std::int64_t wait_ms = 0;
};

// All meters: advance() first, which brings the count up to the present; the rest then speaks of that moment.
// take() returns a mark, which give() wants back together with what was taken and what is true.

// Token bucket and leaky bucket: what is used of it. More than the capacity is a debt.
class BucketMeter {
 public:
  void advance(const Limit& limit, Instant now);
  Fit fit(const Limit& limit, std::int64_t amount) const;
  std::int64_t take(const Limit& limit, std::int64_t amount, const std::string& id);
  void give(const Limit& limit, std::int64_t mark, std::int64_t taken, std::int64_t amount, const std::string& id);
  Standing standing(const Limit& limit) const;
  bool idle() const { return used_ == 0; }
  void replay(const Limit& limit, std::span<const Past::Use> uses);  // the oldest first

 private:
  std::int64_t last_ms_ = 0;
  std::int64_t used_ =
      0;  // in parts, `period` of them to a unit, of which `capacity` pass each millisecond: no rounding
};

class WindowMeter {
 public:
  void advance(const Limit& limit, Instant now);
  Fit fit(const Limit& limit, std::int64_t amount) const;
  std::int64_t take(const Limit& limit, std::int64_t amount, const std::string& id);
  void give(const Limit& limit, std::int64_t mark, std::int64_t taken, std::int64_t amount, const std::string& id);
  Standing standing(const Limit& limit) const;
  bool idle() const { return total_ == 0; }
  void replay(const Limit& limit, std::span<const Past::Use> uses);  // the oldest first

 private:
  std::int64_t now_ms_ = 0;
  std::int64_t total_ = 0;
  std::map<std::int64_t, std::int64_t> slots_;  // what each counts, none 0
};

class SeatMeter {
 public:
  void advance(const Limit& limit, Instant now);
  Fit fit(const Limit& limit, std::int64_t amount) const;
  std::int64_t take(const Limit& limit, std::int64_t amount, const std::string& id);
  void give(const Limit& limit, std::int64_t mark, std::int64_t taken, std::int64_t amount, const std::string& id);
  Standing standing(const Limit& limit) const;
  bool idle() const { return leases_.empty(); }

 private:
  std::int64_t now_ms_ = 0;
  std::set<std::pair<std::int64_t, std::string>> leases_;  // by their ends
  std::map<std::string, std::int64_t> holders_;
};

// Windows are counted apart by their number, so that a clock that jumps ahead and comes back finds the old count again.
class BudgetMeter {
 public:
  void advance(const Limit& limit, Instant now);
  Fit fit(const Limit& limit, std::int64_t amount) const;
  std::int64_t take(const Limit& limit, std::int64_t amount, const std::string& id);
  void give(const Limit& limit, std::int64_t mark, std::int64_t taken, std::int64_t amount, const std::string& id);
  Standing standing(const Limit& limit) const;
  bool idle() const { return windows_.empty(); }
  void raise(std::int64_t used);

 private:
  static constexpr std::size_t kMostWindows = 8;

  std::int64_t used() const;

  std::int64_t window_ = 0, left_ms_ = 0;         // the open one, and how long it stays open
  std::map<std::int64_t, std::int64_t> windows_;  // what each counts
};

using Meter = std::variant<BucketMeter, WindowMeter, SeatMeter, BudgetMeter>;
Meter make_meter(LimitKind kind);

// A calendar's window at a time: its number, and how long it stays open (0: for ever).
struct CalendarWindow {
  std::int64_t number = 0;
  std::int64_t left_ms = 0;
};
CalendarWindow calendar_window(Calendar calendar, std::int64_t utc_ms);

// How long a slot of a sliding window is, and for how many slots after its own an amount counts.
struct SlotShape {
  std::int64_t slot_ms = 1, slots = 1;
};
SlotShape slot_shape(std::int64_t period_ms);

}  // namespace ashlar::store
