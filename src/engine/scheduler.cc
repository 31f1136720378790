#include "engine/scheduler.h"

#include <algorithm>
#include <span>

#include "base/result.h"

namespace ashlar::engine {
namespace {

constexpr double kStretched = 1.5;  // a step, by its prompts

// The step continues an answer by one token, guesses aside.
bool continues_answer(const Plan::Item& item) {
  return item.first >= item.sequence->prompt && item.rows - item.drafted == 1;
}

// Full blocks that begin both prompts; the last token of `follower`, whose logits
// it needs, is in none of them.
int common_blocks(const Sequence& follower, const Sequence& leader) {
  // Blocks that both hold have the same tokens.
  const auto mine = follower.table.blocks();
  const auto held = std::ranges::mismatch(mine, leader.table.blocks()).in1 - mine.begin();
  const std::span tokens = std::span(follower.tokens).first(follower.tokens.size() - 1);
  const std::size_t known = static_cast<std::size_t>(held) * models::kBlockTokens;
  const auto rest = tokens.subspan(known);
  const auto same = std::ranges::mismatch(rest, std::span(leader.tokens).subspan(known)).in1 - rest.begin();
  return static_cast<int>(held + same / models::kBlockTokens);
}

}  // namespace

StepLoad Plan::load() const {
  StepLoad load;
  for (const Item& item : items) {
    const double keys = item.rows * (item.first + 0.5 * item.rows);
    (continues_answer(item) ? load.decodes : load.prompt_rows) += item.rows;
    (continues_answer(item) ? load.decode_keys : load.prompt_keys) += keys;
  }
  return load;
}

Scheduler::Scheduler(SchedulerOptions options, KvCache& cache) : options_(options), cache_(cache) {
  CHECK(options.max_num_seqs >= 1 && options.max_num_batched_tokens >= options.max_num_seqs,
        "every running decode has a token in the budget");
}

bool Scheduler::better(const Sequence* a, const Sequence* b) {
  if (a->kept != b->kept) return a->kept;
  return a->priority != b->priority ? a->priority < b->priority : a->order < b->order;
}

void Scheduler::add(Sequence& sequence) {
  CHECK(sequence.state == Sequence::State::out && !sequence.tokens.empty(), "a sequence is added once, with tokens");
  queue_.enter(sequence);
  queue_.push(sequence);
  sequence.state = Sequence::State::waiting;
}

void Scheduler::fork(const Sequence& from, Sequence& to) {
  CHECK(from.state == Sequence::State::running && to.state == Sequence::State::out, "a fork continues what runs");
  to.prefix_hit = from.computed;
  to.charged = from.computed;
  if (running() < options_.max_num_seqs && cache_.fork(from.table, to.table, from.computed)) {
    queue_.enter(to);
    to.computed = from.computed;
    start_running(to);
  } else {
    add(to);
  }
}

void Scheduler::remove(Sequence& sequence) {
  if (sequence.state == Sequence::State::out) return;
  if (sequence.state == Sequence::State::running) {
    std::erase(running_, &sequence);
    release_followers(&sequence);
  } else if (sequence.leader != nullptr) {
    sequence.leader = nullptr;
    std::erase(followers_, &sequence);
  } else {
    queue_.remove(sequence);
  }
  queue_.leave(sequence);
  sequence.kept = false;
  cache_.release(sequence.table);
  sequence.state = Sequence::State::out;
  sequence.computed = 0;
}

std::int64_t Scheduler::backlog() const {
  std::int64_t tokens = 0;
  for (const Sequence* sequence : running_) tokens += sequence->remaining() - 1;
  return tokens;
}

void Scheduler::begin(Plan& plan) {
  ++step_;
  plan.items.clear();
  plan.preempted.clear();
  plan.tokens = plan.decodes = plan.drafted = plan.followers = 0;
  at_ = &plan;
}

const Plan& Scheduler::plan() {
  begin(plan_);
  in_flight_ = 0;
  budget_ = options_.max_num_batched_tokens;
  while (running() > options_.max_num_seqs) preempt_worst();  // for those who came in the middle of the last step
  plan_decodes();
  plan_drafts();
  budget_ = std::min(budget_, prompt_budget());
  plan_prompts();
  urgent_tokens_ = 0;
  urgent_seconds_ = 0;
  in_flight_ = step_;
  return plan_;
}

void Scheduler::commit(double took) {
  in_flight_ = 0;
  commit(plan_, took);
}

void Scheduler::commit(const Plan& plan, double took) {
  cost_.learn(plan.load(), took);
  for (const Plan::Item& item : plan.items) {
    Sequence& sequence = *item.sequence;
    sequence.computed += item.rows - item.drafted;
    cache_.commit(sequence.table, sequence.tokens, sequence.computed);
  }
  release_followers();
}

void Scheduler::accept(Sequence& sequence) {
  DCHECK(sequence.state == Sequence::State::running && sequence.remaining() == 1, "the token follows what is computed");
  ++sequence.computed;
  cache_.commit(sequence.table, sequence.tokens, sequence.computed);
}

void Scheduler::plan_decodes() {
  // Whoever is preempted is ranked below the one that needs its blocks, so it stands behind it here.
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.remaining() != 1) continue;
    while (!cache_.extend(sequence.table, sequence.computed + 1)) {
      const bool itself = running_.back() == &sequence;
      preempt_worst();
      if (itself) return;
    }
    add_item(sequence, 1);
  }
}

