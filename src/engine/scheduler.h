// Which tokens the next step computes: continuous batching over paged KV.
//
// One token budget per step. Running decodes come first, one token each; what is
// left goes to prompts, in chunks: those already begun and those waiting compete
// by class, then by their tenant's service, then by arrival. When blocks run out
// the worst ranked running sequence (class, then arrival) gives its blocks back
// and waits again; it recomputes later from whatever the prefix cache kept.
//
// While answers run, prompts get only as many rows as fit into the target for the
// time between two tokens, by what steps were measured to cost (step_cost.h).
//
// A prompt that begins like one that is being computed waits until their common
// blocks are there, instead of computing them too; others go ahead meanwhile.
//
// Urgent prompts (of priority below 0) do not share a step with less urgent ones:
// plan_urgent() gives them one of their own, before the others' or in the middle of
// it. Where they have more than seven eighths of the places, every eighth that begins
// is the oldest of the less urgent that wait, and keeps its place to its end.
//
// Knows token counts and blocks, neither models nor clients: a simulator can
// drive it as well as the engine does.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/fair_queue.h"
#include "engine/kv_cache.h"
#include "engine/step_cost.h"

namespace ashlar::engine {

// One answer in the making. Owned by the caller, who keeps it where it is from
// add() to remove() and appends a token to it after each step that gave logits.
struct Sequence {
  // Fixed before add().
  int priority = 0;         // lower is more urgent
  std::uint64_t order = 0;  // unique; smaller came earlier
  std::string tenant;
  std::shared_ptr<const std::string> salt;          // of the prefix cache
  PrefixMarks marks;                                // of the prompt
  bool reuse_prefix = true;                         // may begin with cached blocks
  int max_chunk = std::numeric_limits<int>::max();  // most tokens of it in one step
  int prompt = 0;                                   // tokens that were asked, not generated

  std::vector<std::int32_t> tokens;  // the prompt, then the answer
  // What may follow: the next step computes as many of these as it has room for,
  // if the sequence decodes in it. Its owner sets it before plan().
  std::vector<std::int32_t> draft;

  // The scheduler's own.
  enum class State { out, waiting, running };
  State state = State::out;
  int computed = 0;     // tokens whose keys and values are in the store
  int prefix_hit = -1;  // tokens found in the prefix cache when it first began; -1: not begun
  BlockTable table;
  Account* account = nullptr;
  int charged = 0;             // tokens its tenant was charged for
  std::uint64_t planned = 0;   // the last step that has it
  bool kept = false;           // nobody pushes it out
  int refused_at = -1;         // blocks that were to be had when it last found no room
  Sequence* leader = nullptr;  // waits until this one has computed
  int follows_to = 0;          // the first so many tokens, which both have

  int remaining() const { return static_cast<int>(tokens.size()) - computed; }
};

struct SchedulerOptions {
  int max_num_seqs = 64;
  int max_num_batched_tokens = 512;             // at least max_num_seqs, so that every decode has its turn
  std::chrono::duration<double> target_itl{0};  // of a step that has decodes; 0: no bound
};

struct Plan {
  struct Item {
    Sequence* sequence = nullptr;
    int first = 0;  // position of the first row
    int rows = 0;
    int drafted = 0;    // of the rows: the last ones, of tokens that are only guessed
    bool last = false;  // reaches the sequence's end: the logits of its last row that is no guess give the next token
  };
  std::vector<Item> items;
  int tokens = 0;
  int decodes = 0;  // items of one token that continue an answer, guesses aside
  int drafted = 0;  // rows of guessed tokens
  std::vector<Sequence*> preempted;
  int followers = 0;  // sequences that began to wait for another's blocks

  StepLoad load() const;
};

// Engine thread only.
class Scheduler {
 public:
  Scheduler(SchedulerOptions options, KvCache& cache);

  // `sequence` waits for its turn. Its tokens, to the last that it may ever have,
  // must fit into the cache.
  void add(Sequence& sequence);

  // A sequence that is `out` continues from the first `from.computed` tokens of a
  // running one: at once if there is room, else it waits and recomputes.
  void fork(const Sequence& from, Sequence& to);

  // Out, whatever it was doing; its blocks are given back.
  void remove(Sequence& sequence);

  // The next step. Empty only when there is nothing to do. Valid until the next call of anything here.
  const Plan& plan();

  // Prompts of urgent sequences while less urgent ones run. Empty: there are none, or they had their rows until the
  // next plan(). Between plan() and commit() nobody is pushed out for them, nor planned twice: they may be more than
  // max_num_seqs until the next plan(). Valid until the next call of anything here.
  const Plan& plan_urgent();
  void commit_urgent(double took = 0);

  // The planned step was computed, in `took` seconds; 0: not measured. Of guessed
  // tokens nothing is known yet.
  void commit(double took = 0);

  // The next guessed token was right and is among the sequence's tokens now: its
  // keys and values count. After commit(), while the sequence runs.
  void accept(Sequence& sequence);

  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return static_cast<int>(queue_.waiting() + followers_.size()); }
  bool idle() const { return running() + waiting() == 0; }
  // Tokens that running sequences have to compute before they decode.
  std::int64_t backlog() const;
  const FairQueue& queue() const { return queue_; }
  // Best ranked first. Valid until the next call of anything here.
  std::span<Sequence* const> sequences() const { return running_; }

 private:
  // Prompts go on where the target leaves them little or nothing: by rows enough
  // for the weights they stream, and by a third of the step.
  static constexpr int kLeastPromptRows = 32;
  static constexpr int kTileRows = 16;  // rows that a matrix product computes at once

  static bool better(const Sequence* a, const Sequence* b);
  static bool may_push(const Sequence& sequence, const Sequence& other);
  void begin(Plan& plan);
  void commit(const Plan& plan, double took);
  void plan_decodes();
  void plan_drafts();
  int prompt_budget() const;
  int urgent_budget() const;
  void plan_prompts();
  bool plan_overdue();
  void plan_class(int priority, bool& refused);
  bool has_prompt(const Sequence& sequence) const;
  Sequence* overdue() const;
  bool place_amid(const Sequence& sequence) const;
  void count_passed(const Sequence& begun);
  Sequence* next_prompt(int priority, bool may_admit) const;
  enum class Admitted { yes, no_room, follows };
  Admitted admit(Sequence& sequence);
  bool follow(Sequence& sequence, int hit);
  void release_followers(const Sequence* leaving = nullptr);
  bool make_room(Sequence& sequence, int blocks);
  void add_chunk(Sequence& sequence, int most);
  void add_item(Sequence& sequence, int rows);
  void start_running(Sequence& sequence);
  void preempt_worst();
  int promised_blocks() const;

  SchedulerOptions options_;
  KvCache& cache_;
  FairQueue queue_;
  std::vector<Sequence*> running_;    // best ranked first
  std::vector<Sequence*> followers_;  // wait outside the queue, each for its leader
  StepCost cost_;
  Plan plan_, urgent_;
  Plan* at_ = &plan_;  // the one that is being made
  int budget_ = 0;
  // What urgent prompts had since the last plan().
  int urgent_tokens_ = 0;
  double urgent_seconds_ = 0;
  int passed_ = 0;  // that began since one of the less urgent that wait did
  std::uint64_t step_ = 0;
  std::uint64_t in_flight_ = 0;  // the step between plan() and commit(); 0: none
};

}  // namespace ashlar::engine
