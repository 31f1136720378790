#include "gateway/limits/accounts.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <map>
#include <span>
#include <thread>
#include <utility>

#include "gateway/limits/spent.h"
#include "store/databases_for_test.h"
#include "store/migrations.h"
#include "store/usage.h"

namespace ashlar::gateway {
namespace {

using End = UsageRecord::End;

// A database that can be made to fail.
class Moody final : public store::Database {
 public:
  explicit Moody(const std::string& where) : inner_(std::move(*store::open_database(where))) {
    EXPECT_TRUE(store::migrate(*inner_, std::span(&store::usage_schema(), 1)));
  }
  Result<store::Rows> query(std::string_view sql, store::Values args) override {
    return inner_->query(sql, std::move(args));
  }
  Written transact(std::vector<store::Statement> list, bool unhurried) override {
    if (full) return Error{Code::io, "the disk is full"};
    return inner_->transact(std::move(list), unhurried);
  }
  Status write_later(std::vector<store::Statement> list, Done done) override {
    if (busy) return Error{Code::unavailable, "too much waits to be written"};
    if (!full) return inner_->write_later(std::move(list), std::move(done));
    done(Error{Code::io, "the disk is full"});
    return {};
  }
  Status drain() override { return inner_->drain(); }
  Status health() const override { return inner_->health(); }
  Status backup(const std::string& file) override { return inner_->backup(file); }
  store::Dialect dialect() const override { return inner_->dialect(); }
  const std::string& name() const override { return inner_->name(); }

  std::atomic<bool> full = false, busy = false;

 private:
  std::unique_ptr<store::Database> inner_;
};

class AccountsTest : public testing::Test {
 protected:
  Accounts::Options options() const {
    return {.folder = folder.path() + "/journal",
            .retry = std::chrono::milliseconds(5),
            .journal_step = 16,
            .journal_most = 1024};
  }
  std::map<std::string, store::UsageRow> rows() {
    std::map<std::string, store::UsageRow> all;
    EXPECT_TRUE(store::each_usage(database, {}, [&](const store::UsageRow& row) -> Status {
      EXPECT_TRUE(all.emplace(row.id, row).second) << "once";
      return {};
    }));
    return all;
  }
  void wait_for(auto done) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done() && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    EXPECT_TRUE(done());
  }
  static UsageRecord record(const std::string& id, std::int64_t cost = 0) {
    return {.reservation = id,
            .subject = {.user = "ann"},
            .model = "m",
            .use = {.prompt = 1, .completion = 2},
            .cost = cost,
            .begun_utc_ms = store::machine_instant().utc_ms};
  }
  static void run(Accounts& accounts, const UsageRecord& one) {
    auto open = accounts.open(one, std::nullopt, {});
    if (*open)
      (*open)->end(one);
    else
      accounts.record(one);
  }
  int journals() const {
    return static_cast<int>(std::distance(std::filesystem::directory_iterator(options().folder), {}));
  }

  store::FolderForTest folder;
  Moody database{folder.path() + "/state.db"};
};

TEST_F(AccountsTest, ARowForEachRequestAndNothingIsLeft) {
  {
    auto accounts = Accounts::open(database, options());
    for (int i = 0; i < 200; ++i) run(*accounts, record(std::to_string(i)));
    EXPECT_TRUE(accounts->troubles().empty());
  }
  wait_for([&] { return rows().size() == 200; });
  wait_for([&] { return journals() == 0; });
}

TEST_F(AccountsTest, RowsWaitForTheDatabaseAndAreWrittenOnce) {
  auto accounts = Accounts::open(database, options());
  database.full = true;
  for (int i = 0; i < 30; ++i) run(*accounts, record(std::to_string(i), 10));
  database.busy = true;
  for (int i = 30; i < 40; ++i) run(*accounts, record(std::to_string(i), 10));
  wait_for([&] { return accounts->waiting() == 40; });
  ASSERT_EQ(accounts->troubles().size(), 1u);
  EXPECT_EQ(accounts->unwritten()->size(), 40u);
  database.full = database.busy = false;
  wait_for([&] { return accounts->waiting() == 0 && rows().size() == 40; });
  EXPECT_TRUE(accounts->troubles().empty());
  EXPECT_TRUE(accounts->unwritten()->empty());
}

TEST_F(AccountsTest, WhatWaitsOutlivesTheProcess) {
  {
    auto accounts = Accounts::open(database, options());
    database.full = true;
    for (int i = 0; i < 20; ++i) run(*accounts, record(std::to_string(i)));
    wait_for([&] { return accounts->waiting() == 20; });
  }
  database.full = false;
  auto next = Accounts::open(database, options());
  const auto all = rows();
  ASSERT_EQ(all.size(), 20u);
  EXPECT_EQ(all.at("7").status, 200);
  EXPECT_EQ(all.at("7").completion_tokens, 2);
}

TEST_F(AccountsTest, WithoutRoomAnywhereOnlyMoneyIsRefused) {
  auto small = options();
  small.journal_step = small.journal_most = 4;
  small.most_in_memory = 3;
  auto accounts = Accounts::open(database, small);
  database.full = true;
  for (int i = 0; i < 7; ++i) {
    run(*accounts, record(std::to_string(i)));
    wait_for([&] { return accounts->waiting() == static_cast<std::size_t>(i) + 1; });
  }
  const auto none = accounts->open(record("8"), std::nullopt, {});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::unavailable);
  EXPECT_EQ(accounts->troubles().size(), 2u);
  database.full = false;
  wait_for([&] { return accounts->waiting() == 0; });
  EXPECT_EQ(rows().size(), 7u);
  EXPECT_TRUE(accounts->open(record("8"), std::nullopt, {}));
}