// Guesses get blocks that nobody is waiting for, and half of what the decodes
// leave of the budget, so that prompts go on.
void Scheduler::plan_drafts() {
  int budget = budget_ / 2;
  for (Plan::Item& item : plan_.items) {
    Sequence& sequence = *item.sequence;
    if (sequence.draft.empty()) continue;
    const int spare = std::max(0, cache_.available() - promised_blocks()) * models::kBlockTokens;
    const int room = sequence.table.capacity() + spare - sequence.computed - 1;
    const int rows = std::min({static_cast<int>(sequence.draft.size()), budget, room});
    if (rows <= 0 || !cache_.extend(sequence.table, sequence.computed + 1 + rows)) continue;
    item.rows += rows;
    item.drafted = rows;
    plan_.tokens += rows;
    plan_.drafted += rows;
    budget_ -= rows;
    budget -= rows;
  }
}

// Rows that prompts may have in this step so that the answers in it are not held up.
int Scheduler::prompt_budget() const {
  if (plan_.decodes == 0 || options_.target_itl.count() == 0) return options_.max_num_batched_tokens;
  int first = 0;
  for (const Sequence* sequence : running_)
    if (sequence->remaining() > 1) first = std::max(first, sequence->computed);
  const StepLoad load = plan_.load();
  const double target = std::max(options_.target_itl.count(), kStretched * cost_.seconds(load));
  const int rows = cost_.rows_within(load, first, target);
  return std::max(kLeastPromptRows, rows / kTileRows * kTileRows);
}

void Scheduler::plan_prompts() {
  bool refused = !plan_overdue();
  queue_.for_each_class([&](int priority) {
    plan_class(priority, refused);
    return budget_ > 0;
  });
}

// Blocks that were just taken from somebody are not for newcomers.
// And nobody overtakes one that finds no room (`refused`), or it might wait for ever.
void Scheduler::plan_class(int priority, bool& refused) {
  while (budget_ > 0) {
    Sequence* sequence = next_prompt(priority, !refused && at_->preempted.empty());
    if (sequence == nullptr) return;
    const Admitted admitted = sequence->state == Sequence::State::waiting ? admit(*sequence) : Admitted::yes;
    if (admitted == Admitted::yes) add_chunk(*sequence, budget_);
    if (admitted == Admitted::no_room) refused = true;
  }
}

// Something to compute before it decodes, that no step has yet.
bool Scheduler::has_prompt(const Sequence& sequence) const {
  if (sequence.planned == step_ || (in_flight_ != 0 && sequence.planned == in_flight_)) return false;
  return sequence.remaining() > 1 || sequence.computed < sequence.prompt;
}

// The next of this class that has a prompt to compute and is not in this step yet.
Sequence* Scheduler::next_prompt(int priority, bool may_admit) const {
  Sequence* best = may_admit ? queue_.next(priority) : nullptr;
  for (Sequence* sequence : running_) {
    if (sequence->priority != priority || !has_prompt(*sequence)) continue;
    if (best == nullptr || sequence->account->served < best->account->served ||
        (sequence->account->served == best->account->served && sequence->order < best->order))
      best = sequence;
  }
  return best;
}

// Blocks that running prompts will still need before they decode.
int Scheduler::promised_blocks() const {
  int promised = 0;
  for (const Sequence* sequence : running_) {
    const int needed = KvCache::blocks_for(static_cast<int>(sequence->tokens.size()));
    promised += std::max(0, needed - static_cast<int>(sequence->table.blocks().size()));
  }
  return promised;
}

// Takes a waiting sequence in if all that it is known to need is there, so that
// it need not be thrown out again at once. A more urgent class may push out a
// less urgent one.
Scheduler::Admitted Scheduler::admit(Sequence& sequence) {
  const bool amid = in_flight_ != 0;
  const bool can_push = !amid && !running_.empty() && may_push(sequence, *running_.back());
  if (amid ? !place_amid(sequence) : running() >= options_.max_num_seqs && !can_push) return Admitted::no_room;
  if (!can_push && !running_.empty() && sequence.refused_at >= cache_.available() - promised_blocks())
    return Admitted::no_room;
  const int known = static_cast<int>(sequence.tokens.size());
  const int hit = cache_.open(sequence.table, sequence.salt, sequence.tokens, sequence.reuse_prefix ? known - 1 : 0,
                              sequence.marks);
  if (follow(sequence, hit)) {
    cache_.release(sequence.table);
    return Admitted::follows;
  }
  const int needed = std::min(KvCache::blocks_for(known + 1), cache_.blocks()) - hit / models::kBlockTokens;
  if (!make_room(sequence, needed)) {
    cache_.release(sequence.table);
    sequence.refused_at = cache_.available() - promised_blocks();
    return Admitted::no_room;
  }
  sequence.computed = hit;
  if (sequence.prefix_hit < 0) {
    sequence.prefix_hit = hit;
    sequence.charged = hit;
  }
  queue_.remove(sequence);
  start_running(sequence);
  count_passed(sequence);
  return Admitted::yes;
}

