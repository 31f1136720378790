#include "engine/desk.h"

#include <algorithm>
#include <utility>

namespace ashlar::engine {

std::optional<Generator::Refusal> Desk::submit(std::unique_ptr<Job>& job, Clock::time_point now) {
  {
    std::lock_guard lock(mutex_);
    if (draining_)
      return Generator::Refusal{{Code::unavailable, "the server is shutting down"}, std::chrono::seconds(1)};
    if (auto refusal = admission_.refuse(job->entry, job->deadline, now, pace_)) return refusal;
    admission_.enter(job->entry);
    ++unfinished_;
    if (job->entry.priority < 0) urgent_ = true;
    incoming_.push_back(std::move(job));
    news_ = true;
  }
  work_.notify_one();
  return std::nullopt;
}

std::optional<Generator::Refusal> Desk::refuse(const Admission::Entry& entry, Clock::time_point deadline,
                                               Clock::time_point now) const {
  std::lock_guard lock(mutex_);
  return admission_.refuse(entry, deadline, now, pace_);
}

void Desk::notice_closed() {
  {
    std::lock_guard lock(mutex_);
    closed_ = news_ = true;
  }
  work_.notify_one();
}

void Desk::collect(News& news, bool busy) {
  news.jobs.clear();
  news.closed = news.abandon = news.stop = false;
  if (busy && !news_) return;
  std::unique_lock lock(mutex_);
  if (!busy) work_.wait(lock, [&] { return !incoming_.empty() || closed_ || abandon_ || stop_; });
  news_ = urgent_ = false;
  std::swap(news.jobs, incoming_);
  news.closed = std::exchange(closed_, false);
  news.abandon = std::exchange(abandon_, false);
  news.stop = stop_;
}

void Desk::collect_urgent(std::vector<std::unique_ptr<Job>>& jobs) {
  jobs.clear();
  if (!urgent_) return;
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  urgent_ = false;
  const auto rest = std::ranges::stable_partition(incoming_, [](const auto& job) { return job->entry.priority >= 0; });
  std::ranges::move(rest, std::back_inserter(jobs));
  incoming_.erase(rest.begin(), rest.end());
}

void Desk::report(const Report& report, bool wait) {
  bool all_done = false;
  {
    std::unique_lock lock(mutex_, std::defer_lock);
    if (wait) {
      lock.lock();
    } else if (!lock.try_lock()) {
      return;
    }
    if (report.seconds > 0) pace_.step(report.now, report.seconds, report.prompt_rows, report.decodes, report.accepted);
    for (const int tokens : report.answers) pace_.ended(tokens);
    for (const auto& [tokens, cached] : report.prompts) pace_.began(tokens, cached);
    for (const Admission::Entry& entry : report.begun) admission_.leave(entry);
    admission_.occupy(report.occupancy);
    load_ = report.load;
    unfinished_ -= report.finished;
    all_done = unfinished_ == 0;
  }
  if (all_done && report.finished > 0) idle_.notify_all();
}

Generator::Load Desk::load(Clock::time_point now) const {
  std::lock_guard lock(mutex_);
  Generator::Load load = load_;
  load.waiting += static_cast<int>(incoming_.size());
  const Pace::Throughput throughput = pace_.throughput(now);
  load.prefill_tokens_per_second = throughput.prompt;
  load.decode_tokens_per_second = throughput.answer;
  return load;
}

bool Desk::drain(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const auto done = [&] { return unfinished_ == 0; };
  // wait_until with time_point::max() overflows inside some libraries.
  const bool finished =
      deadline == Clock::time_point::max() ? (idle_.wait(lock, done), true) : idle_.wait_until(lock, deadline, done);
  if (finished) return true;
  abandon_ = news_ = true;
  work_.notify_one();
  idle_.wait(lock, done);
  return false;
}

bool Desk::draining() const {
  std::lock_guard lock(mutex_);
  return draining_;
}

void Desk::stop() {
  {
    std::lock_guard lock(mutex_);
    draining_ = stop_ = news_ = true;
  }
  work_.notify_one();
}

}  // namespace ashlar::engine
