#include "engine/admission.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace ashlar::engine {
namespace {

using Seconds = std::chrono::duration<double>;

// Whole seconds, as Retry-After has them, between one second and an hour.
std::chrono::milliseconds retry_after(Seconds wait) {
  return std::chrono::seconds(static_cast<std::int64_t>(std::clamp(std::ceil(wait.count()), 1.0, 3600.0)));
}

}  // namespace

Seconds Admission::wait(int priority, const Pace& pace) const {
  std::int64_t tokens = 0, sequences = 0;
  for (const auto& [queued_priority, queued] : classes_) {
    if (queued_priority > priority) break;
    tokens += queued.tokens;
    sequences += queued.sequences;
  }
  // Of what waits the prefix cache will likely have as much as it had lately.
  const double to_compute =
      static_cast<double>(occupancy_.prompt_backlog) + static_cast<double>(tokens) * (1 - pace.cached_share());
  double seconds = to_compute * pace.seconds_per_prompt_token();
  // Places: bounded by max_num_seqs, and by how many answers of usual length the cache holds.
  double places = limits_.max_sequences;
  const double answer = pace.tokens_per_answer();
  if (answer > 0 && total_.sequences > 0 && limits_.cache_tokens > 0) {
    const double prompt = static_cast<double>(total_.tokens) / static_cast<double>(total_.sequences);
    places = std::clamp(static_cast<double>(limits_.cache_tokens) / (prompt + answer), 1.0, places);
  }
  const double over = occupancy_.running + static_cast<double>(sequences) + 1 - places;
  if (over > 0) seconds += over / places * answer * pace.seconds_per_decode();
  return Seconds(seconds);
}

// Who waits in the same queue: urgent requests (of priorities below 0) have one of their own, as long again.
Admission::Queued Admission::beside(int priority) const {
  Queued urgent;
  for (const auto& [queued_priority, queued] : classes_) {
    if (queued_priority >= 0) break;
    urgent.requests += queued.requests;
    urgent.tokens += queued.tokens;
  }
  if (priority < 0) return urgent;
  return {.requests = total_.requests - urgent.requests, .tokens = total_.tokens - urgent.tokens};
}

std::optional<Generator::Refusal> Admission::refuse(const Entry& entry, Clock::time_point deadline,
                                                    Clock::time_point now, const Pace& pace) const {
  const Seconds expected = wait(entry.priority, pace);
  const Queued others = beside(entry.priority);
  const auto full = [&](std::string message) {
    // One place is free again when the next request begins.
    return Generator::Refusal{.error = {Code::exhausted, std::move(message)},
                              .retry_after = retry_after(expected / std::max(1, others.requests)),
                              .dropped = Dropped::saturated};
  };
  if (limits_.max_queued_requests > 0 && others.requests >= limits_.max_queued_requests)
    return full(fmt::format("the queue is full: {} requests wait, and max_num_queued_reqs is {}", others.requests,
                            limits_.max_queued_requests));
  if (limits_.max_queued_tokens > 0 && others.requests > 0 && others.tokens + entry.tokens > limits_.max_queued_tokens)
    return full(
        fmt::format("the queue is full: {} prompt tokens wait, this request has {}, and max_num_queued_tokens is {}",
                    others.tokens, entry.tokens, limits_.max_queued_tokens));
  Seconds allowed = Seconds::max();
  if (deadline != Clock::time_point::max()) allowed = deadline - now;
  if (limits_.max_wait.count() > 0) allowed = std::min<Seconds>(allowed, limits_.max_wait);
  if (expected > allowed)
    return Generator::Refusal{
        .error = {Code::unavailable,
                  fmt::format("overloaded: the request would wait {:.1f} s, and {:.1f} s are allowed", expected.count(),
                              std::max(0.0, allowed.count()))},
        .retry_after = retry_after(expected - std::max(allowed, Seconds(0))),
        .dropped = Dropped::saturated};
  return std::nullopt;
}

void Admission::enter(const Entry& entry) {
  for (Queued* queued : {&total_, &classes_[entry.priority]}) {
    ++queued->requests;
    queued->tokens += entry.tokens;
    queued->sequences += entry.sequences;
  }
}

void Admission::leave(const Entry& entry) {
  const auto found = classes_.find(entry.priority);
  for (Queued* queued : {&total_, &found->second}) {
    --queued->requests;
    queued->tokens -= entry.tokens;
    queued->sequences -= entry.sequences;
  }
  if (found->second.requests == 0) classes_.erase(found);
}

}  // namespace ashlar::engine
