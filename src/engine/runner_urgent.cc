// Urgent prompts have steps of their own: between two steps of all, or in the middle of one, while it rests.
#include <exception>
#include <mutex>

#include "engine/runner.h"

namespace ashlar::engine {

// Between two steps. false: nobody is urgent.
bool Runner::urgent_step() {
  const Plan& plan = scheduler_.plan_urgent();
  if (plan.items.empty()) return false;
  plan_ = &plan;
  const Clock::time_point before = shop_.clock();
  {
    std::unique_lock<ComputeLock> turn;
    if (shop_.turns != nullptr) turn = std::unique_lock(*shop_.turns);
    compute_urgent(plan);
  }
  computing_ += now_ - before;
  deliver(urgent_batch_);
  plan_ = nullptr;
  return true;
}

// In the pauses of a step: who came meanwhile does not wait for its end. A failure here is not the step's.
void Runner::amid() {
  shop_.desk.collect_urgent(urgent_jobs_);
  if (urgent_jobs_.empty()) return;
  const Clock::time_point before = now_ = shop_.clock();
  for (std::unique_ptr<Job>& job : urgent_jobs_) adopt(std::move(job));
  for (const Plan* plan = &scheduler_.plan_urgent(); !plan->items.empty(); plan = &scheduler_.plan_urgent()) {
    try {
      compute_urgent(*plan);
      deliver(urgent_batch_);
    } catch (const std::exception& problem) {
      recover(problem.what(), plan);
    } catch (...) {
      recover("unknown exception", plan);
    }
  }
  amid_ += shop_.clock() - before;
}

void Runner::compute_urgent(const Plan& plan) {
  note_begun(plan);
  urgent_batch_.build(plan);
  const Clock::time_point before = shop_.clock();
  urgent_batch_.forward(shop_.model, *shop_.store, nullptr);
  draw_all(urgent_batch_);
  now_ = shop_.clock();
  scheduler_.commit_urgent(std::chrono::duration<double>(now_ - before).count());
}

}  // namespace ashlar::engine
