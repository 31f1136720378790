// The accounts of a server: every request leaves one row of usage, whatever happens to the server, its disk or its
// database.
//
//   a request begins     it is open in the journal
//   it ends              its row goes to the database; it leaves the journal once the row is durable
//   that fails           it waits in the journal, and is written when the database works again
//   the process dies     the next that starts with this folder and database writes what the journal holds
//
// A row is written once, by its id, however often it is sent.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/limits/usage_record.h"
#include "store/counters.h"
#include "store/database.h"

namespace ashlar::gateway {

class Accounts final : public UsageLedger {
 public:
  struct Options {
    std::string folder;                        // of the journal, made if it is not there; "": none
    std::chrono::milliseconds retry{1'000};    // between two tries to write what waits
    std::chrono::milliseconds search{30'000};  // for journals of others who died, and for room for ours
    std::size_t most_in_memory = 10'000;       // rows that wait where no journal has room
    std::uint32_t journal_step = 4096, journal_most = 1 << 18;  // slots
  };

  // The table of usage is there, and the database outlives it. A folder that cannot be used is no error: troubles()
  // tells. Rows of servers that died are written before this returns, as far as the database takes them.
  static std::unique_ptr<Accounts> open(store::Database& database, Options options);
  // Ends that come later stay in the journal.
  ~Accounts() override;

  // Reservations of servers that died are settled to what their rows say, in counts that outlive a server; then their
  // journals go. `counters` outlives it. Once.
  void settle_with(store::Counters& counters);

  void record(const UsageRecord& record) override;
  Result<std::shared_ptr<OpenUsage>> open(const UsageRecord& begun, const std::optional<Price>& price,
                                          std::span<const Measure> measures) override;

  // Tries now to write what waits, and gives what still does: spent, but not in the database.
  Result<std::vector<UsageRecord>> unwritten();
  // What an operator should know, a sentence each; none: all is well.
  std::vector<std::string> troubles() const;
  std::size_t waiting() const;

 private:
  struct State;
  class Worker;
  explicit Accounts(std::shared_ptr<State> state);

  const std::shared_ptr<State> state_;  // also of writes under way
  std::unique_ptr<Worker> worker_;
};

}  // namespace ashlar::gateway
