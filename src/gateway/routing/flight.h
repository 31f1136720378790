// One request under way: whom it asked, who asks now, and who listens. Equal requests of a tenant share one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "gateway/routing/core.h"

namespace ashlar::gateway {

// The tokens that a request still costs its deployment: those of the prompt until the first token, those of the
// answer as they come.
class Charge {
 public:
  Charge(std::shared_ptr<Live> live, int prompt, int answer);
  ~Charge() { take(prompt_ + answer_); }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;
  void prompt_done(std::chrono::nanoseconds waited);
  void answered(int tokens);

 private:
  void take(int tokens) { live_->vitals->outstanding.fetch_sub(tokens, std::memory_order_relaxed); }
  std::shared_ptr<Live> live_;
  int prompt_, answer_;
};

// One deployment asked once. It lives as long as its ticket, whose end waits for a call in progress.
class Attempt final : public engine::Sink {
 public:
  Attempt(std::shared_ptr<Flight> flight, Picked picked, int prompt, int answer, TimePoint now);
  ~Attempt() override;
  void on(engine::Event event) override;

 private:
  friend class Flight;
  std::shared_ptr<Flight> flight_;
  // Under the flight's lock:
  Picked picked_;
  std::unique_ptr<Charge> charge_;
  TimePoint began_, last_;
  std::optional<TimePoint> first_token_;
  std::optional<engine::Started> started_;
  int tokens_ = 0;
  std::set<int> ended_choices_;
  bool over_ = false;
  std::unique_ptr<engine::Ticket> ticket_;
};

struct Judgement;  // what a failure says of its deployment, and whether another might do better

// Locks: its own, which is recursive since a ticket may be dropped inside a sink's call; the router's may be taken
// within it, never the other way round. Generators are called without either.
class Flight : public std::enable_shared_from_this<Flight> {
 public:
  using Refusal = engine::Generator::Refusal;
  struct Plan {
    std::shared_ptr<const Group> group;
    std::set<std::string> only;  // deployments, if not empty
    std::string key;             // of the response cache; empty: neither looked up nor kept
    bool keep = false;
    std::optional<Split> split;
    std::shared_ptr<Tap> tap;  // null: nobody follows
    RouteTrace trace;
  };

  Flight(std::shared_ptr<Router::Core> core, engine::Request&& request, RouteHints hints, Plan plan);
  // One that was answered before.
  Flight(std::shared_ptr<Router::Core> core, ResponseCache::Answer answer, RouteTrace trace);

  std::uint64_t id() const { return id_; }
  int priority() const { return priority_; }
  TimePoint deadline() const { return deadline_; }
  int cost() const { return prompt_tokens_ + answer_tokens_; }

  // An equal request that joins: its id, and where its way is noted if it asks for that.
  struct Joined {
    std::string id;
    std::shared_ptr<engine::Notes> notes;
  };
  // Somebody who gets all events, from the first. nothing: it is over. The first listener is there from the start, the
  // others have joined.
  std::optional<std::uint64_t> listen(engine::Sink& sink, std::shared_ptr<const Joined> joined = nullptr);
  // After this, `sink` is called no more. The last one's leaving ends the request.
  void leave(std::uint64_t listener);

  // Asks deployments until one takes it. What it returns is the end: nobody does.
  std::optional<Refusal> advance();
  // Gives listeners what they have not had.
  void deliver();
  // start() gives `refusal` to who asked first; Failed is for those that joined meanwhile.
  void turn_away(Refusal refusal);
  // Fails it.
  void refuse(Refusal refusal);
  // The router ends: like refuse(), and the attempt is dropped.
  void shut();
  // A timer rang.
  void check(TimePoint now);
  void on(Attempt& attempt, engine::Event event);

  RouteTrace trace() const;

 private:
  friend class Router::Core;
  struct Listener {
    std::uint64_t id;
    engine::Sink* sink;                    // null: it left
    std::shared_ptr<const Joined> joined;  // null: it asked first
    std::size_t next = 0;
  };
  using Lock = std::unique_lock<std::recursive_mutex>;

  // What follows an error that start() gave: nothing: the next deployment is asked.
  std::optional<Refusal> settle(Refusal refusal);
  // Once a group is asked that goes by what is cached.
  void name_prefixes();
  std::vector<Told> ask_caches(const Group& group, std::span<const std::uint64_t> keys) const;
  bool fall_back(const Judgement& judgement);
  // Whether the last attempt was at the version on trial: what it refuses, another may take.
  bool on_trial() const;
  bool next_group(Cause cause);
  bool forbidden(const Picked& picked);
  std::optional<Refusal> ask(Picked picked);
  Refusal refusal_of(const Nobody& nobody) const;
  std::string wrong_with(const Attempt& attempt, const engine::Event& event) const;
  void fail(Attempt& attempt, engine::Failed failed, std::string outcome);
  void report(Attempt& attempt, Fleet::Ended::How how, bool overload, bool refused = false);
  void finish_try(Attempt& attempt, std::string outcome, std::optional<Cause> cause, const Error* error);
  void commit();
  void explain() const;
  void explain_to(const Listener& listener) const;
  void done_with(const Listener& listener) const;
  void say(engine::Event event);
  engine::Event for_listener(const engine::Event& said);
  void end(bool good);
  TimePoint next_check() const;

  const std::shared_ptr<Router::Core> core_;
  const std::uint64_t id_;
  std::unique_ptr<const engine::Request> request_;  // null: it came from the cache; or nobody else will be asked
  const int priority_ = 0, choices_ = 1;
  const TimePoint deadline_ = TimePoint::max();
  const RouteHints hints_;
  const std::set<std::string> only_;
  const std::string key_;
  const bool keep_ = false;
  const bool record_ = false;  // for the cache and for those who join
  const std::shared_ptr<Tap> tap_;
  int prompt_tokens_ = 0, answer_tokens_ = 0;
  std::uint64_t prefix_ = 0;
  const TimePoint arrived_;

  mutable std::recursive_mutex mutex_;
  std::shared_ptr<const Group> group_;
  std::vector<std::uint64_t> blocks_;
  std::optional<std::uint64_t> salt_;  // of `blocks_`, if they were made here
  std::optional<Split> split_;         // of the group
  std::vector<std::string> further_groups_;
  std::set<std::string> seen_groups_;
  std::set<std::string> tried_;
  int attempts_ = 0;
  int most_tokens_ = 0;  // what its deployment's context must hold at least
  std::shared_ptr<Attempt> attempt_;
  bool committed_ = false;  // something went out
  bool over_ = false;
  bool abandoned_ = false;  // nobody listens
  bool told_ = false;
  bool tapped_ = false;  // who follows knows that it began
  std::optional<Cause> cause_;
  std::unique_ptr<const Refusal> last_refusal_;  // apart: few have one, and thousands of streams stand at once
  std::vector<engine::Event> said_;
  std::vector<Listener> listeners_;
  std::uint64_t listeners_made_ = 0;
  bool paid_ = false;  // one of them had the whole answer
  std::thread::id calling_;
  RouteTrace trace_;

  // Under the router's lock:
  std::optional<WaitingRoom::Rank> waits_;
  WaitingRoom::Waiter waiter_;
  TimePoint waited_since_{};
  std::multimap<TimePoint, std::uint64_t>::iterator timer_;
  bool has_timer_ = false;
};

}  // namespace ashlar::gateway