TEST_F(AccountsTest, AFolderThatCannotBeUsedIsSaid) {
  auto none = options();
  none.folder = "/proc/nowhere";
  auto accounts = Accounts::open(database, none);
  EXPECT_EQ(accounts->troubles().size(), 1u);
  run(*accounts, record("a"));
  wait_for([&] { return rows().size() == 1; });
}

TEST_F(AccountsTest, TheNextOneSettlesWhatAKilledOneLeft) {
  const auto config = read_limits(R"(
limits: [{scope: global, name: all, kind: budget, dollars: 10, window: total}]
prices: [{model: m, input: 1000, output: 1000}])");
  ASSERT_TRUE(config);
  const Price price{.input = 1'000'000'000'000,
                    .cached_input = 1'000'000'000'000,
                    .output = 1'000'000'000'000,
                    .reasoning = 1'000'000'000'000};
  const Measure measures[] = {Measure::money};
  const pid_t child = ::fork();
  if (child == 0) {
    auto journal = options();
    Moody own(folder.path() + "/state.db");
    auto accounts = Accounts::open(own, journal);
    auto cut = *accounts->open(record("cut"), price, measures);
    cut->prompt({.prompt = 3});
    cut->delivered() = 4;
    auto unheard = *accounts->open(record("unheard"), price, measures);
    unheard->prompt({.prompt = 3});
    ::raise(SIGKILL);
  }
  ASSERT_GT(child, 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));

  // Counts that outlived it, as Redis does.
  auto counters = store::memory_counters();
  const store::Limit budget = rules_for(*config, {}, "m").front().limit;
  for (const std::string id : {"cut", "unheard"})
    ASSERT_TRUE(counters->reserve(id, std::vector<store::Charge>{{budget, 1'000'000'000}})->admitted);

  database.full = true;
  auto accounts = Accounts::open(database, options());
  EXPECT_TRUE(rows().empty());
  const auto waits = *accounts->unwritten();
  ASSERT_EQ(waits.size(), 2u);
  const auto early = budgets_spent(*config, database, store::machine_instant().utc_ms, {.unwritten = waits});
  ASSERT_EQ(early->size(), 1u) << "spent, though the database does not know it yet";
  EXPECT_EQ(early->front().used, 7'000'000);
  EXPECT_EQ(journals(), 2);
  database.full = false;
  accounts->settle_with(*counters);
  EXPECT_EQ(journals(), 1);
  const auto all = rows();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all.at("cut").status, 499);
  EXPECT_EQ(all.at("cut").completion_tokens, 4);
  EXPECT_EQ(all.at("cut").cost_nano, 7'000'000);
  EXPECT_EQ(all.at("cut").tags.front().first, "interrupted");
  EXPECT_EQ(all.at("unheard").cost_nano, 0);
  EXPECT_EQ(budgets_spent(*config, database, store::machine_instant().utc_ms)->front().used, 7'000'000);
  EXPECT_EQ(counters->look({&budget, 1})->front().remaining, 10'000'000'000 - 7'000'000)
      << "and nothing stays reserved";
}

}  // namespace
}  // namespace ashlar::gateway
