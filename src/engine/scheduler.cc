#include "engine/scheduler.h"

#include <algorithm>

#include "base/result.h"

namespace ashlar::engine {

Scheduler::Scheduler(SchedulerOptions options, KvCache& cache) : options_(options), cache_(cache) {
  CHECK(options.max_num_seqs >= 1 && options.max_num_batched_tokens >= options.max_num_seqs,
        "every running decode has a token in the budget");
}

bool Scheduler::better(const Sequence* a, const Sequence* b) {
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
  if (sequence.state == Sequence::State::waiting)
    queue_.remove(sequence);
  else
    std::erase(running_, &sequence);
  queue_.leave(sequence);
  cache_.release(sequence.table);
  sequence.state = Sequence::State::out;
  sequence.computed = 0;
}

std::int64_t Scheduler::backlog() const {
  std::int64_t tokens = 0;
  for (const Sequence* sequence : running_) tokens += sequence->remaining() - 1;
  return tokens;
}

const Plan& Scheduler::plan() {
  ++step_;
  plan_.items.clear();
  plan_.preempted.clear();
  plan_.tokens = plan_.decodes = plan_.drafted = 0;
  budget_ = options_.max_num_batched_tokens;
  plan_decodes();
  plan_drafts();
  plan_prompts();
  return plan_;
}

void Scheduler::commit() {
  for (const Plan::Item& item : plan_.items) {
    Sequence& sequence = *item.sequence;
    sequence.computed += item.rows - item.drafted;
    cache_.commit(sequence.table, sequence.tokens, sequence.computed);
  }
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

void Scheduler::plan_prompts() {
  // Blocks that were just taken from somebody are not for newcomers.
  // And nobody overtakes one that finds no room, or it might wait for ever.
  bool refused = false;
  queue_.for_each_class([&](int priority) {
    while (budget_ > 0) {
      Sequence* sequence = next_prompt(priority, !refused && plan_.preempted.empty());
      if (sequence == nullptr) break;
      if (sequence->state == Sequence::State::waiting && !admit(*sequence))
        refused = true;
      else
        add_chunk(*sequence);
    }
    return budget_ > 0;
  });
}

// The next of this class that has a prompt to compute and is not in this step yet.
Sequence* Scheduler::next_prompt(int priority, bool may_admit) const {
  Sequence* best = may_admit ? queue_.next(priority) : nullptr;
  for (Sequence* sequence : running_) {
    if (sequence->priority != priority || sequence->planned == step_) continue;
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
bool Scheduler::admit(Sequence& sequence) {
  const bool can_push = !running_.empty() && running_.back()->priority > sequence.priority;
  if (running() == options_.max_num_seqs && !can_push) return false;
  if (!can_push && !running_.empty() && sequence.refused_at >= cache_.available() - promised_blocks()) return false;
  const int known = static_cast<int>(sequence.tokens.size());
  const int hit = cache_.open(sequence.table, sequence.salt, sequence.tokens, sequence.reuse_prefix ? known - 1 : 0);
  const int needed = std::min(KvCache::blocks_for(known + 1), cache_.blocks()) - hit / models::kBlockTokens;
  if (!make_room(sequence, needed)) {
    cache_.release(sequence.table);
    sequence.refused_at = cache_.available() - promised_blocks();
    return false;
  }
  sequence.computed = hit;
  if (sequence.prefix_hit < 0) {
    sequence.prefix_hit = hit;
    sequence.charged = hit;
  }
  queue_.remove(sequence);
  start_running(sequence);
  return true;
}

bool Scheduler::make_room(Sequence& sequence, int blocks) {
  while (running() == options_.max_num_seqs || cache_.available() - promised_blocks() < blocks) {
    if (running_.empty() || running_.back()->priority <= sequence.priority) return false;
    preempt_worst();
  }
  return true;
}

void Scheduler::add_chunk(Sequence& sequence) {
  int rows = std::min({budget_, sequence.remaining(), sequence.max_chunk});
  while (!cache_.extend(sequence.table, sequence.computed + rows)) {
    if (running_.back() != &sequence) {
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
  plan_.items.push_back({.sequence = &sequence,
                         .first = sequence.computed,
                         .rows = rows,
                         .last = end == static_cast<int>(sequence.tokens.size())});
  plan_.tokens += rows;
  plan_.decodes += sequence.computed >= sequence.prompt && rows == 1 ? 1 : 0;
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
  Sequence& worst = *running_.back();
  running_.pop_back();
  cache_.release(worst.table);
  worst.computed = 0;
  worst.state = Sequence::State::waiting;
  worst.refused_at = -1;
  queue_.push(worst);
  plan_.preempted.push_back(&worst);
  if (worst.planned != step_) return;
  const auto item = std::ranges::find(plan_.items, &worst, &Plan::Item::sequence);
  if (item == plan_.items.end()) return;
  budget_ += item->rows;
  plan_.tokens -= item->rows;
  plan_.drafted -= item->drafted;
  plan_.decodes -= item->first >= worst.prompt && item->rows - item->drafted == 1 ? 1 : 0;
  plan_.items.erase(item);
}

}  // namespace ashlar::engine
