// Answers that were given before, for the same tenant and the very same question.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/generator.h"
#include "gateway/routing/deployment.h"

namespace ashlar::gateway {

struct ResponseCacheOptions {
  std::size_t most_bytes = 0;              // 0: nothing is kept
  std::size_t most_entry_bytes = 1 << 20;  // a longer answer is not kept
  std::chrono::seconds ttl{3600};
  std::chrono::seconds stale_for{86'400};  // beyond the ttl, where every deployment is out
  bool single_flight = true;               // equal requests at the same time are computed once
};

// SHA-256 over all that decides the answer: tenant, group, data classes, prompt, sampling, stopping and what is asked
// to be shown. Not over the request's id, priority, times, or how it is guessed ahead.
std::string response_key(const engine::Request& request, const std::string& group, const RouteHints& hints);

// Whether one answer may stand for another: greedy, seeded, or wanted so.
bool repeatable(const engine::Request& request, const CacheControl& control);

// The request header `cache-control`: no-cache, no-store, max-age=N; other directives are ignored.
CacheControl read_cache_control(std::string_view header);

// About what an event takes in memory.
std::size_t bytes_of(const engine::Event& event);

// By size and by use: the answer used longest ago goes first. Not thread-safe.
class ResponseCache {
 public:
  using Answer = std::shared_ptr<const std::vector<engine::Event>>;
  struct Counts {
    std::uint64_t hits = 0, stale = 0, misses = 0, joined = 0, stored = 0, evicted = 0;
    std::size_t entries = 0, bytes = 0;
  };
  struct Found {
    Answer answer;
    bool stale = false;
    std::chrono::nanoseconds age{0};
  };

  explicit ResponseCache(ResponseCacheOptions options) : options_(options) {}

  bool on() const { return options_.most_bytes > 0; }
  const ResponseCacheOptions& options() const { return options_; }
  // Counts a hit, a stale one or a miss. `degraded`: one beyond its ttl will do.
  Found find(const std::string& key, const CacheControl& control, bool degraded, TimePoint now);
  void store(const std::string& key, Answer answer, TimePoint now);
  void count_joined() { ++counts_.joined; }
  const Counts& counts() const { return counts_; }

 private:
  struct Entry {
    std::string key;
    Answer answer;
    std::size_t bytes;
    TimePoint stored;
  };
  using Place = std::list<Entry>::iterator;
  void drop(Place place);

  ResponseCacheOptions options_;
  std::list<Entry> entries_;  // used longest ago first
  std::unordered_map<std::string, Place> index_;
  Counts counts_;
};

}  // namespace ashlar::gateway
