#include <algorithm>
#include <utility>

#include "store/memory_counters.h"

namespace ashlar::store {
namespace {

class WithFallback final : public Counters {
 public:
  WithFallback(std::unique_ptr<Counters> shared, CounterClock clock)
      : shared_(std::move(shared)), local_(std::move(clock)) {}

  Result<Verdict> reserve(const std::string& id, std::span<const Charge> charges) override {
    auto verdict = shared_->reserve(id, charges);
    if (verdict || verdict.error().code != Code::unavailable || has_money(charges)) return verdict;
    return local_.reserve(id, charges);
  }
  void settle(const std::string& id, std::span<const std::int64_t> amounts) override { home(id).settle(id, amounts); }
  void amend(const std::string& id, std::span<const std::int64_t> amounts) override { home(id).amend(id, amounts); }
  void release(const std::string& id) override { home(id).release(id); }
  void renew(const std::string& id) override { home(id).renew(id); }
  Status sync(std::chrono::milliseconds most) override { return shared_->sync(most); }
  Result<std::vector<Standing>> look(std::span<const Limit> limits) override {
    auto standings = shared_->look(limits);
    if (standings || standings.error().code != Code::unavailable ||
        std::ranges::any_of(limits, [](const Limit& limit) { return limit.kind == LimitKind::budget; }))
      return standings;
    return local_.look(limits);
  }
  Status restore(std::span<const Spent> spent) override { return shared_->restore(spent); }
  Result<std::vector<std::string>> unsettled(std::chrono::milliseconds age) override { return shared_->unsettled(age); }
  void tend() override { shared_->tend(); }
  void bury(const std::string& owner) override { shared_->bury(owner); }
  Status health() const override { return shared_->health(); }

 private:
  static bool has_money(std::span<const Charge> charges) {
    return std::ranges::any_of(charges, [](const Charge& charge) { return charge.limit.kind == LimitKind::budget; });
  }
  // Who counted it.
  Counters& home(const std::string& id) {
    if (local_.holds(id)) return local_;
    return *shared_;
  }

  const std::unique_ptr<Counters> shared_;
  MemoryCounters local_;
};

}  // namespace

std::unique_ptr<Counters> with_fallback(std::unique_ptr<Counters> shared, CounterClock clock) {
  return std::make_unique<WithFallback>(std::move(shared), std::move(clock));
}

}  // namespace ashlar::store
