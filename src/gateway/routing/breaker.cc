#include "gateway/routing/breaker.h"

#include <fmt/format.h>

#include <utility>

namespace ashlar::gateway {
namespace {

using Seconds = std::chrono::duration<double>;

double seconds(std::chrono::nanoseconds time) { return std::chrono::duration_cast<Seconds>(time).count(); }

}  // namespace

std::string_view name(Breaker::State state) {
  switch (state) {
    case Breaker::State::closed:
      return "closed";
    case Breaker::State::open:
      return "open";
    case Breaker::State::half_open:
      return "half_open";
  }
  return "";
}

void Breaker::Window::add(bool bad, std::chrono::nanoseconds length, TimePoint now) {
  const std::int64_t number = now.time_since_epoch() / (length / 10);
  Slice& slice = slices[static_cast<std::size_t>(number % 10)];
  if (slice.number != number) slice = {.number = number};
  ++slice.calls;
  if (bad) ++slice.bad;
}

Breaker::Window::Slice Breaker::Window::sum(std::chrono::nanoseconds length, TimePoint now) const {
  const std::int64_t number = now.time_since_epoch() / (length / 10);
  Slice total{.number = number};
  for (const Slice& slice : slices) {
    if (slice.number < 0 || slice.number <= number - 10) continue;
    total.calls += slice.calls;
    total.bad += slice.bad;
  }
  return total;
}

Breaker::State Breaker::state() const {
  if (mode_ == Mode::forced_open) return State::open;
  if (mode_ == Mode::forced_closed) return State::closed;
  return state_;
}

bool Breaker::admits(TimePoint now) {
  if (mode_ == Mode::forced_open) return false;
  if (state_ == State::open && now >= until_ && !overloaded_) enter(State::half_open, "tried again");
  if (mode_ != Mode::automatic || state_ == State::closed) return true;
  return state_ == State::half_open && probing_ < options_.probes;
}

Breaker::Call Breaker::begin() {
  const bool probe = state_ == State::half_open && probing_ < options_.probes;
  if (probe) ++probing_;
  return {.era = era_, .probe = probe};
}

void Breaker::drop(const Call& call) {
  if (call.probe && call.era == era_) --probing_;
}

void Breaker::done(const Call& call, bool good, std::optional<std::chrono::nanoseconds> first_token, TimePoint now) {
  const bool late = options_.slow.count() > 0 && first_token && *first_token > options_.slow;
  failed_.add(!good, options_.window, now);
  if (first_token) slow_.add(late, options_.window, now);
  if (call.era != era_) return;
  if (state_ == State::half_open && call.probe) {
    --probing_;
    if (!good || late) return open(good ? "a probe was slow" : "a probe failed", now);
    if (++proven_ >= options_.probes_to_close) {
      // What was counted before belongs to the trouble that is over.
      failed_ = slow_ = {};
      slow_since_.reset();
      enter(State::closed, fmt::format("{} probes were answered", proven_));
    }
    return;
  }
  if (state_ != State::closed) return;
  const Window::Slice calls = failed_.sum(options_.window, now);
  if (calls.calls >= options_.minimum_calls && calls.bad > options_.error_rate * calls.calls)
    return open(fmt::format("{} of {} calls failed in {:g} s", calls.bad, calls.calls, seconds(options_.window)), now);
  judge_speed(now);
}

void Breaker::judge_speed(TimePoint now) {
  if (options_.slow.count() <= 0) return;
  const Window::Slice calls = slow_.sum(options_.window, now);
  if (calls.calls == 0) return;  // nothing new is known
  // The P99 is above the threshold when more than one call in a hundred is.
  if (calls.bad * 100 <= calls.calls) return slow_since_.reset();
  if (!slow_since_) slow_since_ = now;
  if (now - *slow_since_ >= options_.slow_for)
    open(fmt::format("the P99 of the first token is above {:g} s for {:g} s", seconds(options_.slow),
                     seconds(options_.slow_for)),
         now);
}

void Breaker::signal(const Signals& signals, TimePoint now) {
  if (options_.memory <= 0 || signals.memory <= options_.memory)
    full_since_.reset();
  else if (!full_since_)
    full_since_ = now;
  const bool full = full_since_ && now - *full_since_ >= options_.memory_for;
  const bool queued = options_.queue > 0 && signals.queue > options_.queue;
  overloaded_ = full || queued;
  if (overloaded_ && state_ != State::open)
    open(full ? fmt::format("memory is {:.0f} % full", signals.memory * 100)
              : fmt::format("{} requests wait", signals.queue),
         now);
}

void Breaker::force(Mode mode, TimePoint now) {
  if (mode == mode_) return;
  const State before = state();
  mode_ = mode;
  if (mode == Mode::automatic && state_ == State::open) until_ = now;
  if (state() != before) change_ = Change{.state = state(), .why = "forced"};
}

void Breaker::open(std::string why, TimePoint now) {
  until_ = now + options_.open_for;
  slow_since_.reset();
  enter(State::open, std::move(why));
}

void Breaker::enter(State state, std::string why) {
  state_ = state;
  ++era_;
  probing_ = proven_ = 0;
  change_ = Change{.state = state, .why = std::move(why)};
}

std::optional<Breaker::Change> Breaker::changed() { return std::exchange(change_, std::nullopt); }

}  // namespace ashlar::gateway
