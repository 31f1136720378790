#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "store/counters.h"
#include "store/redis/client.h"
#include "store/redis/script.h"

namespace ashlar::store {
namespace {

using resp::Value;
using Words = std::vector<std::string>;

constexpr std::size_t kMostUndelivered = 100'000;

std::string_view kind_word(LimitKind kind) {
  switch (kind) {
    case LimitKind::token_bucket:
    case LimitKind::leaky_bucket:
      return "bucket";
    case LimitKind::sliding_window:
      return "window";
    case LimitKind::semaphore:
      return "seats";
    case LimitKind::budget:
      break;
  }
  return "budget";
}

// Limits of one key and different kinds are different keys.
char kind_letter(LimitKind kind) { return "tlwsb"[static_cast<int>(kind)]; }

std::string_view calendar_word(Calendar calendar) {
  switch (calendar) {
    case Calendar::hour:
      return "hour";
    case Calendar::day:
      return "day";
    case Calendar::month:
      return "month";
    case Calendar::total:
      break;
  }
  return "total";
}

Error not_ours(std::string_view what) {
  return {Code::corrupt, fmt::format("Redis answered a script with {}: is it really Redis?", what)};
}

class RedisCounters final : public Counters {
 public:
  explicit RedisCounters(RedisCountersOptions options) : options_(std::move(options)) {}
  Status connect(const RedisOptions& server) {
    client_ = TRY(RedisClient::create(server, [this] { deliver_all(); }));
    return {};
  }

  Result<Verdict> reserve(const std::string& id, std::span<const Charge> charges) override;
  void settle(const std::string& id, std::span<const std::int64_t> amounts) override { end(id, amounts); }
  void amend(const std::string& id, std::span<const std::int64_t> amounts) override { end(id, amounts, "amend"); }
  void release(const std::string& id) override { end(id, {}); }
  void renew(const std::string& id) override { deliver({.word = "renew", .id = id, .once = true}); }
  Status sync(std::chrono::milliseconds most) override;
  Result<std::vector<Standing>> look(std::span<const Limit> limits) override;
  Status restore(std::span<const Spent> spent) override;
  Result<std::vector<std::string>> unsettled(std::chrono::milliseconds age) override;
  void tend() override { deliver({.word = "tend", .id = owner(), .once = true}); }
  void bury(const std::string& dead) override { deliver({.word = "bury", .id = dead}); }
  Status health() const override;

 private:
  // The money of a reservation, in case that Redis forgets it.
  struct Money {
    std::string epoch;
    std::vector<std::pair<std::size_t, Limit>> budgets;  // with their places among the charges
  };
  // Something that Redis must be told, now or when it can be reached again.
  struct Errand {
    std::string word, id;
    bool once = false;  // of no use later
    std::vector<std::int64_t> amounts;
    Money money;
    bool under_way = false;
  };

  const std::string& owner() const { return options_.owner.empty() ? reservation_owner() : options_.owner; }
  Words command(bool whole, std::string_view word, const std::string& id, std::span<const Limit* const> limits,
                const Words& rest) const;
  static void add_limit(Words& rest, const Limit& limit, std::int64_t amount);
  Result<Value> run(std::string_view word, const std::string& id, std::span<const Limit* const> limits,
                    const Words& rest);
  // corrupt: what Redis answers makes no sense.
  Result<Verdict> try_reserve(const std::string& id, std::span<const Charge> charges);
  // Once for all who found the counts lost when it was the `seen`th time.
  Status restore_from_ledger(int seen);
  void end(const std::string& id, std::span<const std::int64_t> amounts, std::string word = "end");
  void deliver(Errand errand);
  void deliver_all();
  void send(std::uint64_t number, bool whole);
  void delivered(std::uint64_t number, const Result<Value>& answer);
  void note(const Status& status);

