// The engine thread's work: takes jobs from the desk, computes step after step,
// and tells each job's sink what came of it.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "engine/batch.h"
#include "engine/compute_lock.h"
#include "engine/desk.h"
#include "engine/engine_metrics.h"
#include "engine/kv_cache.h"
#include "engine/scheduler.h"
#include "engine/speculation.h"

namespace ashlar::engine {

// What a runner works with. Everything is borrowed but the store and the
// drafter, and must outlive it.
struct Workshop {
  models::Model& model;
  const text::Tokenizer& tokenizer;
  std::unique_ptr<models::KvStore> store;
  std::unique_ptr<ModelDrafter> drafter;  // null: no draft model
  ThreadPool* pool = nullptr;             // for sampling; null: on the engine thread alone
  ComputeLock* turns = nullptr;           // held while computing; null: the machine is ours
  std::function<Clock::time_point()> clock;
  Desk& desk;
  EngineMetrics& metrics;
};

// Engine thread only.
class Runner {
 public:
  // `speculative_batch`: nothing is guessed in a step of more answers.
  Runner(Workshop workshop, SchedulerOptions options, bool prefix_caching, std::chrono::milliseconds max_queue_wait,
         int speculative_batch);

  // Until the desk says stop; then what is left has failed.
  void run();

  // Any thread may ask.
  std::shared_ptr<const CachedPrefixes> cached_prefixes() const { return cache_.book(); }

 private:
  // Tokens to be chosen for one answer: from a row of logits, then, as long as the
  // guesses are right, from the rows that follow them.
  struct Run {
    Choice* choice = nullptr;
    std::size_t row = 0;
    int drafted = 0;
    std::size_t first = 0;  // its place in sampled_
    int length = 0;         // tokens that were chosen
  };

  void turn(Desk::News& news);
  void recover(const char* problem, const Plan* plan, Code code);
  void adopt(std::unique_ptr<Job> job);
  void sweep_closed();
  void expire();
  void step();
  bool urgent_step();
  void compute_urgent(const Plan& plan);
  void amid();
  void note_begun(const Plan& plan);
  void compute();
  void draw_all(const Batch& batch);
  void plan_run(Choice& choice, std::size_t row, int drafted);
  void draw(const Batch& batch, Run& run, Sampler::Scratch& scratch);
  void score(const Batch& batch, std::size_t row);
  void deliver(const Batch& batch);
  void deliver(const Run& run);
  bool begin_answers(Job& job);
  void push_token(Choice& choice, Sampler::Sampled&& sampled, Clock::duration gap);
  void fail_all(const Error& error);
  void fail(Job& job, Error error, std::chrono::milliseconds retry_after = {}, Dropped dropped = Dropped::no);
  void end_choice(Choice& choice, ChoiceEnd end);
  void finish(Job& job);
  void abort(Job& job);
  void retire(Job& job);
  void report();
  TokenLogprob describe(std::int32_t id, const RawLogprobs& logprobs) const;

  Workshop shop_;
  std::chrono::milliseconds max_queue_wait_;
  KvCache cache_;
  Scheduler scheduler_;
  Batch batch_, urgent_batch_;
  Speculator speculator_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<std::unique_ptr<Job>> urgent_jobs_;  // that just came, in the middle of a step
  std::vector<std::unique_ptr<Job>> retired_;      // may still be named by this step's lists
  std::set<std::pair<Clock::time_point, Job*>> deadlines_;
  std::vector<Run> runs_;
  std::vector<Result<Sampler::Sampled>> sampled_;  // [runs_, 1 + drafted]
  std::vector<Sampler::Scratch> scratch_;          // one for each thread of the pool
  const Plan* plan_ = nullptr;
  Desk::Report report_;
  Clock::time_point started_, now_;                              // of this turn; as of the last event
  Clock::time_point oldest_waiting_ = Clock::time_point::max();  // nobody who waits arrived before
  Clock::duration computing_{};  // in guessing, the forward pass and sampling, this turn
  Clock::duration amid_{};       // of that, what urgent requests took of the step in whose middle they came
  const std::function<void()> pause_ = [this] { amid(); };
  int failed_in_a_row_ = 0;
};

}  // namespace ashlar::engine
