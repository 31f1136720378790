#include "gateway/limits/accounts.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <variant>

#include "base/log.h"
#include "base/metrics.h"
#include "base/threads.h"
#include "gateway/limits/journal.h"
#include "gateway/limits/orphans.h"
#include "store/files.h"
#include "store/usage.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kAtOnce = 200;  // rows in one transaction
constexpr std::chrono::milliseconds kSettled{2'000};

struct AccountMetrics {
  Gauge waiting{"usage_rows_waiting", "Rows of usage that the database has not taken yet."};
  Gauge open{"usage_journal_slots", "Slots of the journal of requests that are in use."};
  Counter recovered{"usage_rows_recovered_total", "Rows of usage of servers that died, written by this one."};
  Counter lost{"usage_rows_lost_total", "Rows of usage that could be kept nowhere."};
  Counter unjournaled{"usage_unjournaled_total", "Requests that ran without a place in the journal."};
};
AccountMetrics& metrics() {
  static auto* made = new AccountMetrics;  // writes may end while the process does
  return *made;
}

// As HTTP would have it.
int status_of(UsageRecord::End end) {
  switch (end) {
    case UsageRecord::End::finished:
    case UsageRecord::End::kept:
      return 200;
    case UsageRecord::End::failed:
      return 500;
    case UsageRecord::End::dropped:
    case UsageRecord::End::interrupted:
      return 499;
  }
  return 500;
}

store::UsageRow row_of(const UsageRecord& record) {
  store::UsageRow row{.id = record.reservation,
                      .at_ms = record.begun_utc_ms,
                      .tenant = record.subject.tenant,
                      .team = record.subject.team,
                      .user = record.subject.user,
                      .key = record.subject.key,
                      .model = record.model,
                      .deployment = record.deployment,
                      .tags = record.subject.tags,
                      .prompt_tokens = record.use.prompt,
                      .cached_tokens = record.use.cached,
                      .cache_write_tokens = record.use.written,
                      .completion_tokens = record.use.completion,
                      .reasoning_tokens = record.use.reasoning,
                      .cost_nano = record.cost,
                      .status = status_of(record.end),
                      .duration_ms = static_cast<std::int64_t>(record.seconds * 1000),
                      .request_id = record.given_id};
  if (record.first_seconds) row.ttft_ms = static_cast<std::int64_t>(*record.first_seconds * 1000);
  // First, for the last of too many are left out.
  if (record.end == UsageRecord::End::interrupted) row.tags.insert(row.tags.begin(), {"interrupted", "true"});
  if (record.end == UsageRecord::End::kept) row.tags.insert(row.tags.begin(), {"cache", "hit"});
  return row;
}

// The database as it is, not the row: it will take the row later.
bool may_pass(Code code) {
  return code == Code::io || code == Code::unavailable || code == Code::deadline || code == Code::corrupt ||
         code == Code::cancelled;
}

void lost(const std::string& id, const Error& error) {
  metrics().lost.add();
  log::error("usage_lost", {{"id", id}, {"why", error.message}});
}

// What servers that died left, on its way to where it belongs.
struct Taken {
  Orphan orphan;
  bool written = false, settled = false;
};

}  // namespace

struct Accounts::State : std::enable_shared_from_this<State> {
  // A row that waits: in the journal, or here where that has no room.
  struct Waiting {
    std::shared_ptr<Journal> journal;  // null: the record
    Journal::Slot slot = 0;
    UsageRecord record;
  };

  State(store::Database& d, Options o) : database(d), options(std::move(o)) {}

