#include "engine/pace.h"

#include <algorithm>

namespace ashlar::engine {
namespace {

// The weight of a new measurement; the first one counts whole.
void blend(double& average, double value, double weight) {
  average = average == 0 ? value : average + weight * (value - average);
}

}  // namespace

std::int64_t Pace::second(Clock::time_point now) {
  return std::chrono::floor<std::chrono::seconds>(now.time_since_epoch()).count();
}

void Pace::step(Clock::time_point now, double seconds, int prompt_rows, int decodes) {
  if (prompt_rows == 0 && decodes > 0) blend(decode_, seconds, 0.1);
  // In a mixed step the decodes cost about what they cost alone.
  if (prompt_rows > 0)
    blend(prompt_token_, std::max(seconds * 0.1, seconds - (decodes > 0 ? decode_ : 0)) / prompt_rows, 0.2);
  Second& slot = seconds_[static_cast<std::size_t>(second(now) % static_cast<std::int64_t>(seconds_.size()))];
  if (slot.number != second(now)) slot = {.number = second(now)};
  slot.prompt += prompt_rows;
  slot.answer += decodes;
}

// Large prompts count more: the share is of tokens.
void Pace::began(int tokens, int cached) {
  cached_ += tokens / (tokens + 2000.0) * (static_cast<double>(cached) / tokens - cached_);
}

void Pace::ended(int tokens) { blend(answer_, std::max(1, tokens), 0.1); }

Pace::Throughput Pace::throughput(Clock::time_point now) const {
  Throughput out;
  const std::int64_t current = second(now);
  for (const Second& slot : seconds_) {
    if (slot.number >= current || slot.number < current - kSeconds) continue;
    out.prompt += static_cast<double>(slot.prompt) / kSeconds;
    out.answer += static_cast<double>(slot.answer) / kSeconds;
  }
  return out;
}

}  // namespace ashlar::engine
