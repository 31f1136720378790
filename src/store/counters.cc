#include "store/counters.h"

#include <fmt/compile.h>
#include <fmt/format.h>
#include <openssl/rand.h>

#include <algorithm>
#include <atomic>

#include "store/digest.h"

namespace ashlar::store {
namespace {

bool is_name(std::string_view name) {
  bool printable = !name.empty() && name.size() <= kLongestKey;
  for (const char c : name) printable &= c > ' ' && c < 127;  // to the end in any case: many characters at a time
  return printable;
}

}  // namespace

Instant machine_instant() {
  using namespace std::chrono;
  return {duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count(),
          duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count()};
}

const std::string& reservation_owner() {
  static const std::string process = [] {
    unsigned char bytes[12];
    CHECK(RAND_bytes(bytes, sizeof bytes) == 1, "the system gives random bytes");
    return to_hex(std::string_view(reinterpret_cast<const char*>(bytes), sizeof bytes));
  }();
  return process;
}

std::string new_reservation_id() {
  static std::atomic<std::uint64_t> next = 0;
  return fmt::format(FMT_COMPILE("{}{:08x}"), reservation_owner(), next.fetch_add(1, std::memory_order_relaxed));
}

std::string fault_of(const Limit& limit) {
  if (limit.capacity < 0 || limit.capacity > kMostAmount)
    return fmt::format("the capacity {} is not between 0 and {}", limit.capacity, kMostAmount);
  if (limit.kind == LimitKind::budget) return {};
  const std::int64_t period = limit.period.count();
  if (period < 1 || limit.period > std::chrono::days(400))
    return fmt::format("the period of {} ms is not between 1 ms and 400 days", period);
  const bool bucket = limit.kind == LimitKind::token_bucket || limit.kind == LimitKind::leaky_bucket;
  if (bucket && limit.capacity > kMostAmount / period)
    return fmt::format("a bucket of {} in {} ms is too large", limit.capacity, period);
  return {};
}

Status check_limit(const Limit& limit) {
  if (!is_name(limit.key))
    return Error{Code::invalid, fmt::format("a limit's key must be 1 to {} printable ASCII characters", kLongestKey)};
  if (const std::string why = fault_of(limit); !why.empty())
    return Error{Code::invalid, fmt::format("{}: {}", limit.key, why)};
  return {};
}

Status check_charges(const std::string& id, std::span<const Charge> charges) {
  if (!is_name(id))
    return Error{Code::invalid,
                 fmt::format("a reservation's id must be 1 to {} printable ASCII characters", kLongestKey)};
  if (charges.size() > kMostCharges)
    return Error{Code::invalid, fmt::format("{} limits for one request: at most {}", charges.size(), kMostCharges)};
  for (std::size_t i = 0; i < charges.size(); ++i) {
    const Limit& limit = charges[i].limit;
    TRY(check_limit(limit));
    if (charges[i].amount < 0 || charges[i].amount > kMostAmount)
      return Error{Code::invalid,
                   fmt::format("{}: the amount {} is not between 0 and {}", limit.key, charges[i].amount, kMostAmount)};
    if (limit.kind == LimitKind::semaphore && charges[i].amount != 1)
      return Error{Code::invalid,
                   fmt::format("{}: a reservation takes one seat, not {}", limit.key, charges[i].amount)};
    for (std::size_t j = 0; j < i; ++j)
      if (charges[j].limit.key == limit.key && charges[j].limit.kind == limit.kind)
        return Error{Code::invalid, fmt::format("{}: the limit is charged twice", limit.key)};
  }
  return {};
}

}  // namespace ashlar::store
