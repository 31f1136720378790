#include "store/write_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "base/metrics.h"
#include "base/threads.h"
#include "base/utf8.h"

namespace ashlar::store {
namespace {

// A batch ends here, so that the first of a long queue is not told last.
constexpr std::size_t kBatch = 1024;
constexpr std::size_t kBatchBytes = 4 << 20;
constexpr std::chrono::milliseconds kGather{5};
constexpr std::size_t kMany = 256;  // are not waited for more
constexpr std::chrono::seconds kLate{5};

struct WriteMetrics {
  Counter writes{"database_writes_total", "Lists of statements that were written or refused."};
  Counter failed{"database_writes_failed_total", "Of those, the ones that ended in an error."};
  Counter batches{"database_batches_total", "Groups that they were written in."};
  Counter refused{"database_writes_refused_total", "Lists not taken because too much waits."};
  Gauge waiting{"database_writes_waiting", "Lists that wait to be written."};
};
WriteMetrics& metrics() {
  static WriteMetrics all;
  return all;
}

std::size_t weight(const Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return text->size();
  if (const auto* blob = std::get_if<Blob>(&value)) return blob->bytes.size();
  return 0;
}

std::size_t weight(const std::vector<Statement>& statements) {
  std::size_t bytes = sizeof(Write);
  for (const Statement& each : statements) {
    bytes += sizeof(Statement) + each.sql.size() + each.args.size() * sizeof(Value);
    for (const Value& value : each.args) bytes += weight(value);
  }
  return bytes;
}

}  // namespace

Status check_values(const Values& values) {
  for (const Value& value : values) {
    const auto* number = std::get_if<double>(&value);
    if (number != nullptr && std::isnan(*number))
      return Error{Code::invalid, "a number for the database is not one (NaN)"};
    const auto* text = std::get_if<std::string>(&value);
    if (text != nullptr && (text->find('\0') != std::string::npos || !utf8::is_valid(*text)))
      return Error{Code::invalid, "a text for the database is not UTF-8, or has a NUL character"};
  }
  return {};
}

WriteQueue::WriteQueue(const DatabaseOptions& options, Batch batch)
    : max_waiting_(options.max_waiting),
      max_waiting_bytes_(options.max_waiting_bytes),
      patience_(std::max(options.statement_timeout, options.busy_timeout)),
      batch_(std::move(batch)),
      thread_([this] { work(); }) {}

WriteQueue::~WriteQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    stop_by_ = Clock::now() + patience_;
  }
  came_.notify_all();
}

Status WriteQueue::write_later(std::vector<Statement> statements, Database::Done done) {
  TRY(push({.statements = std::move(statements), .done = std::move(done), .outcome = {}}));
  return {};
}

Result<std::uint64_t> WriteQueue::push(Write write) {
  for (const Statement& each : write.statements) TRY(check_values(each.args));
  write.bytes = weight(write.statements);
  if (write.bytes > max_waiting_bytes_)
    return Error{Code::too_large, fmt::format("one write to the database holds at most {} bytes", max_waiting_bytes_)};
  bool tell = false;
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    if (waiting_count_ >= max_waiting_ || waiting_bytes_ + write.bytes > max_waiting_bytes_) {
      metrics().refused.add();
      return Error{Code::unavailable,
                   fmt::format("the database is behind: {} writes wait already; try again", waiting_count_)};
    }
    const bool idle = told_ == number_;
    write.number = number = ++number_;
    if (idle) {
      mark_ = number;
      mark_at_ = Clock::now();
    }
    ++waiting_count_;
    waiting_bytes_ += write.bytes;
    metrics().waiting.set(static_cast<double>(waiting_count_));
    awaited_ += write.awaited;
    tell = write.awaited || waiting_.empty() || waiting_.size() + 1 == kMany;
    waiting_.push_back(std::move(write));
  }
  if (tell) came_.notify_one();
  return number;
}

// Whether it had not been begun, and never will be.
bool WriteQueue::withdraw(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(waiting_, number, &Write::number);
  if (found == waiting_.end()) return false;
  awaited_ -= found->awaited;
  count_out(1, found->bytes);
  waiting_.erase(found);
  return true;
}