// Whether a running sequence is about to compute blocks that this one, of which
// `hit` tokens are cached, needs next: then it waits for the one that has most
// of them. That one is as urgent and runs unhindered, so it gets there; if it is
// thrown out or removed before, its followers queue again.
bool Scheduler::follow(Sequence& sequence, int hit) {
  if (!cache_.caches_prefixes() || !sequence.reuse_prefix) return false;
  for (Sequence* other : running_) {
    if (other->priority > sequence.priority) continue;
    if (other->remaining() <= 1 || other->max_chunk < options_.max_num_batched_tokens) continue;
    if (other->salt != sequence.salt && *other->salt != *sequence.salt) continue;
    const int common = common_blocks(sequence, *other) * models::kBlockTokens;
    if (common <= std::max({hit, other->computed, sequence.leader != nullptr ? sequence.follows_to : 0})) continue;
    sequence.leader = other;
    sequence.follows_to = common;
  }
  if (sequence.leader == nullptr) return false;
  queue_.remove(sequence);
  followers_.push_back(&sequence);
  ++at_->followers;
  return true;
}

// Back into the queue go those whose blocks are there, and those of `leaving`.
void Scheduler::release_followers(const Sequence* leaving) {
  std::erase_if(followers_, [&](Sequence* follower) {
    if (follower->leader != leaving && follower->leader->computed < follower->follows_to) return false;
    follower->leader = nullptr;
    queue_.push(*follower);
    return true;
  });
}

bool Scheduler::make_room(Sequence& sequence, int blocks) {
  if (in_flight_ != 0) return cache_.available() - promised_blocks() >= blocks;
  while (running() >= options_.max_num_seqs || cache_.available() - promised_blocks() < blocks) {
    if (running_.empty() || !may_push(sequence, *running_.back())) return false;
    preempt_worst();
  }
  return true;
}

void Scheduler::add_chunk(Sequence& sequence, int most) {
  int rows = std::min({most, budget_, sequence.remaining(), sequence.max_chunk});
  while (!cache_.extend(sequence.table, sequence.computed + rows)) {
    if (in_flight_ == 0 && running_.back() != &sequence) {
      preempt_worst();
      continue;
    }
    // The worst ranked computes what has room and keeps what it has.
    const int room = sequence.table.capacity() + cache_.available() * models::kBlockTokens - sequence.computed;
    rows = std::min(rows, room);
    if (rows <= 0) {
      sequence.planned = step_;
      return;
    }
  }
  add_item(sequence, rows);
}

void Scheduler::add_item(Sequence& sequence, int rows) {
  const int end = sequence.computed + rows;
  at_->items.push_back({.sequence = &sequence,
                        .first = sequence.computed,
                        .rows = rows,
                        .last = end == static_cast<int>(sequence.tokens.size())});
  at_->tokens += rows;
  at_->decodes += sequence.computed >= sequence.prompt && rows == 1 ? 1 : 0;
  budget_ -= rows;
  sequence.planned = step_;
  // Recomputing after a preemption is our trouble, not the tenant's.
  if (end <= sequence.charged) return;
  const int prompt = std::max(0, std::min(end, sequence.prompt) - sequence.charged);
  const int answer = end - sequence.charged - prompt;
  sequence.account->served += FairQueue::kPromptWeight * prompt + FairQueue::kAnswerWeight * answer;
  sequence.charged = end;
}

void Scheduler::start_running(Sequence& sequence) {
  sequence.state = Sequence::State::running;
  running_.insert(std::ranges::upper_bound(running_, &sequence, better), &sequence);
}

void Scheduler::preempt_worst() {
  CHECK(in_flight_ == 0, "a step that is computed keeps its blocks");
  Sequence& worst = *running_.back();
  running_.pop_back();
  cache_.release(worst.table);
  worst.computed = 0;
  worst.kept = false;
  worst.state = Sequence::State::waiting;
  worst.refused_at = -1;
  queue_.push(worst);
  release_followers(&worst);
  at_->preempted.push_back(&worst);
  if (worst.planned != step_) return;
  const auto item = std::ranges::find(at_->items, &worst, &Plan::Item::sequence);
  if (item == at_->items.end()) return;
  budget_ += item->rows;
  at_->tokens -= item->rows;
  at_->drafted -= item->drafted;
  at_->decodes -= item->first >= worst.prompt && item->rows - item->drafted == 1 ? 1 : 0;
  at_->items.erase(item);
}

}  // namespace ashlar::engine