  void open_journal() {
    if (options.folder.empty() || current() != nullptr) return;
    const auto search = OrphanSearch::begin(options.folder);  // nobody takes it for one before it is locked
    auto made = Journal::create({.folder = options.folder,
                                 .database = database_id(),
                                 .step = options.journal_step,
                                 .most = options.journal_most},
                                [weak = weak_from_this()](const UsageRecord& record, Journal::Slot slot) {
                                  if (const auto state = weak.lock()) state->ended(record, slot);
                                });
    const std::lock_guard lock(mutex);
    if (!made && journal_trouble.empty()) log::error("journal_missing", {{"why", made.error().message}});
    journal_trouble = made ? "" : made.error().message;
    if (made) journal = std::move(*made);
  }
  std::shared_ptr<Journal> current() const {
    const std::lock_guard lock(mutex);
    return journal;
  }
  std::string database_id() const {
    std::error_code failed;
    if (database.dialect() != store::Dialect::sqlite) return database.name();
    const auto path = std::filesystem::weakly_canonical(database.name(), failed);
    return failed ? database.name() : path.string();
  }

  void ended(const UsageRecord& record, Journal::Slot slot) {
    if (auto of = current()) write(record, {.journal = std::move(of), .slot = slot, .record = {}});
  }

  // Never waits.
  void write(const UsageRecord& record, Waiting where) {
    // It lets go of the journal when it is called, whenever it dies.
    auto done = [self = shared_from_this(), where](const Status& written) mutable {
      self->written(std::move(where), written);
    };
    if (const auto sent = store::record_usage(database, row_of(record), std::move(done)); !sent)
      written(std::move(where), sent);
  }
  void written(Waiting where, const Status& status) {
    if (status) return let_go(where);
    if (!may_pass(status.error().code)) {
      lost(id_of(where), status.error());
      return let_go(where);
    }
    const std::lock_guard lock(mutex);
    if (waits.empty()) log::warn("usage_waits", {{"why", status.error().message}});
    why = status.error().message;
    if (where.journal == nullptr && in_memory >= options.most_in_memory) return lost(id_of(where), status.error());
    in_memory += where.journal == nullptr;
    waits.push_back(std::move(where));
    metrics().waiting.set(static_cast<double>(waits.size()));
    wake.notify_one();
  }
  void let_go(const Waiting& where) const {
    if (where.journal != nullptr) where.journal->free(where.slot);
  }
  std::string id_of(const Waiting& where) const {
    if (where.journal == nullptr) return where.record.reservation;
    const auto record = where.journal->read(where.slot);
    return record ? record->reservation : "";
  }

  // The first that wait; only who holds `writing` takes them away.
  std::vector<Waiting> next() const {
    const std::lock_guard lock(mutex);
    return {waits.begin(), waits.begin() + static_cast<std::ptrdiff_t>(std::min(kAtOnce, waits.size()))};
  }
  void take_away(const std::vector<Waiting>& some) {
    {
      const std::lock_guard lock(mutex);
      for (const Waiting& each : some) in_memory -= each.journal == nullptr;
      waits.erase(waits.begin(), waits.begin() + static_cast<std::ptrdiff_t>(some.size()));
      metrics().waiting.set(static_cast<double>(waits.size()));
    }
    for (const Waiting& each : some) let_go(each);
  }
  UsageRecord record_of(const Waiting& where) const {
    if (where.journal == nullptr) return where.record;
    return where.journal->read(where.slot).value_or(UsageRecord{});
  }

  // All or none; what can never be written is left out, and logged.
  Status write_now(const std::vector<const UsageRecord*>& records) {
    std::vector<store::Statement> list;
    for (const UsageRecord* record : records) {
      if (record->reservation.empty()) continue;
      auto insert = store::usage_insert(row_of(*record));
      if (insert)
        list.push_back(std::move(*insert));
      else
        lost(record->reservation, insert.error());
    }
    if (list.empty()) return {};
    const auto done = database.transact(std::move(list));
    if (!done && records.size() > 1 && !may_pass(done.error().code)) {
      for (const UsageRecord* record : records) TRY(write_now({record}));
      return {};
    }
    if (!done && !may_pass(done.error().code)) {
      lost(records.front()->reservation, done.error());
      return {};
    }
    return done ? Status() : Status(std::unexpected(done.error()));
  }