Status WriteQueue::drain() {
  std::unique_lock lock(mutex_);
  const std::uint64_t last = number_;
  if (told_some_.wait_for(lock, patience_, [&] { return told_ >= last; })) return {};
  return Error{Code::deadline, fmt::format("the database is behind: {} writes wait", waiting_count_)};
}

Status WriteQueue::health() const {
  const std::lock_guard lock(mutex_);
  const auto age = std::chrono::floor<std::chrono::seconds>(Clock::now() - mark_at_);
  if (told_ == number_ || age < kLate) return {};
  return Error{Code::unavailable, fmt::format("the database is slow or does not answer: {} writes wait, some for {} s",
                                              waiting_count_, age.count())};
}

Database::Written WriteQueue::wait_for(std::vector<Statement> statements, bool unhurried) {
  CHECK(std::this_thread::get_id() != thread_.get_id(), "transact() inside a write's `done` would wait for itself");
  struct Answer {
    std::mutex mutex;
    std::condition_variable came;
    std::optional<Database::Written> written;
  };
  const auto answer = std::make_shared<Answer>();
  const auto number = TRY(push({.statements = std::move(statements),
                                .done =
                                    [answer](Database::Written written) {
                                      const std::lock_guard lock(answer->mutex);
                                      answer->written = std::move(written);
                                      answer->came.notify_one();
                                    },
                                .unhurried = unhurried,
                                .awaited = true,
                                .outcome = {}}));
  std::unique_lock lock(answer->mutex);
  const auto there = [&] { return answer->written.has_value(); };
  if (unhurried) answer->came.wait(lock, there);
  if (answer->came.wait_for(lock, patience_, there)) return *std::move(answer->written);
  if (withdraw(number))
    return Error{Code::unavailable, "the database is behind: this was not written, for too much waits before it"};
  if (answer->came.wait_for(lock, 2 * patience_, there)) return *std::move(answer->written);
  return Error{Code::unavailable, "the database does not answer; the write may be there or not"};
}

std::vector<Write> WriteQueue::next_batch() {
  std::unique_lock lock(mutex_);
  came_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
  came_.wait_for(lock, kGather, [this] { return stopping_ || awaited_ > 0 || waiting_.size() >= kMany; });
  std::vector<Write> batch;
  for (std::size_t bytes = 0; !waiting_.empty() && batch.size() < kBatch && bytes < kBatchBytes; waiting_.pop_front()) {
    bytes += waiting_.front().bytes;
    awaited_ -= waiting_.front().awaited;
    batch.push_back(std::move(waiting_.front()));
  }
  return batch;
}

// Under mutex_.
void WriteQueue::count_out(std::size_t writes, std::size_t bytes) {
  waiting_count_ -= writes;
  waiting_bytes_ -= bytes;
  metrics().waiting.set(static_cast<double>(waiting_count_));
}

// All of the batch were told.
void WriteQueue::told() {
  {
    const std::lock_guard lock(mutex_);
    told_ = waiting_.empty() ? number_ : waiting_.front().number - 1;
    if (told_ >= mark_) {
      mark_ = number_;
      mark_at_ = Clock::now();
    }
  }
  told_some_.notify_all();
}

bool WriteQueue::is_too_late() {
  const std::lock_guard lock(mutex_);
  return stopping_ && Clock::now() >= stop_by_;
}

void WriteQueue::work() {
  begin_thread("ashlar-database");
  for (std::vector<Write> batch; !(batch = next_batch()).empty();) {
    if (is_too_late())
      for (Write& each : batch) each.outcome = Error{Code::cancelled, "the program ends, and the database is behind"};
    else
      batch_(batch);
    metrics().batches.add();
    metrics().writes.add(batch.size());
    std::size_t bytes = 0;
    for (const Write& each : batch) bytes += each.bytes;
    {
      const std::lock_guard lock(mutex_);
      count_out(batch.size(), bytes);
    }
    for (Write& each : batch) {
      CHECK(each.outcome.has_value(), "a batch gives each write its outcome");
      if (!*each.outcome) metrics().failed.add();
      if (each.done) each.done(*std::move(each.outcome));
    }
    told();
  }
}

}  // namespace ashlar::store
