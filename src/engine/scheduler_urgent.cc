// What urgent sequences have before all others, and what the others keep.
#include <algorithm>

#include "engine/scheduler.h"

namespace ashlar::engine {
namespace {

// Of so many that begin while less urgent ones wait, one is of these.
constexpr int kInTurn = 8;
// As long as less urgent ones have fewer places than one in so many.
constexpr int kPlacesForOne = 8;

}  // namespace

bool Scheduler::may_push(const Sequence& sequence, const Sequence& other) {
  return !other.kept && other.priority > sequence.priority;
}

const Plan& Scheduler::plan_urgent() {
  begin(urgent_);
  budget_ = urgent_budget();
  // Who is overdue has the next place; until then nobody begins.
  bool refused = overdue() != nullptr;
  queue_.for_each_class([&](int priority) {
    const bool urgent = priority < 0 && !running_.empty() && running_.back()->priority > priority;
    if (urgent) plan_class(priority, refused);
    return urgent && budget_ > 0;
  });
  urgent_tokens_ += urgent_.tokens;
  return urgent_;
}

void Scheduler::commit_urgent(double took) {
  urgent_seconds_ += took;
  commit(urgent_, took);
}

// Rows that urgent prompts may still have before the next step of all, whose answers they hold up: for as long as one
// token of these may take.
int Scheduler::urgent_budget() const {
  const int left = std::max(0, options_.max_num_batched_tokens - urgent_tokens_);
  const double target = options_.target_itl.count();
  if (target == 0) return left;
  const int rows = cost_.rows_within({}, 0, target - urgent_seconds_) / kTileRows * kTileRows;
  if (rows >= kLeastPromptRows || urgent_seconds_ == 0) return std::min(left, std::max(rows, kLeastPromptRows));
  return 0;
}

// While a step is computed nobody is pushed out, but it is known who will be after it.
bool Scheduler::place_amid(const Sequence& sequence) const {
  const auto staying =
      std::ranges::count_if(running_, [&](const Sequence* other) { return !may_push(sequence, *other); });
  return staying < options_.max_num_seqs;
}

// The oldest of those who wait behind more urgent ones, where enough of these began before it and have the places.
Sequence* Scheduler::overdue() const {
  if (passed_ < kInTurn - 1) return nullptr;
  const int first = queue_.most_urgent();
  const auto others = std::ranges::count_if(running_, [&](const Sequence* each) { return each->priority != first; });
  return others < std::max(1, options_.max_num_seqs / kPlacesForOne) ? queue_.oldest_behind() : nullptr;
}

void Scheduler::count_passed(const Sequence& begun) {
  const bool first_class = begun.priority == queue_.most_urgent();
  passed_ = first_class && !begun.kept && queue_.oldest_behind() != nullptr ? passed_ + 1 : 0;
}

// Who is overdue begins and keeps its place; those kept have a quarter of the rows before all others. false: there is
// no room for it yet.
bool Scheduler::plan_overdue() {
  Sequence* late = at_->preempted.empty() ? overdue() : nullptr;
  bool has_room = true;
  if (late != nullptr) {
    late->kept = true;
    const Admitted admitted = admit(*late);
    late->kept = admitted == Admitted::yes;
    has_room = admitted != Admitted::no_room;
  }
  for (std::size_t i = 0; i < running_.size() && running_[i]->kept && budget_ > 0; ++i)
    if (has_prompt(*running_[i])) add_chunk(*running_[i], std::max(1, budget_ / 4));
  return has_room;
}

}  // namespace ashlar::engine
