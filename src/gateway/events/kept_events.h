// The event log that lasts: rows of the state's database, or where there is none the last of them in memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "gateway/events/event_log.h"
#include "store/database.h"

namespace ashlar::gateway {

std::string_view name(Severity severity);
std::optional<Severity> severity_of(std::string_view name);

struct KeptEvent {
  std::int64_t id = 0;  // grows in the order of writing
  OperatorEvent event;
};
// {"id", "at", "kind", "subject", "severity", "message", "actor", "details"}.
Json json_of(const KeptEvent& event);

// All that is said must hold.
struct EventFilter {
  std::int64_t since_ms = std::numeric_limits<std::int64_t>::min();
  std::int64_t until_ms = std::numeric_limits<std::int64_t>::max();  // before it
  std::string kind;                                                  // what it begins with: "breaker", "key.made"
  std::string subject;
  Severity least = Severity::info;
  std::int64_t after = 0;                                          // of ids greater than this
  std::int64_t before = std::numeric_limits<std::int64_t>::max();  // and less: where a page ended
  int limit = 100;                                                 // 1 to 1,000
};
struct EventPage {
  std::vector<KeptEvent> events;  // the newest first
  bool more = false;              // there are older ones: ask `before` the last of these
};

struct KeptEventsOptions {
  std::int64_t most_rows = 200'000;
  std::chrono::hours oldest{24 * 90};
  std::size_t most_waiting = 2'000;      // to be written to the database; what comes on top is only logged
  std::function<std::int64_t()> now_ms;  // since 1970; nothing: the machine's
  bool logged = true;                    // each is a line of the log too
};

// Any thread. Texts are cut and made harmless: no control characters, valid UTF-8, details of at most 16 KiB.
class KeptEvents : public EventLog {
 public:
  // Makes the tables where they are missing. `database` outlives this; null: the last 1,000 are kept in memory.
  static Result<std::unique_ptr<KeptEvents>> open(store::Database* database, KeptEventsOptions options = {});

  virtual Result<EventPage> list(const EventFilter& filter) const = 0;
  // Waits until what was written before is kept, or cannot be.
  virtual void sync() = 0;
};

}  // namespace ashlar::gateway
