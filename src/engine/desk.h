// Where callers' threads meet the engine thread: the bounded queue, admission,
// drain, and what load() shows. Every member may be called from any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/admission.h"
#include "engine/job.h"
#include "engine/pace.h"

namespace ashlar::engine {

class Desk {
 public:
  explicit Desk(AdmissionLimits limits) : admission_(limits) {}

  // Queues the job, or says why not (and leaves it).
  std::optional<Generator::Refusal> submit(std::unique_ptr<Job>& job, Clock::time_point now);
  // Why submit() would refuse it now, as far as that is known without its prompt.
  std::optional<Generator::Refusal> refuse(const Admission::Entry& entry, Clock::time_point deadline,
                                           Clock::time_point now) const;
  // Some outlet was closed.
  void notice_closed();

  // For the engine thread. Waits while there is nothing to do, unless `busy`: then
  // it takes the lock only when there is news.
  struct News {
    std::vector<std::unique_ptr<Job>> jobs;
    bool closed = false;   // some outlet was
    bool abandon = false;  // fail all that is left
    bool stop = false;     // and end
  };
  void collect(News& news, bool busy);

  // The urgent ones (of priority below 0) among those that came. In the middle of a step: nothing is taken while
  // somebody else is at the desk.
  void collect_urgent(std::vector<std::unique_ptr<Job>>& jobs);

  // What a step did.
  struct Report {
    Clock::time_point now;
    double seconds = 0;  // 0: no step
    int prompt_rows = 0, decodes = 0;
    int accepted = 0;  // tokens that came beside those of the decodes, by guesses that were right
    Occupancy occupancy;
    Generator::Load load;                 // rates are filled in by load()
    std::vector<Admission::Entry> begun;  // that wait no more
    std::vector<int> answers;             // lengths of those that ended
    struct Prompt {
      int tokens = 0, cached = 0;
    };
    std::vector<Prompt> prompts;  // of those that began
    int finished = 0;             // jobs
  };
  // Nothing is taken while somebody else is at the desk, unless `wait`.
  void report(const Report& report, bool wait);

  Generator::Load load(Clock::time_point now) const;

  // Admits nobody from now on. true: all that was admitted has ended by `deadline`;
  // else the rest is failed.
  bool drain(Clock::time_point deadline);
  bool draining() const;
  void stop();

 private:
  mutable std::mutex mutex_;
  std::condition_variable work_, idle_;
  std::vector<std::unique_ptr<Job>> incoming_;
  Admission admission_;
  Pace pace_;
  Generator::Load load_;
  int unfinished_ = 0;
  std::atomic<bool> news_{false};    // something for collect(); written under the lock
  std::atomic<bool> urgent_{false};  // the same for collect_urgent()
  bool closed_ = false, draining_ = false, abandon_ = false, stop_ = false;
};

}  // namespace ashlar::engine
