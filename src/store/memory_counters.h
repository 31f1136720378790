// Counters of this process.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/brief_mutex.h"
#include "store/counters.h"
#include "store/meters.h"

namespace ashlar::store {

// Meters and reservations lie in shards with a lock each. Whoever needs several takes the reservation's first, then
// those of the limits in rising order, so that all of a reservation is seen at once and nobody waits in a circle.
class MemoryCounters final : public Counters {
 public:
  explicit MemoryCounters(CounterClock clock) : clock_(std::move(clock)) {}

  Result<Verdict> reserve(const std::string& id, std::span<const Charge> charges) override;
  void settle(const std::string& id, std::span<const std::int64_t> amounts) override { end(id, amounts); }
  void release(const std::string& id) override { end(id, {}); }
  void renew(const std::string& id) override;
  Status sync(std::chrono::milliseconds) override { return {}; }
  Result<std::vector<Standing>> look(std::span<const Limit> limits) override;
  Status restore(std::span<const Spent> spent) override;
  Status replay(std::span<const Past> past) override;
  Result<std::vector<std::string>> unsettled(std::chrono::milliseconds age) override;

  bool holds(const std::string& id);
  // How many limits are counted; those that are as if untouched are dropped now and then.
  std::size_t size();

 private:
  static constexpr std::size_t kShards = 64;

  struct Name {
    LimitKind kind;
    std::string key;
  };
  struct NameView {
    LimitKind kind;
    std::string_view key;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(const auto& name) const {
      return std::hash<std::string_view>()(name.key) * 31 + static_cast<std::size_t>(name.kind);
    }
  };
  struct Same {
    using is_transparent = void;
    bool operator()(const auto& a, const auto& b) const { return a.kind == b.kind && a.key == b.key; }
  };
  struct Counted {
    Meter meter;
    Limit shape;  // without the key
  };
  struct alignas(64) Shard {
    BriefMutex mutex;
    std::unordered_map<Name, Counted, Hash, Same> meters;  // GUARDED_BY(mutex)
    std::size_t sweep_at = 1024;                           // GUARDED_BY(mutex)
  };
  struct Held {
    std::vector<Charge> charges;
    std::vector<std::int64_t> marks;
    std::int64_t since_ms = 0;
    bool money = false;
  };
  struct alignas(64) HeldShard {
    BriefMutex mutex;
    std::unordered_map<std::string, Held> held;  // GUARDED_BY(mutex)
  };

  // The locks of all shards of some limits, and their meters, advanced to `now`.
  class Grip;

  std::size_t shard_of(const Limit& limit) const { return Hash()(NameView{limit.kind, limit.key}) % kShards; }
  HeldShard& held_shard(const std::string& id) { return held_[std::hash<std::string>()(id) % kShards]; }
  void sweep(Shard& shard, Instant now);
  void end(const std::string& id, std::span<const std::int64_t> amounts);

  const CounterClock clock_;
  std::array<Shard, kShards> shards_;
  std::array<HeldShard, kShards> held_;
};

}  // namespace ashlar::store
