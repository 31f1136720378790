// Shared counts that decide who may go on: rates, seats and money. Two twins under one suite of tests: in this process,
// and on Redis for many replicas. Amounts are tokens, requests, seats or nano-dollars: whole numbers up to kMostAmount,
// never rounded.
//
// The life of a reservation:
//
//   reserve(id, charges)   all of them or none, in one atomic step
//   renew(id)              while its work runs, if it holds a seat
//   settle(id, amounts)    to what was truly used, or release(id): as if it had never been
//
// A holder that dies leaves its seats to their leases and its share of a rate to the passing of time. Its money goes
// back when it has been silent for long (tend()), and is counted again should somebody settle the id later.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ashlar::store {

// What both twins count without error; also what a double in a Redis script holds. As nano-dollars: $9 million.
inline constexpr std::int64_t kMostAmount = (std::int64_t{1} << 53) - 1;
inline constexpr std::size_t kMostCharges = 32;    // of one reservation
inline constexpr std::size_t kLongestKey = 200;    // bytes, of a limit or a reservation
inline constexpr std::int64_t kWindowSlots = 240;  // of a sliding window

enum class LimitKind : std::uint8_t {
  // Holds `capacity`, full at first, and fills evenly: from empty in `period`. An amount larger than the bucket is let
  // in when the bucket is full, and leaves a debt that must be paid back before anybody else goes in: such a request
  // waits long, not for ever, and the mean rate holds.
  token_bucket,
  // The same seen from the other side: what is let in leaks out evenly, a full bucket in `period`. An amount larger
  // than the bucket is let in when it is empty.
  leaky_bucket,
  // At most `capacity` in any stretch of time as long as `period`. An amount counts for `period` and up to a 240th of
  // it more, never less. An amount larger than `capacity` never fits.
  sliding_window,
  // `capacity` seats, one for each reservation, given back when it ends, or `period` after it was last renewed.
  semaphore,
  // Money for each calendar hour, day or month of UTC, or once. What was reserved in a window counts in that window,
  // whenever it is settled. An amount larger than `capacity` never fits.
  budget,
};

enum class Calendar : std::uint8_t { total, hour, day, month };

struct Limit {
  // Who and what is counted, "user:ann:tpm": printable ASCII without blanks. Limits of one key and kind are one count;
  // their capacity may change from one call to the next, their period and calendar must not.
  std::string key;
  LimitKind kind = LimitKind::sliding_window;
  std::int64_t capacity = 0;            // 0: nothing goes in, save what costs no money into a budget
  std::chrono::milliseconds period{0};  // 1 ms to 400 days; no meaning for a budget. Of a bucket, times the capacity:
                                        // at most kMostAmount
  Calendar calendar = Calendar::total;  // of a budget
  bool operator==(const Limit&) const = default;
};

struct Charge {
  Limit limit;
  std::int64_t amount = 0;  // 1 for a semaphore
};

struct Standing {
  std::int64_t limit = 0;
  std::int64_t remaining = 0;          // never below 0
  std::chrono::milliseconds reset{0};  // until all of the limit is there again if nobody comes; 0: it is there, or a
                                       // total budget, which never comes again
  bool operator==(const Standing&) const = default;
};

struct Verdict {
  bool admitted = false;
  std::vector<Standing> standings;  // one for each charge: after it, or as they are where it was refused
  // Of a refusal: the limit that asks for the longest wait, and that wait. never: no wait helps, the amount is larger
  // than the limit, or a total budget is spent.
  int refused_by = -1;
  bool never = false;
  std::chrono::milliseconds retry_after{0};
};

// A budget's count as a ledger knows it, for the window that is open now.
struct Spent {
  Limit limit;
  std::int64_t used = 0;
};

// What a ledger knows of a rate: who used how much of it how long ago, the oldest first.
struct Past {
  struct Use {
    std::chrono::milliseconds ago{0};
    std::int64_t amount = 0;
  };
  Limit limit;  // a bucket or a sliding window
  std::vector<Use> uses;
};

// Where time comes from: rates and leases run on a clock that never goes back, calendars on UTC.
struct Instant {
  std::int64_t steady_ms = 0;
  std::int64_t utc_ms = 0;  // since 1970
};
using CounterClock = std::function<Instant()>;
Instant machine_instant();

// Any thread.
class Counters {
 public:
  virtual ~Counters() = default;

