#include "gateway/routing/concurrency.h"

#include <algorithm>
#include <cmath>

namespace ashlar::gateway {
namespace {

constexpr double kStarting = 0.5, kStep = 0.1;  // how much more, or fewer, are tried
constexpr double kPressed = 0.75;               // of a measurement's turns: else others than the limit bound it
// Requests that wait at the deployment are told at once by their first tokens. One of a few may be slow by chance.
constexpr double kSlower = 1.5;
constexpr int kFirstTokens = 5;
constexpr double kReserveMemory = 2;  // seconds
constexpr double kMissed = 0.01;      // of urgent requests may find no place

double seconds(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

double mean_first(const ConcurrencyLimit::Done& from, const ConcurrencyLimit::Done& to) {
  const auto count = to.first_count - from.first_count;
  return count > 0 ? (to.first_seconds - from.first_seconds) / static_cast<double>(count) : 0;
}

}  // namespace

void ConcurrencyLimit::measure(Step step, int limit, TimePoint now) {
  step_ = step;
  limit_ = std::clamp(limit, options_.least, options_.most);
  began_ = now;
  counting_ = false;
  turns_ = pressed_turns_ = 0;
  running_ = 0;
}

void ConcurrencyLimit::settle_at(int limit, TimePoint now, Step next, bool found_out) {
  step_ = Step::rest;
  limit_ = std::clamp(limit, options_.least, options_.most);
  next_ = next;
  starting_ = false;
  rest_ = std::clamp(2 * rest_, options_.rest, options_.longest_rest);
  settled_ = now;
  found_out_ = found_out;
}

void ConcurrencyLimit::turn(TimePoint now, const Done& done, int running, bool pressed, double slow, bool urgent) {
  if (step_ == Step::rest) {
    // Longer than the first rest: looks both ways have found nothing since it last moved.
    const auto rest = urgent && found_out_ && rest_ > options_.rest ? options_.longest_rest : rest_;
    if (now - settled_ >= rest && pressed) measure(Step::base, limit_, now);
    return;
  }
  if (began_ == TimePoint{}) began_ = now;
  if (!counting_) {
    if (now - began_ < options_.settle) return;
    counting_ = true;
    began_ = now;
    from_ = done;
    return;
  }
  ++turns_;
  pressed_turns_ += pressed ? 1 : 0;
  running_ += running;
  const bool firsts = done.first_count - from_.first_count >= kFirstTokens;
  if (step_ == Step::up && !starting_ && firsts && mean_first(from_, done) > kSlower * base_.first && base_.first > 0)
    return settle_at(base_limit_, now, Step::down);
  if (now - began_ < options_.window) return;
  if (pressed_turns_ < kPressed * turns_ || done.tokens == from_.tokens) {
    // Nobody is held back by it: there is nothing to learn, and what was tried is taken back.
    const bool tried = step_ == Step::up || step_ == Step::down;
    return measure(Step::base, tried ? base_limit_ : limit_, now);
  }
  const Found found{.rate = static_cast<double>(done.tokens - from_.tokens) / seconds(now - began_),
                    .first = mean_first(from_, done)};
  const double each = running_ / turns_ / found.rate;
  if (slow > 0 && each > slow && limit_ > options_.least) {
    starting_ = false;
    const int fewer = static_cast<int>(limit_ * std::clamp(slow / each, 0.5, 0.95));
    return measure(Step::base, fewer, now);
  }
  judge(found, now);
}

void ConcurrencyLimit::judge(const Found& found, TimePoint now) {
  const double change = static_cast<double>(limit_) / std::max(1, base_limit_) - 1;
  switch (step_) {
    case Step::base:
      base_limit_ = limit_;
      break;
    case Step::up:
      if (found.rate / base_.rate - 1 < options_.worth * change) return settle_at(base_limit_, now, Step::down);
      base_limit_ = limit_;
      rest_ = {};
      break;
    case Step::down:
      if (1 - found.rate / base_.rate > options_.worth * -change) return settle_at(base_limit_, now, Step::up);
      base_limit_ = limit_;
      rest_ = {};
      break;
    case Step::rest:
      return;
  }
  base_ = found;
  const Step way = step_ == Step::base ? next_ : step_;
  const double step = starting_ ? kStarting : kStep;
  const int by = std::max(1, static_cast<int>(limit_ * step));
  const int wanted = std::clamp(way == Step::up ? limit_ + by : limit_ - by, options_.least, options_.most);
  if (wanted == limit_) return settle_at(limit_, now, way == Step::up ? Step::down : Step::up);
  measure(way, wanted, now);
}

void ConcurrencyLimit::overload(TimePoint now) {
  if (now - backed_off_ < options_.settle) return;  // of many at once, one counts
  backed_off_ = now;
  settle_at(std::max(options_.least, static_cast<int>(limit_ * 0.9)), now, Step::up, /*found_out=*/false);
}

void Reserve::turn(TimePoint now) {
  if (turned_ == TimePoint{}) turned_ = now;
  const double passed = seconds(now - turned_);
  if (passed <= 0) return;
  const double kept = std::exp(-passed / kReserveMemory);
  if (came_ > 0) {
    any_ = true;
    seen_ = now;
  }
  if (any_ && now - seen_ > std::chrono::minutes(1)) any_ = false;
  coming_ = coming_ * kept + (1 - kept) * came_ / passed;
  ending_ = ending_ * kept + (1 - kept) * ended_ / passed;
  came_ = ended_ = 0;
  turned_ = now;
}

int Reserve::places(int places, double floor) const {
  if (!any_ && came_ == 0) return 0;
  const double busy = ending_ > 0 ? std::min(coming_ / ending_, 0.95) : 0;
  const double wanted = busy > 0 ? std::log(kMissed) / std::log(busy) : 1;
  const int least = static_cast<int>(floor * places + 1e-9);
  return std::clamp(static_cast<int>(std::ceil(wanted)), std::min(least, places / 2), places / 2);
}

}  // namespace ashlar::gateway
