#include "store/postgres_database.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "store/pool.h"
#include "store/postgres.h"
#include "store/write_queue.h"

namespace ashlar::store {
namespace {

constexpr std::chrono::milliseconds kFirstPause{50};
// Of a list that meets a deadlock, and the pauses between, so that two do not meet again and again.
constexpr int kTries = 10, kLongestPauseMs = 20;

// Connections to one server; while it is down, who asks is told at once, and only now
// and then somebody really tries. Any thread.
class Door {
 public:
  Door(std::string url, std::string name, const DatabaseOptions& options)
      : url_(std::move(url)), name_(std::move(name)), options_(options) {}

  const std::string& name() const { return name_; }

  Result<std::unique_ptr<Postgres>> connect(Postgres::Mode mode) {
    {
      const std::lock_guard lock(mutex_);
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_try_ - Clock::now());
      if (left.count() > 0 || (trying_ && !last_refusal_.empty()))
        return Error{Code::unavailable, fmt::format("{}: {} (it is tried again in {} ms)", name_, last_refusal_,
                                                    std::max<std::int64_t>(0, left.count()))};
      trying_ = true;
    }
    auto made = Postgres::connect(url_, mode, options_);
    const std::lock_guard lock(mutex_);
    trying_ = false;
    if (made) {
      if (!last_refusal_.empty()) log::info("database_back", {{"database", name_}});
      pause_ = kFirstPause;
      last_refusal_.clear();
      return made;
    }
    if (last_refusal_.empty()) log::error("database_down", {{"database", name_}, {"error", made.error().message}});
    last_refusal_ = made.error().message;
    if (Clock::now() >= next_try_) {
      // Not all of a fleet at the same moment.
      next_try_ = Clock::now() + pause_ * std::uniform_int_distribution<int>(75, 125)(random_) / 100;
      pause_ = std::min(pause_ * 2, options_.longest_backoff);
    }
    return Error{made.error().code, fmt::format("{}: {}", name_, made.error().message)};
  }

 private:
  using Clock = std::chrono::steady_clock;
  const std::string url_, name_;
  const DatabaseOptions options_;
  std::mutex mutex_;
  Clock::time_point next_try_;
  bool trying_ = false;
  std::chrono::milliseconds pause_ = kFirstPause;
  std::string last_refusal_;
  std::minstd_rand random_{std::random_device()()};
};

class PostgresDatabase final : public Database {
 public:
  PostgresDatabase(std::string url, std::string name, const DatabaseOptions& options)
      : options_(options),
        door_(std::move(url), std::move(name), options),
        readers_(options.readers, [this] { return door_.connect(Postgres::Mode::read); }),
        queue_(options, [this](std::vector<Write>& batch) { write(batch); }) {}

  Result<Rows> query(std::string_view sql, Values args) override {
    TRY(check_values(args));
    const Statement statement{.sql = std::string(sql), .args = std::move(args)};
    for (bool again = true;; again = false) {
      const auto reader = TRY(readers_.borrow(options_.statement_timeout));
      auto rows = reader->read(statement);
      // The server was started anew, say. A read may be asked twice.
      if (!rows && again && rows.error().code == Code::unavailable && !reader->is_whole()) continue;
      return rows;
    }
  }

  Written transact(std::vector<Statement> statements, bool unhurried) override {
    return queue_.wait_for(std::move(statements), unhurried);
  }

  Status write_later(std::vector<Statement> statements, Done done) override {
    return queue_.write_later(std::move(statements), std::move(done));
  }

  Status backup(const std::string&) override {
    return Error{
        Code::unsupported,
        fmt::format("{}: a PostgreSQL database is copied by its own tools: pg_dump --format=custom --file=FILE "
                    "DATABASE, and pg_restore --clean --if-exists --dbname=DATABASE FILE",
                    name())};
  }

  Dialect dialect() const override { return Dialect::postgres; }
  const std::string& name() const override { return door_.name(); }
  Status drain() override { return queue_.drain(); }
  Status health() const override { return queue_.health(); }

 private:
  void write(std::vector<Write>& batch) {
    std::vector<Write*> left;
    for (Write& each : batch) left.push_back(&each);
    write(left, /*last=*/false);
    for (Write& each : batch) {
      std::vector<Write*> alone = {&each};
      for (int i = 1; !each.outcome; ++i) {
        std::this_thread::sleep_for(
            std::chrono::milliseconds(std::uniform_int_distribution<int>(1, kLongestPauseMs)(random_)));
        write(alone, i == kTries);
      }
    }
  }

  void write(std::vector<Write*>& batch, bool last) {
    if (writer_ != nullptr && !writer_->is_whole()) writer_.reset();
    if (writer_ == nullptr) {
      auto made = door_.connect(Postgres::Mode::write);
      if (!made) {
        for (Write* const each : batch) each->outcome = made.error();
        return;
      }
      writer_ = *std::move(made);
    }
    writer_->write(batch, last);
  }

  const DatabaseOptions options_;
  Door door_;
  std::unique_ptr<Postgres> writer_;  // the queue's thread, as the next
  std::minstd_rand random_{std::random_device()()};
  Pool<Postgres> readers_;
  WriteQueue queue_;
};

// The address without its password.
Result<std::string> name_of(const Pq& pq, const std::string& url) {
  char* refusal = nullptr;
  PQconninfoOption* const all = pq.PQconninfoParse(url.c_str(), &refusal);
  pq.PQfreemem(refusal);  // it may quote the password
  if (all == nullptr)
    return Error{Code::invalid, "the database's address is not understood: postgres://USER:PASSWORD@HOST:PORT/NAME"};
  const auto part = [all](std::string_view keyword) -> std::string {
    for (const PQconninfoOption* each = all; each->keyword != nullptr; ++each)
      if (keyword == each->keyword && each->val != nullptr) return each->val;
    return "";
  };
  const std::string host = part("host"), port = part("port"), name = part("dbname");
  pq.PQconninfoFree(all);
  return fmt::format("postgresql://{}{}{}/{}", host, port.empty() ? "" : ":", port, name);
}

}  // namespace

bool is_postgres(const std::string& where) {
  return where.starts_with("postgres://") || where.starts_with("postgresql://");
}

Result<std::unique_ptr<Database>> open_postgres(const std::string& url, const DatabaseOptions& options) {
  const Pq& pq = *TRY(load_pq());
  auto name = TRY(name_of(pq, url));
  return std::make_unique<PostgresDatabase>(url, std::move(name), options);
}

}  // namespace ashlar::store