  // Everything that waits, until something fails. Under `writing`.
  Status write_waiting() {
    while (true) {
      const auto some = next();
      if (some.empty()) return {};
      std::vector<UsageRecord> records;
      for (const Waiting& each : some) records.push_back(record_of(each));
      std::vector<const UsageRecord*> list;
      for (const UsageRecord& record : records) list.push_back(&record);
      if (const auto done = write_now(list); !done) {
        const std::lock_guard lock(mutex);
        why = done.error().message;
        return done;
      }
      take_away(some);
    }
  }

  // Journals of servers that died, and what is left to do for those found before.
  void adopt() {
    if (options.folder.empty()) return;
    const std::lock_guard one(adopting);
    const auto search = OrphanSearch::begin(options.folder);
    if (!search) return;
    for (Orphan& orphan : search->orphans(database_id())) {
      log::warn("journal_found", {{"file", orphan.path()}, {"requests", orphan.rows().size()}});
      taken.push_back({.orphan = std::move(orphan)});
    }
    for (Taken& each : taken) {
      if (!each.written) each.written = write_orphan(each.orphan);
      if (each.written && !each.settled) each.settled = settle_orphan(each.orphan);
      if (each.settled) each.orphan.remove();
    }
    std::erase_if(taken, [](const Taken& each) { return each.settled; });
  }
  bool write_orphan(const Orphan& orphan) {
    for (std::size_t from = 0; from < orphan.rows().size(); from += kAtOnce) {
      std::vector<const UsageRecord*> list;
      for (std::size_t i = from; i < std::min(from + kAtOnce, orphan.rows().size()); ++i)
        list.push_back(&orphan.rows()[i].record);
      if (const auto done = write_now(list); !done) {
        log::error("usage_not_recovered", {{"file", orphan.path()}, {"why", done.error().message}});
        return false;
      }
    }
    metrics().recovered.add(orphan.rows().size());
    return true;
  }
  bool settle_orphan(const Orphan& orphan) const {
    store::Counters* const counts = counters.load();
    if (counts == nullptr || !counts->health()) return false;
    for (const JournalRow& row : orphan.rows()) {
      if (row.measures.empty() && row.also == 0) continue;
      // Who died may have settled it a moment before, to more than his client got.
      const bool nothing = row.record.use == TokenUse{};
      for (std::uint32_t i = 0; i < row.also; ++i)
        counts->amend(also_id(row.record.reservation, i), {&row.record.cost, 1});
      std::vector<std::int64_t> amounts;
      for (const Measure measure : row.measures)
        amounts.push_back(measure == Measure::tokens  ? row.record.use.total()
                          : measure == Measure::money ? row.record.cost
                          : nothing                   ? 0
                                                      : 1);
      if (!amounts.empty()) counts->amend(row.record.reservation, amounts);
    }
    if (const std::string owner(orphan.owner()); owner != store::reservation_owner()) counts->bury(owner);
    return counts->sync(kSettled).has_value();
  }

  store::Database& database;
  const Options options;
  std::atomic<store::Counters*> counters = nullptr;
  mutable std::mutex mutex;
  std::condition_variable_any wake;
  std::shared_ptr<Journal> journal;  // GUARDED_BY(mutex); null: none can be made, journal_trouble says why
  std::string journal_trouble;       // GUARDED_BY(mutex)
  std::deque<Waiting> waits;         // GUARDED_BY(mutex)
  std::size_t in_memory = 0;         // GUARDED_BY(mutex); of those that wait
  std::string why;                   // GUARDED_BY(mutex); they wait
  std::mutex writing;                // one at a time writes what waits
  mutable std::mutex adopting;
  std::vector<Taken> taken;  // GUARDED_BY(adopting)
};

// Writes what waits, looks for those who died, and makes a journal where none could be made.
class Accounts::Worker {
 public:
  explicit Worker(std::shared_ptr<State> state)
      : state_(std::move(state)), thread_([this](const std::stop_token& stop) { work(stop); }) {}

 private:
  using Clock = std::chrono::steady_clock;