  const RedisCountersOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<std::string, Money> money_;  // GUARDED_BY(mutex_); of reservations that are held
  std::map<std::uint64_t, Errand> errands_;       // GUARDED_BY(mutex_); in the order they came
  std::uint64_t next_ = 0;                        // GUARDED_BY(mutex_)
  std::size_t idle_ = 0;                          // GUARDED_BY(mutex_); errands that are not under way
  Status health_;                                 // GUARDED_BY(mutex_)
  std::mutex restoring_;
  std::atomic<int> restored_ = 0;        // how often; moved under restoring_
  std::unique_ptr<RedisClient> client_;  // last: its thread calls us until it is dead
};

Words RedisCounters::command(bool whole, std::string_view word, const std::string& id,
                             std::span<const Limit* const> limits, const Words& rest) const {
  const std::string& prefix = options_.prefix;
  Words words;
  words.reserve(11 + limits.size() + rest.size());
  if (whole) {
    words = {"EVAL", std::string(kCountersScript)};
  } else {
    words = {"EVALSHA", counters_script_sha()};
  }
  words.push_back(fmt::format("{}", 4 + limits.size()));
  words.insert(words.end(), {prefix + "clock", prefix + "epoch", prefix + "open", prefix + "r:" + id});
  for (const Limit* limit : limits)
    words.push_back(fmt::format("{}{}:{}", prefix, kind_letter(limit->kind), limit->key));
  words.push_back(fmt::format("{}{}", whole ? "+" : "", word));
  if (options_.clock) {
    const Instant now = options_.clock();
    words.insert(words.end(), {fmt::format("{}", now.steady_ms), fmt::format("{}", now.utc_ms)});
  } else {
    words.insert(words.end(), {"", ""});
  }
  words.push_back(id);
  words.insert(words.end(), rest.begin(), rest.end());
  return words;
}

void RedisCounters::add_limit(Words& rest, const Limit& limit, std::int64_t amount) {
  rest.insert(rest.end(), {std::string(kind_word(limit.kind)), fmt::format("{}", limit.capacity),
                           fmt::format("{}", limit.period.count()), std::string(calendar_word(limit.calendar)),
                           fmt::format("{}", amount)});
}

bool is_error(const Result<Value>& answer, std::string_view begin) {
  return answer && answer->kind == Value::Kind::error && answer->text.starts_with(begin);
}

// An array whose first item is a word, or what went wrong.
Result<Value> checked(Result<Value> answer) {
  if (!answer) return answer;
  for (const char* const word : {"MOVED ", "ASK ", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN"})
    if (is_error(answer, word))
      return Error{
          Code::unavailable,
          fmt::format("this Redis is a part of a cluster, which is not supported: give the address of one that "
                      "stands alone, or of a primary with replicas. It said: {}",
                      answer->text.substr(0, 200))};
  if (answer->kind == Value::Kind::error)
    return Error{Code::unavailable, fmt::format("Redis refused: {}", answer->text.substr(0, 300))};
  if (answer->kind != Value::Kind::array || answer->items.empty() || answer->items[0].kind != Value::Kind::string)
    return not_ours("something else than a list");
  return answer;
}

Result<Value> RedisCounters::run(std::string_view word, const std::string& id, std::span<const Limit* const> limits,
                                 const Words& rest) {
  auto answer = client_->call(command(false, word, id, limits, rest));
  if (is_error(answer, "NOSCRIPT")) answer = client_->call(command(true, word, id, limits, rest));
  answer = checked(std::move(answer));
  note(answer ? Status{} : Status(std::unexpected(answer.error())));
  return answer;
}

void RedisCounters::note(const Status& status) {
  const std::lock_guard lock(mutex_);
  health_ = status;
}

Status RedisCounters::health() const {
  const std::lock_guard lock(mutex_);
  return health_;
}

Status read_standings(const Value& answer, std::size_t at, std::span<const Limit* const> limits,
                      std::vector<Standing>& standings) {
  if (answer.items.size() != at + 2 * limits.size()) return not_ours("a list of another length");
  for (const Limit* limit : limits) {
    const Value &left = answer.items[at], &reset = answer.items[at + 1];
    if (left.kind != Value::Kind::integer || reset.kind != Value::Kind::integer) return not_ours("no numbers");
    standings.push_back({limit->capacity, left.integer, std::chrono::milliseconds(reset.integer)});
    at += 2;
  }
  return {};
}

Result<Verdict> RedisCounters::reserve(const std::string& id, std::span<const Charge> charges) {
  TRY(check_charges(id, charges));
  auto verdict = try_reserve(id, charges);
  if (verdict || verdict.error().code != Code::corrupt) return verdict;
  release(id);  // whatever it was that was said of it
  return Error{Code::unavailable, verdict.error().message};
}

Result<Verdict> RedisCounters::try_reserve(const std::string& id, std::span<const Charge> charges) {
  Words rest;
  std::vector<const Limit*> limits;
  Money money;
  for (const Charge& charge : charges) {
    add_limit(rest, charge.limit, charge.amount);
    limits.push_back(&charge.limit);
    if (charge.limit.kind == LimitKind::budget) money.budgets.emplace_back(limits.size() - 1, charge.limit);
  }
  int seen = restored_;
  auto answer = run("reserve", id, limits, rest);
  for (int turn = 0; turn < 2 && answer && answer->items[0].text == "lost"; ++turn) {
    TRY(restore_from_ledger(seen));
    seen = restored_;
    answer = run("reserve", id, limits, rest);
  }
  if (!answer) {
    if (answer.error().code != Code::unavailable) release(id);  // it may have run, or may yet
    return Error{Code::unavailable, answer.error().message};
  }
  const auto& items = answer->items;
  if (items[0].text != "ok")
    return Error{Code::unavailable, "Redis has lost its counts of money, or this reservation was given up."};
  if (items.size() < 6) return not_ours("a short list");
  Verdict verdict{.admitted = items[1].integer == 1,
                  .refused_by = static_cast<int>(items[2].integer),
                  .never = items[3].integer == 1,
                  .retry_after = std::chrono::milliseconds(items[4].integer)};
  if (verdict.refused_by < -1 || verdict.refused_by >= static_cast<int>(charges.size()))
    return not_ours("no limit of ours");
  TRY(read_standings(*answer, 6, limits, verdict.standings));
  if (verdict.admitted && !money.budgets.empty()) {
    money.epoch = items[5].text;
    const std::lock_guard lock(mutex_);
    money_.emplace(id, std::move(money));
  }
  return verdict;
}

Result<std::vector<Standing>> RedisCounters::look(std::span<const Limit> limits) {
  Words rest;
  std::vector<const Limit*> all;
  for (const Limit& limit : limits) {
    TRY(check_limit(limit));
    add_limit(rest, limit, 0);
    all.push_back(&limit);
  }
  const int seen = restored_;
  auto answer = TRY(run("look", "look", all, rest));
  if (answer.items[0].text == "lost") {
    TRY(restore_from_ledger(seen));
    answer = TRY(run("look", "look", all, rest));
  }
  if (answer.items[0].text != "ok") return Error{Code::unavailable, "Redis has lost its counts of money."};
  std::vector<Standing> standings;
  TRY(read_standings(answer, 1, all, standings));
  return standings;
}

Status RedisCounters::restore_from_ledger(int seen) {
  const std::lock_guard lock(restoring_);
  if (restored_ != seen) return {};
  std::vector<Spent> spent;
  if (options_.ledger) spent = TRY(options_.ledger());
  log::warn("budget_counts_restored", {{"budgets", spent.size()}});
  TRY(restore(spent));
  ++restored_;
  return {};
}

// Raising a count twice changes nothing, so that a long list may go in pieces; the last begins the epoch.
Status RedisCounters::restore(std::span<const Spent> spent) {
  constexpr std::size_t kAtOnce = 1000;
  do {
    const auto piece = spent.first(std::min(spent.size(), kAtOnce));
    spent = spent.subspan(piece.size());
    Words rest;
    std::vector<const Limit*> limits;
    for (const auto& [limit, used] : piece) {
      TRY(check_limit(limit));
      if (limit.kind != LimitKind::budget || used < 0 || used > kMostAmount)
        return Error{Code::invalid, limit.key + ": what a ledger gives back is a budget's count"};
      add_limit(rest, limit, used);
      limits.push_back(&limit);
    }
    TRY(run(spent.empty() ? "restore" : "raise", new_reservation_id(), limits, rest));
  } while (!spent.empty());
  return {};
}

Result<std::vector<std::string>> RedisCounters::unsettled(std::chrono::milliseconds age) {
  const auto answer = TRY(run("unsettled", "unsettled", {}, {fmt::format("{}", age.count())}));
  std::vector<std::string> ids;
  for (std::size_t i = 1; i < answer.items.size(); ++i) ids.push_back(answer.items[i].text);
  return ids;
}

void RedisCounters::end(const std::string& id, std::span<const std::int64_t> amounts, std::string word) {
  Errand errand{.word = std::move(word), .id = id, .amounts = {amounts.begin(), amounts.end()}};
  {
    const std::lock_guard lock(mutex_);
    if (auto held = money_.extract(id)) errand.money = std::move(held.mapped());
  }
  deliver(std::move(errand));
}

void RedisCounters::deliver(Errand errand) {
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    if (errands_.size() >= kMostUndelivered) {
      // What is not settled stays reserved: rates pass by themselves, money waits until this process is dead.
      log::error("counters_undelivered", {{"id", errand.id}});
      return;
    }
    number = next_++;
    errand.under_way = true;
    errands_.emplace(number, std::move(errand));
  }
  send(number, false);
}

void RedisCounters::deliver_all() {
  std::vector<std::uint64_t> numbers;
  {
    const std::lock_guard lock(mutex_);
    if (idle_ == 0) return;
    for (auto& [number, errand] : errands_)
      if (!std::exchange(errand.under_way, true)) numbers.push_back(number);
    idle_ = 0;
  }
  for (const std::uint64_t number : numbers) send(number, false);
}

void RedisCounters::send(std::uint64_t number, bool whole) {
  Words words;
  {
    const std::lock_guard lock(mutex_);
    const auto found = errands_.find(number);
    if (found == errands_.end()) return;
    const Errand& errand = found->second;
    Words rest;
    std::vector<const Limit*> limits;
    if (errand.word == "tend") rest = {fmt::format("{}", options_.lease.count())};
    if (errand.word == "end" || errand.word == "amend") {
      rest = {errand.money.epoch, fmt::format("{}", errand.amounts.size())};
      for (const std::int64_t amount : errand.amounts) rest.push_back(fmt::format("{}", amount));
      for (const auto& [place, limit] : errand.money.budgets) {
        limits.push_back(&limit);
        add_limit(rest, limit, place < errand.amounts.size() ? errand.amounts[place] : 0);
      }
    }
    words = command(whole, errand.word, errand.id, limits, rest);
  }
  client_->send(std::move(words), [this, number, whole](const Result<Value>& answer) {
    if (!whole && is_error(answer, "NOSCRIPT")) return send(number, true);
    delivered(number, answer);
  });
}

void RedisCounters::delivered(std::uint64_t number, const Result<Value>& answer) {
  const bool done = answer && answer->kind == Value::Kind::array;
  const bool hopeless = is_error(answer, "ERR") || is_error(answer, "WRONGTYPE");
  if (hopeless) log::error("counters_refused", {{"why", answer->text.substr(0, 300)}});
  if (done) note({});
  if (!answer) note(std::unexpected(answer.error()));
  bool others = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = errands_.find(number);
    if (found == errands_.end()) return;
    const bool gives = found->second.word == "tend" || found->second.word == "bury";
    if (done && gives && answer->items.size() == 2 && answer->items[1].integer > 0)
      log::warn("reservations_of_the_dead", {{"given_back", answer->items[1].integer}});
    if (done || hopeless || found->second.once) {
      errands_.erase(found);
    } else {
      found->second.under_way = false;  // until the next connection, or the next good answer
      ++idle_;
    }
    others = done && idle_ > 0;
    changed_.notify_all();
  }
  if (others) deliver_all();
}

Status RedisCounters::sync(std::chrono::milliseconds most) {
  deliver_all();
  std::unique_lock lock(mutex_);
  if (changed_.wait_for(lock, most, [&] { return errands_.empty(); })) return {};
  return Error{Code::unavailable, fmt::format("Redis has not been told the end of {} reservations.", errands_.size())};
}

}  // namespace

Result<std::unique_ptr<Counters>> redis_counters(const RedisOptions& server, RedisCountersOptions options) {
  auto counters = std::make_unique<RedisCounters>(std::move(options));
  TRY(counters->connect(server));
  return counters;
}

}  // namespace ashlar::store