  // Counts all charges or none. An id that is held is not counted again: its standings are given. Two charges must not
  // be of one key and kind. invalid: numbers or names beyond what is said above. unavailable: the counts cannot be
  // reached or are lost; nothing stays counted then, whatever became of the call.
  virtual Result<Verdict> reserve(const std::string& id, std::span<const Charge> charges) = 0;

  // Moves the counts to the true amounts, one for each charge in the order of reserve(); above what was reserved too:
  // the truth is counted even over a limit. Seats are given back. An id that is not held (settled before, say) changes
  // nothing. These return at once; a twin that is far away delivers when it can, and in any case only once.
  virtual void settle(const std::string& id, std::span<const std::int64_t> amounts) = 0;
  virtual void release(const std::string& id) = 0;
  // settle() for a holder that died: where he had settled it himself, and that is not long ago (two minutes on Redis),
  // its money moves from what he said to `amounts`, for his client did not get all of it. Else as settle().
  virtual void amend(const std::string& id, std::span<const std::int64_t> amounts) { settle(id, amounts); }
  // The seats of `id` are held for another period, also where their lease had run out and their holder turns out to
  // live: the count says so, even over capacity.
  virtual void renew(const std::string& id) = 0;
  // Waits until all that was settled, released or renewed before is counted. unavailable: not within `most`.
  virtual Status sync(std::chrono::milliseconds most) = 0;

  virtual Result<std::vector<Standing>> look(std::span<const Limit> limits) = 0;

  // Raises budgets to at least what a ledger says was spent; never lowers one. To be called at start, for counts do
  // not outlive this process or a flushed Redis.
  virtual Status restore(std::span<const Spent> spent) = 0;
  // Counts what was used before this process began, on top of what it has counted; to be called at start. Nothing where
  // rates outlive the process. invalid: it is no rate.
  virtual Status replay(std::span<const Past> past) {
    (void)past;
    return {};
  }
  // Reservations with money in them that are older than `age`: whose holder died, where `age` is longer than any
  // request runs. At most 1,000, the oldest first.
  virtual Result<std::vector<std::string>> unsettled(std::chrono::milliseconds age) = 0;

  // Says that this process lives, and gives back the money that processes hold who have not said so for some minutes,
  // for they are dead. To be called every few seconds; returns at once.
  virtual void tend() {}
  // The process whose ids begin so is dead, and all that is known of its reservations was said: what it still holds is
  // released at once. Returns at once; delivered as settle() is.
  virtual void bury(const std::string& owner) { (void)owner; }

  // For a health page; does not ask. unavailable: what is wrong.
  virtual Status health() const { return {}; }
};

// Counts in this process. A call takes about a microsecond.
std::unique_ptr<Counters> memory_counters(CounterClock clock = machine_instant);

struct RedisOptions;
struct RedisCountersOptions {
  // What keys begin with. In braces, so that a cluster keeps all of them on one node, where one script may use them.
  std::string prefix = "{ashlar}:";
  // Asked when the counts of money are found lost, before any is spent again: what is spent of each budget in the
  // window that is open now. On the thread of a reserve(). Nothing: budgets begin anew.
  std::function<Result<std::vector<Spent>>()> ledger;
  CounterClock clock;  // nothing: the server's, which all replicas share
  // A process that said nothing for so long, and is still silent after as long again, is dead.
  std::chrono::milliseconds lease{60'000};
  std::string owner;  // what this process's reservations begin with; nothing: as new_reservation_id() makes them
};

// Counts on a Redis server of 6.0 or later, shared by all who use its prefix; it must not evict (maxmemory-policy
// noeviction). reserve() and look() wait for the server, at most as long as the connection's timeout. What Redis
// counted and then forgot (it was flushed, or started anew) is restored from the ledger; a reservation of before is
// then counted when it is settled.
Result<std::unique_ptr<Counters>> redis_counters(const RedisOptions& server, RedisCountersOptions options = {});

// Rates and seats are served by counts of this process while `shared` cannot be reached: each replica then lets in up
// to its limits alone, for as long as that lasts. Charges with money among them get the error: no money is spent
// unseen.
std::unique_ptr<Counters> with_fallback(std::unique_ptr<Counters> shared, CounterClock clock = machine_instant);

// A new id: 96 random bits of this process, and a number. Unique, not secret.
std::string new_reservation_id();
// What all of its ids begin with, 24 characters.
const std::string& reservation_owner();
// What reserve() calls invalid.
Status check_charges(const std::string& id, std::span<const Charge> charges);
Status check_limit(const Limit& limit);
// What check_limit() says of everything but the key, without naming it; "": nothing.
std::string fault_of(const Limit& limit);

}  // namespace ashlar::store