  void work(const std::stop_token& stop) {
    begin_thread("accounts");
    auto search_at = Clock::now() + state_->options.search;
    auto retry = state_->options.retry;
    while (!stop.stop_requested()) {
      {
        std::unique_lock lock(state_->mutex);
        state_->wake.wait_until(lock, stop, search_at, [&] { return !state_->waits.empty(); });
        // Not at once: what failed a moment ago would fail again.
        state_->wake.wait_for(lock, stop, retry, [] { return false; });
      }
      if (stop.stop_requested()) return;
      {
        const std::lock_guard one(state_->writing);
        retry = state_->write_waiting() ? state_->options.retry : std::min(2 * retry, 10 * state_->options.retry);
      }
      if (const auto journal = state_->current()) metrics().open.set(static_cast<double>(journal->used()));
      if (Clock::now() < search_at) continue;
      search_at = Clock::now() + state_->options.search;
      state_->open_journal();
      state_->adopt();
    }
  }

  const std::shared_ptr<State> state_;
  std::jthread thread_;  // last: it ends before what it uses
};

Accounts::Accounts(std::shared_ptr<State> state) : state_(std::move(state)) {}

std::unique_ptr<Accounts> Accounts::open(store::Database& database, Options options) {
  auto state = std::make_shared<State>(database, std::move(options));
  if (!state->options.folder.empty())
    if (const auto made = store::make_folders(state->options.folder); !made)
      log::error("journal_missing", {{"why", made.error().message}});
  state->open_journal();
  state->adopt();
  std::unique_ptr<Accounts> accounts(new Accounts(state));
  accounts->worker_ = std::make_unique<Worker>(std::move(state));
  return accounts;
}

Accounts::~Accounts() {
  worker_.reset();
  if (const auto journal = state_->current()) journal->retire();
  {
    const std::lock_guard one(state_->writing);
    (void)state_->write_waiting();
  }
  const std::lock_guard lock(state_->mutex);
  state_->journal = nullptr;  // what is still being written holds it
}

void Accounts::settle_with(store::Counters& counters) {
  state_->counters = &counters;
  state_->adopt();
}

void Accounts::record(const UsageRecord& record) {
  state_->write(record, {.journal = nullptr, .slot = 0, .record = record});
}

Result<std::shared_ptr<OpenUsage>> Accounts::open(const UsageRecord& begun, const std::optional<Price>& price,
                                                  std::span<const Measure> measures) {
  if (state_->options.folder.empty()) return nullptr;
  if (const auto journal = state_->current())
    if (auto open = journal->open(begun, price, measures)) return open;
  metrics().unjournaled.add();
  const std::lock_guard lock(state_->mutex);
  if (state_->in_memory >= state_->options.most_in_memory)
    return Error{Code::unavailable, "The accounts of what is used cannot be kept now, and this costs money."};
  return nullptr;
}

Result<std::vector<UsageRecord>> Accounts::unwritten() {
  const std::lock_guard one(state_->writing);
  (void)state_->write_waiting();
  TRY(state_->database.drain());  // what is on its way is either written or waits
  std::vector<UsageRecord> out;
  {
    const std::lock_guard lock(state_->mutex);
    for (const State::Waiting& each : state_->waits) out.push_back(state_->record_of(each));
  }
  const std::lock_guard lock(state_->adopting);
  for (const Taken& each : state_->taken)
    if (!each.written)
      for (const JournalRow& row : each.orphan.rows()) out.push_back(row.record);
  return out;
}

std::vector<std::string> Accounts::troubles() const {
  std::vector<std::string> out;
  if (const auto health = state_->database.health(); !health) out.push_back(health.error().message);
  const std::lock_guard lock(state_->mutex);
  if (!state_->waits.empty())
    out.push_back(fmt::format("{} rows of usage wait for the database: {}", state_->waits.size(), state_->why));
  if (!state_->journal_trouble.empty())
    out.push_back(
        fmt::format("open requests are in no journal, and would be lost to a kill: {}", state_->journal_trouble));
  if (const auto health = state_->journal ? state_->journal->health() : Status(); !health)
    out.push_back(fmt::format("the journal of open requests is full: {}", health.error().message));
  return out;
}

std::size_t Accounts::waiting() const {
  const std::lock_guard lock(state_->mutex);
  return state_->waits.size();
}

}  // namespace ashlar::gateway
