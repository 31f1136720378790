#include "api/replays.h"

#include <functional>

namespace ashlar::api {
namespace {

constexpr std::size_t kMost = 1'000;
constexpr std::chrono::minutes kLongest{10};

Fault conflict(int status, std::string why) {
  Fault fault({Code::invalid, std::move(why)}, "", "idempotency_error");
  fault.status = status;
  return fault;
}

}  // namespace

Outcome<std::optional<std::string>> Replays::begin(const std::string& key, const std::string& body,
                                                   Clock::time_point now) {
  const std::size_t print = std::hash<std::string>()(body);
  const std::lock_guard lock(mutex_);
  while (!oldest_.empty() && (oldest_.size() >= kMost || now - oldest_.front().first > kLongest)) {
    // One that was forgotten and came again has another time.
    if (const auto old = entries_.find(oldest_.front().second);
        old != entries_.end() && old->second.began == oldest_.front().first)
      entries_.erase(old);
    oldest_.pop_front();
  }
  const auto [found, first] = entries_.try_emplace(key, Entry{print, std::nullopt, now});
  if (first) {
    oldest_.emplace_back(now, key);
    return std::nullopt;
  }
  if (found->second.body != print) return conflict(422, "this Idempotency-Key came before with another body");
  if (!found->second.answer) return conflict(409, "the first request with this Idempotency-Key has no answer yet");
  return found->second.answer;
}

void Replays::end(const std::string& key, std::string answer) {
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(key); found != entries_.end()) found->second.answer = std::move(answer);
}

void Replays::forget(const std::string& key) {
  const std::lock_guard lock(mutex_);
  entries_.erase(key);
}

}  // namespace ashlar::api
