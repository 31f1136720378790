#include "engine/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <new>

#include "base/log.h"

namespace ashlar::engine {
namespace {

constexpr int kWorthSharing = 1 << 16;  // logits to sample from in one step: some tens of microseconds
constexpr int kUnhealthyAfter = 5;      // steps failed one after the other

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

Runner::Runner(Workshop workshop, SchedulerOptions options, bool prefix_caching,
               std::chrono::milliseconds max_queue_wait, int speculative_batch)
    : shop_(std::move(workshop)),
      max_queue_wait_(max_queue_wait),
      cache_(*shop_.store, prefix_caching),
      scheduler_(options, cache_),
      batch_(shop_.model.shape().vocabulary, std::min(shop_.model.shape().vocabulary, shop_.tokenizer.size())),
      urgent_batch_(batch_),
      speculator_(speculative_batch, std::move(shop_.drafter), shop_.turns),
      scratch_(shop_.pool != nullptr ? static_cast<std::size_t>(shop_.pool->size()) : 1),
      now_(shop_.clock()) {}

void Runner::run() {
  Desk::News news;
  do {
    shop_.desk.collect(news, !scheduler_.idle());
    plan_ = nullptr;
    try {
      turn(news);
    } catch (const std::bad_alloc& problem) {
      recover(problem.what(), plan_, Code::unavailable);
    } catch (const std::exception& problem) {
      recover(problem.what(), plan_, Code::internal);
    } catch (...) {
      recover("unknown exception", plan_, Code::internal);
    }
    report();
    retired_.clear();
  } while (!news.stop);
}

void Runner::turn(Desk::News& news) {
  now_ = started_ = shop_.clock();
  for (std::unique_ptr<Job>& job : news.jobs) adopt(std::move(job));
  if (news.closed) sweep_closed();
  if (news.stop || news.abandon) fail_all({Code::unavailable, "the server is shutting down"});
  expire();
  if (!scheduler_.idle()) step();
}

// An exception costs the requests that were in the step, not the engine.
void Runner::recover(const char* problem, const Plan* plan, Code code) {
  log::error("step_failed", {{"error", problem}});
  ++failed_in_a_row_;
  shop_.metrics.failed_steps.add();
  if (plan == nullptr) return fail_all({code, "the engine failed between two steps"});
  for (const Plan::Item& item : plan->items)
    fail(static_cast<Choice&>(*item.sequence).job, {code, "the model failed while computing this request"});
}

void Runner::adopt(std::unique_ptr<Job> job) {
  Job& adopted = *job;
  adopted.slot = jobs_.size();
  jobs_.push_back(std::move(job));
  oldest_waiting_ = std::min(oldest_waiting_, adopted.arrived);
  if (adopted.deadline != Clock::time_point::max()) deadlines_.emplace(adopted.deadline, &adopted);
  scheduler_.add(*adopted.choices[0]);
}

void Runner::sweep_closed() {
  for (std::size_t i = jobs_.size(); i-- > 0;)
    if (jobs_[i]->outlet->closed()) abort(*jobs_[i]);
}

void Runner::expire() {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_) {
    Job& job = *deadlines_.begin()->second;
    int tokens = 0;
    for (const auto& choice : job.choices) tokens += choice->answer.tokens();
    fail(job,
         {Code::deadline,
          fmt::format("the deadline passed {:.1f} s after the request arrived, {}", seconds(now_ - job.arrived),
                      job.began ? fmt::format("with {} tokens generated", tokens) : "still in the queue")},
         {}, job.began ? Dropped::no : Dropped::expired);
  }
  if (max_queue_wait_.count() == 0 || now_ - oldest_waiting_ <= max_queue_wait_) return;
  oldest_waiting_ = now_;
  for (std::size_t i = jobs_.size(); i-- > 0;) {
    Job& job = *jobs_[i];
    if (job.began) continue;
    if (now_ - job.arrived <= max_queue_wait_) {
      oldest_waiting_ = std::min(oldest_waiting_, job.arrived);
      continue;
    }
    fail(job,
         {Code::unavailable, fmt::format("overloaded: the request waited {:.1f} s, longer than max_queue_wait",
                                         seconds(now_ - job.arrived))},
         std::chrono::seconds(1), Dropped::expired);
  }
}

void Runner::step() {
  while (urgent_step()) {
  }
  if (scheduler_.idle()) return;
  const Clock::time_point begin = shop_.clock();
  speculator_.propose(scheduler_.sequences());
  const Clock::duration guessing = shop_.clock() - begin;
  const Plan& plan = scheduler_.plan();
  plan_ = &plan;
  CHECK(!plan.items.empty(), "whoever is ranked first can always go on");
  note_begun(plan);
  batch_.build(plan);
  amid_ = {};
  const Clock::time_point before = shop_.clock();
  compute();
  now_ = shop_.clock();
  const Clock::duration took = guessing + (now_ - before);
  computing_ += took;
  scheduler_.commit(seconds(took - amid_));
  cache_.publish(/*wait=*/false);
  deliver(batch_);
  failed_in_a_row_ = 0;
}

void Runner::note_begun(const Plan& plan) {
  EngineMetrics& metrics = shop_.metrics;
  for (const Plan::Item& item : plan.items) {
    const auto& choice = static_cast<const Choice&>(*item.sequence);
    Job& job = choice.job;
    if (job.began) continue;
    job.began = now_;
    report_.begun.push_back(job.entry);
    report_.prompts.push_back({.tokens = job.prompt_tokens, .cached = choice.prefix_hit});
    metrics.queue_time.observe(seconds(now_ - job.arrived));
    metrics.prompt_tokens.add(static_cast<std::uint64_t>(job.prompt_tokens));
    if (!choice.reuse_prefix) continue;
    metrics.prefix_queries.add(static_cast<std::uint64_t>(job.prompt_tokens));
    metrics.prefix_hits.add(static_cast<std::uint64_t>(choice.prefix_hit));
  }
  metrics.preemptions.add(plan.preempted.size());
  for (Sequence* preempted : plan.preempted) speculator_.leave(static_cast<Choice&>(*preempted));
  metrics.prefix_waits.add(static_cast<std::uint64_t>(plan.followers));
  metrics.iteration_tokens.observe(plan.tokens);
  metrics.steps.add();
  report_.prompt_rows += plan.tokens - plan.decodes - plan.drafted;
  report_.decodes += plan.decodes;
}

void Runner::compute() {
  std::unique_lock<ComputeLock> turn;
  if (shop_.turns != nullptr) turn = std::unique_lock(*shop_.turns);
  batch_.forward(shop_.model, *shop_.store, &pause_);
  draw_all(batch_);
}

// Every row's token or score, spread over the pool.
void Runner::draw_all(const Batch& batch) {
  runs_.clear();
  sampled_.clear();
  const std::span<const Batch::Row> rows = batch.rows();
  for (std::size_t row = 0; row < rows.size(); row += 1 + static_cast<std::size_t>(rows[row].drafted)) {
    Choice& choice = *rows[row].choice;
    if (!rows[row].last) {
      score(batch, row);
    } else if (choice.job.first_token) {
      plan_run(choice, row, rows[row].drafted);
    } else if (choice.job.max_tokens > 0) {
      for (const auto& other : choice.job.choices) plan_run(*other, row, 0);
    }
  }
  const auto draw_one = [&](int index, int worker) {
    draw(batch, runs_[static_cast<std::size_t>(index)], scratch_[static_cast<std::size_t>(worker)]);
  };
  const int count = static_cast<int>(runs_.size());
  if (shop_.pool != nullptr && count * batch.usable() >= kWorthSharing) {
    shop_.pool->for_each(count, draw_one);
  } else {
    for (int index = 0; index < count; ++index) draw_one(index, 0);
  }
}

void Runner::plan_run(Choice& choice, std::size_t row, int drafted) {
  runs_.push_back({.choice = &choice, .row = row, .drafted = drafted, .first = sampled_.size()});
  sampled_.resize(sampled_.size() + 1 + static_cast<std::size_t>(drafted));
}

// Draws as without any guess, and goes on as long as what was drawn is what was guessed.
void Runner::draw(const Batch& batch, Run& run, Sampler::Scratch& scratch) {
  Choice& choice = *run.choice;
  for (bool right = true; right; ++run.length) {
    const auto next = static_cast<std::size_t>(run.length);
    Result<Sampler::Sampled>& sampled = sampled_[run.first + next];
    sampled = choice.sampler.sample(batch.logits(run.row + next), scratch);
    right = sampled && run.length < run.drafted && sampled->id == choice.draft[next];
  }
}

// The prompt's next token under this row's logits.
void Runner::score(const Batch& batch, std::size_t row) {
  const Choice& choice = *batch.rows()[row].choice;
  Job& job = choice.job;
  const std::span<const float> logits = batch.logits(row);
  if (!all_finite(logits)) {
    job.broken = true;
    return;
  }
  if (job.prompt_scores.empty()) job.prompt_scores.push_back(describe(choice.tokens[0], {}));
  const std::int32_t next = choice.tokens[static_cast<std::size_t>(batch.rows()[row].position) + 1];
  job.prompt_scores.push_back(describe(next, raw_logprobs(logits, next, job.prompt_logprobs)));
}

void Runner::deliver(const Batch& batch) {
  for (const Batch::Row& row : batch.rows()) {
    Job& job = row.choice->job;
    if (job.broken) fail(job, Sampler::not_finite());
    // A prompt that ends here without a token to choose.
    if (!row.last || job.max_tokens > 0 || job.open_choices == 0 || !begin_answers(job)) continue;
    for (const auto& choice : job.choices)
      end_choice(*choice, {.choice = choice->index, .reason = FinishReason::length});
  }
  for (const Run& run : runs_) deliver(run);
}

void Runner::deliver(const Run& run) {
  Choice& choice = *run.choice;
  Job& job = choice.job;
  EngineMetrics& metrics = shop_.metrics;
  if (run.drafted > 0) {
    metrics.drafts.add();
    metrics.drafted_tokens.add(static_cast<std::uint64_t>(run.drafted));
    metrics.accepted_tokens.add(static_cast<std::uint64_t>(run.length) - 1);
    report_.accepted += run.length - 1;
    speculator_.learn(choice, run.drafted, run.length - 1);
  }
  // Tokens that came together share the time since the one before.
  const Clock::duration gap = (now_ - choice.last_token) / run.length;
  for (int i = 0; i < run.length; ++i) {
    if (job.open_choices == 0) return;  // failed or aborted, by this run or an earlier one of this step
    if (i > 0) {
      if (choice.state != Sequence::State::running) return;  // ended by the token before
      scheduler_.accept(choice);
    }
    Result<Sampler::Sampled>& sampled = sampled_[run.first + static_cast<std::size_t>(i)];
    if (!sampled) return fail(job, sampled.error());
    if (!job.first_token && !begin_answers(job)) return;
    push_token(choice, *std::move(sampled), gap);
  }
}

// The prompt is computed: says so, and the other choices continue from it. false: nobody listens any more.
bool Runner::begin_answers(Job& job) {
  const Choice& first = *job.choices[0];
  job.first_token = now_;
  shop_.metrics.first_token.observe(seconds(now_ - job.arrived));
  Started started{.prompt_tokens = job.prompt_tokens, .cached_tokens = first.prefix_hit, .asked = job.queued};
  if (job.give_prompt_ids) started.prompt_ids.assign(first.tokens.begin(), first.tokens.begin() + job.prompt_tokens);
  if (job.prompt_logprobs >= 0 && job.prompt_scores.empty()) job.prompt_scores.push_back(describe(first.tokens[0], {}));
  started.prompt_logprobs = std::move(job.prompt_scores);
  bool heard = job.outlet->send(std::move(started));
  for (const auto& choice : job.choices)
    if (heard && job.echo) heard = job.outlet->send(Text{.choice = choice->index, .text = *job.echo});
  if (!heard) {
    abort(job);
    return false;
  }
  if (job.max_tokens > 0)
    for (std::size_t i = 1; i < job.choices.size(); ++i) {
      job.choices[i]->tokens = first.tokens;
      scheduler_.fork(first, *job.choices[i]);
    }
  return true;
}

void Runner::push_token(Choice& choice, Sampler::Sampled&& sampled, Clock::duration gap) {
  Job& job = choice.job;
  EngineMetrics& metrics = shop_.metrics;
  metrics.generation_tokens.add();
  if (choice.answer.tokens() > 0) {
    metrics.inter_token.observe(seconds(gap));
    metrics.per_token.observe(seconds(gap));
  }
  choice.last_token = now_;
  choice.tokens.push_back(sampled.id);
  std::optional<TokenLogprob> logprob;
  if (job.logprobs >= 0) logprob = describe(sampled.id, sampled.logprobs);
  Answer::Progress progress = choice.answer.push(sampled.id, std::move(logprob));
  if (progress.text && !job.outlet->send(*std::move(progress.text))) return abort(job);
  if (progress.end) end_choice(choice, *std::move(progress.end));
}

void Runner::end_choice(Choice& choice, ChoiceEnd end) {
  Job& job = choice.job;
  scheduler_.remove(choice);
  speculator_.leave(choice);
  if (job.max_tokens > 0) report_.answers.push_back(choice.answer.tokens());
  job.reason = end.reason;
  if (!job.outlet->send(std::move(end))) return abort(job);
  if (--job.open_choices == 0) finish(job);
}

void Runner::finish(Job& job) {
  Finished finished{.usage = {.prompt_tokens = job.prompt_tokens, .cached_tokens = job.choices[0]->prefix_hit}};
  for (const auto& choice : job.choices) {
    finished.usage.completion_tokens += choice->answer.tokens();
    finished.usage.accepted_tokens += choice->guesses.accepted;
    finished.usage.rejected_tokens += choice->guesses.rejected;
  }
  finished.queue_seconds = seconds(*job.began - job.arrived);
  finished.prefill_seconds = seconds(*job.first_token - *job.began);
  finished.decode_seconds = seconds(now_ - *job.first_token);
  shop_.metrics.request_done(job, now_, finished.usage.completion_tokens);
  job.outlet->send(finished);
  retire(job);
}

void Runner::abort(Job& job) {
  if (job.slot >= jobs_.size() || jobs_[job.slot].get() != &job) return;
  shop_.metrics.success_abort.add();
  retire(job);
}

void Runner::fail(Job& job, Error error, std::chrono::milliseconds retry_after, Dropped dropped) {
  if (job.slot >= jobs_.size() || jobs_[job.slot].get() != &job) return;  // ended earlier in this step
  shop_.metrics.failed.add();
  job.outlet->send(Failed{.error = std::move(error), .retry_after = retry_after, .dropped = dropped});
  retire(job);
}

void Runner::fail_all(const Error& error) {
  while (!jobs_.empty()) fail(*jobs_.back(), error, std::chrono::seconds(1));
}

// The job's sink hears no more, its blocks are free, and its memory goes at the end of the step.
void Runner::retire(Job& job) {
  job.outlet->close();
  job.open_choices = 0;
  for (const auto& choice : job.choices) {
    scheduler_.remove(*choice);
    speculator_.leave(*choice);
  }
  deadlines_.erase({job.deadline, &job});
  if (!job.began) report_.begun.push_back(job.entry);
  ++report_.finished;
  std::unique_ptr<Job>& place = jobs_[job.slot];
  retired_.push_back(std::move(place));
  if (&place != &jobs_.back()) {
    place = std::move(jobs_.back());
    place->slot = job.slot;
  }
  jobs_.pop_back();
}

void Runner::report() {
  EngineMetrics& metrics = shop_.metrics;
  report_.now = shop_.clock();
  report_.seconds = seconds(computing_);
  if (computing_.count() > 0) {
    metrics.step_seconds.observe(report_.seconds);
    metrics.overhead_seconds.observe(seconds(report_.now - started_ - computing_));
  }
  report_.occupancy = {.running = scheduler_.running(), .prompt_backlog = scheduler_.backlog()};
  report_.load = {.running = scheduler_.running(),
                  .waiting = scheduler_.waiting(),
                  .kv_used = cache_.used_share(),
                  .healthy = failed_in_a_row_ < kUnhealthyAfter};
  metrics.running.set(report_.load.running);
  metrics.waiting.set(report_.load.waiting);
  metrics.kv_used.set(report_.load.kv_used);
  metrics.gpu_kv_used.set(report_.load.kv_used);
  metrics.cached_blocks.set(cache_.cached());
  // A thread that stands at the desk may have lost its core to one of ours: answers do not wait for it.
  const bool matters = scheduler_.idle() || !report_.begun.empty() || !report_.answers.empty() || report_.finished > 0;
  cache_.publish(/*wait=*/matters);
  shop_.desk.report(report_, matters);
  report_.begun.clear();
  report_.answers.clear();
  report_.prompts.clear();
  report_.finished = report_.prompt_rows = report_.decodes = report_.accepted = 0;
  computing_ = {};
}

TokenLogprob Runner::describe(std::int32_t id, const RawLogprobs& logprobs) const {
  TokenLogprob out{.id = id, .logprob = logprobs.chosen, .bytes = std::string(shop_.tokenizer.piece(id, true))};
  out.top.reserve(logprobs.top.size());
  for (const Scored& scored : logprobs.top)
    out.top.push_back(
        {.id = scored.id, .logprob = scored.score, .bytes = std::string(shop_.tokenizer.piece(scored.id, true))});
  return out;
}

}  // namespace ashlar::engine
