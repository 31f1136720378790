#include "gateway/events/kept_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <span>
#include <utility>

#include "base/json_full.h"
#include "base/log.h"
#include "base/utf8.h"
#include "store/migrations.h"
#include "store/usage.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kInMemory = 1'000;
constexpr std::size_t kLongestName = 256, kLongestMessage = 2'000, kLongestDetails = 16 << 10;
constexpr int kPruneEvery = 1'000;  // writes
constexpr std::string_view kSeverities[] = {"info", "warning", "error"};

const store::Schema kSchema{
    .room = "events",
    .steps = {{"CREATE TABLE operator_events (id $IDENTITY, at BIGINT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT "
               "NULL, severity BIGINT NOT NULL, message TEXT NOT NULL, actor TEXT NOT NULL, details TEXT NOT NULL)",
               "CREATE INDEX operator_events_at ON operator_events (at)"}}};

// Names come with requests: what is read in a terminal, a log or a table must not be obeyed by it.
std::string harmless(std::string_view text, std::size_t longest) {
  std::string out;
  for (std::string rest = utf8::sanitize(text.substr(0, longest)); !rest.empty();) {
    const auto step = utf8::decode(rest);
    const char32_t c = step.code;
    const bool control = c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x2028 || c == 0x2029 ||
                         (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0x200e || c == 0x200f ||
                         c == 0x061c || c == 0xfeff;
    if (control)
      out += ' ';
    else
      utf8::append(out, c);
    rest.erase(0, step.bytes);
  }
  return out;
}

OperatorEvent harmless(OperatorEvent event, std::int64_t now_ms) {
  event.kind = harmless(event.kind, kLongestName);
  event.subject = harmless(event.subject, kLongestName);
  event.message = harmless(event.message, kLongestMessage);
  event.actor = harmless(event.actor, kLongestName);
  if (!event.details.is_object()) event.details = Json{{"value", std::move(event.details)}};
  if (dump_json(event.details).size() > kLongestDetails) event.details = Json{{"cut", "the details were too long"}};
  if (event.at_ms == 0) event.at_ms = now_ms;
  return event;
}

void log_event(const OperatorEvent& event) {
  constexpr log::Level kLevels[] = {log::Level::info, log::Level::warn, log::Level::error};
  log::write(kLevels[static_cast<int>(event.severity)], "event",
             {{"kind", event.kind}, {"subject", event.subject}, {"actor", event.actor}, {"message", event.message}});
}

bool fits(const KeptEvent& kept, const EventFilter& filter) {
  const OperatorEvent& event = kept.event;
  return kept.id > filter.after && kept.id < filter.before && event.at_ms >= filter.since_ms &&
         event.at_ms < filter.until_ms && event.severity >= filter.least && event.kind.starts_with(filter.kind) &&
         (filter.subject.empty() || event.subject == filter.subject);
}

Status check(const EventFilter& filter) {
  if (filter.limit < 1 || filter.limit > 1000) return Error{Code::invalid, "a page has 1 to 1,000 events"};
  for (const std::string& text : {filter.kind, filter.subject})
    if (text.size() > 4 * kLongestName || !utf8::is_valid(text) || text.contains('\0'))
      return Error{Code::invalid, "a kind and a subject are texts of at most 256 characters"};
  return {};
}

// The last ones, in memory. Any thread.
class RememberedEvents final : public KeptEvents {
 public:
  explicit RememberedEvents(std::function<std::int64_t()> now_ms) : now_ms_(std::move(now_ms)) {}

  void write(OperatorEvent event) override {
    event = harmless(std::move(event), now_ms_());
    log_event(event);
    const std::lock_guard lock(mutex_);
    events_.push_back({.id = ++last_, .event = std::move(event)});
    if (events_.size() > kInMemory) events_.pop_front();
  }
  Result<EventPage> list(const EventFilter& filter) const override {
    TRY(check(filter));
    EventPage page;
    const std::lock_guard lock(mutex_);
    for (auto each = events_.rbegin(); each != events_.rend(); ++each) {
      if (!fits(*each, filter)) continue;
      if (std::ssize(page.events) == filter.limit) {
        page.more = true;
        break;
      }
      page.events.push_back(*each);
    }
    return page;
  }
  void sync() override {}

 private:
  const std::function<std::int64_t()> now_ms_;
  mutable std::mutex mutex_;
  std::deque<KeptEvent> events_;  // GUARDED_BY(mutex_), as is last_
  std::int64_t last_ = 0;
};

// What writes under way tell of themselves; they may outlive the log by a moment.
struct UnderWay {
  std::mutex mutex;
  std::condition_variable fewer;
  std::size_t count = 0;  // GUARDED_BY(mutex)

  void ended() {
    {
      const std::lock_guard lock(mutex);
      --count;
    }
    fewer.notify_all();
  }
};

class RowsOfEvents final : public KeptEvents {
 public:
  RowsOfEvents(store::Database& database, KeptEventsOptions options)
      : database_(database), options_(std::move(options)), under_way_(std::make_shared<UnderWay>()) {}
  ~RowsOfEvents() override { sync(); }

  Status begin() {
    TRY(store::migrate(database_, std::span(&kSchema, 1)));
    TRY(database_.transact(prune()));
    return {};
  }

  void write(OperatorEvent event) override {
    event = harmless(std::move(event), options_.now_ms());
    if (options_.logged) log_event(event);
    std::vector<store::Statement> list;
    list.push_back({.sql = "INSERT INTO operator_events (at, kind, subject, severity, message, actor, details) VALUES "
                           "(?, ?, ?, ?, ?, ?, ?)",
                    .args = {event.at_ms, event.kind, event.subject, static_cast<std::int64_t>(event.severity),
                             event.message, event.actor, dump_json(event.details)}});
    {
      const std::lock_guard lock(under_way_->mutex);
      if (under_way_->count >= options_.most_waiting)
        return lost(event.kind, {Code::unavailable, "too many events wait to be written"});
      ++under_way_->count;
      if (++written_ % kPruneEvery == 0) std::ranges::move(prune(), std::back_inserter(list));
    }
    const auto taken = database_.write_later(
        std::move(list), [kind = event.kind, under_way = under_way_](const store::Database::Written& written) {
          if (!written) lost(kind, written.error());
          under_way->ended();
        });
    if (taken) return;
    lost(event.kind, taken.error());
    under_way_->ended();
  }

  Result<EventPage> list(const EventFilter& filter) const override {
    TRY(check(filter));
    // Behind what is on its way to the database, so that who did something finds it.
    if (any_under_way()) TRY(database_.drain());
    store::Values args = {filter.after, filter.before, filter.since_ms, filter.until_ms,
                          static_cast<std::int64_t>(filter.least)};
    std::string where;
    // Not LIKE, which the twins read differently.
    if (!filter.kind.empty()) {
      where += fmt::format(" AND substr(kind, 1, {}) = ?", filter.kind.size());
      args.emplace_back(filter.kind);
    }
    if (!filter.subject.empty()) {
      where += " AND subject = ?";
      args.emplace_back(filter.subject);
    }
    const auto rows = TRY(database_.query(
        fmt::format("SELECT id, at, kind, subject, severity, message, actor, details FROM operator_events WHERE id > ? "
                    "AND id < ? AND at >= ? AND at < ? AND severity >= ?{} ORDER BY id DESC LIMIT {}",
                    where, filter.limit + 1),
        std::move(args)));
    EventPage page;
    for (const store::Values& row : rows.rows) {
      if (std::ssize(page.events) == filter.limit) {
        page.more = true;
        break;
      }
      page.events.push_back(read(row));
    }
    return page;
  }

  void sync() override {
    std::unique_lock lock(under_way_->mutex);
    under_way_->fewer.wait(lock, [&] { return under_way_->count == 0; });
  }

 private:
  bool any_under_way() const {
    const std::lock_guard lock(under_way_->mutex);
    return under_way_->count > 0;
  }

  static void lost(const std::string& kind, const Error& error) {
    log::error("event_not_kept", {{"kind", kind}, {"why", error.message}});
  }

  static KeptEvent read(const store::Values& row) {
    const auto severity = std::clamp<std::int64_t>(store::as_int(row[4]), 0, 2);
    return {.id = store::as_int(row[0]),
            .event = {.kind = store::as_text(row[2]),
                      .subject = store::as_text(row[3]),
                      .severity = static_cast<Severity>(severity),
                      .message = store::as_text(row[5]),
                      .actor = store::as_text(row[6]),
                      .details = parse_json(store::as_text(row[7])).value_or(Json::object()),
                      .at_ms = store::as_int(row[1])}};
  }

  // The old ones, and those before the last `most_rows`: by ids, which may have gaps, and then it is a few less.
  std::vector<store::Statement> prune() const {
    const std::int64_t oldest = options_.now_ms() - std::chrono::milliseconds(options_.oldest).count();
    return {{.sql = "DELETE FROM operator_events WHERE at < ?", .args = {oldest}},
            {.sql = "DELETE FROM operator_events WHERE id <= (SELECT max(id) FROM operator_events) - ?",
             .args = {options_.most_rows}}};
  }

  store::Database& database_;
  const KeptEventsOptions options_;
  const std::shared_ptr<UnderWay> under_way_;
  std::uint64_t written_ = 0;  // GUARDED_BY(under_way_->mutex)
};

}  // namespace

std::string_view name(Severity severity) { return kSeverities[static_cast<int>(severity)]; }

std::optional<Severity> severity_of(std::string_view name) {
  const auto found = std::ranges::find(kSeverities, name);
  if (found == std::end(kSeverities)) return std::nullopt;
  return static_cast<Severity>(found - std::begin(kSeverities));
}

Json json_of(const KeptEvent& kept) {
  const OperatorEvent& event = kept.event;
  return {{"id", kept.id},
          {"at", store::utc_text_of_ms(event.at_ms)},
          {"kind", event.kind},
          {"subject", event.subject},
          {"severity", name(event.severity)},
          {"message", event.message},
          {"actor", event.actor},
          {"details", event.details}};
}

Result<std::unique_ptr<KeptEvents>> KeptEvents::open(store::Database* database, KeptEventsOptions options) {
  if (!options.now_ms)
    options.now_ms = [] {
      return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
    };
  if (database == nullptr) return std::make_unique<RememberedEvents>(options.now_ms);
  auto rows = std::make_unique<RowsOfEvents>(*database, std::move(options));
  TRY(rows->begin());
  return rows;
}

}  // namespace ashlar::gateway
