// What the router's requests share: the table, the fleet, who waits, what is cached, and the work that is due.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/brief_mutex.h"
#include "gateway/routing/fleet.h"
#include "gateway/routing/response_cache.h"
#include "gateway/routing/router.h"
#include "gateway/routing/waiting_room.h"

namespace ashlar::gateway {

class Flight;
class Attempt;

// Attempts beyond the first: each first one pays in a share, each further one takes a whole. Not thread-safe.
class AttemptBudget {
 public:
  AttemptBudget(double share, int reserve) : share_(share), most_(reserve), left_(reserve) {}
  void first() { left_ = std::min(left_ + share_, most_); }
  bool take() {
    if (left_ < 1) return false;
    left_ -= 1;
    return true;
  }

 private:
  double share_, most_, left_;
};

// Any thread. One lock, never held while a generator, a sink or a hook is called.
class Router::Core : public std::enable_shared_from_this<Router::Core> {
 public:
  Core(RouterOptions options, RouteTable table);

  const RouterOptions& options() const { return options_; }
  TimePoint now() const { return options_.now(); }

  // The table.
  // Edits a copy of the table, which stands once `edit` returns no error. One at a time.
  Status change(const std::function<Status(RouteTable&)>& edit);
  RouteTable table() const;
  std::optional<std::uint64_t> names_version() const;
  std::shared_ptr<Live> find(const std::string& name) const;
  std::shared_ptr<Live> first_of(const std::string& model, std::string& group) const;
  std::vector<std::shared_ptr<Live>> all() const;
  std::vector<std::shared_ptr<Live>> members(const std::string& group) const;
  std::shared_ptr<const Group> group(const std::string& name) const;  // null: there is none
  // The group that an alias means; "": it is none.
  std::string alias_of(const std::string& name) const;
  // Of the group that a name or an alias means, the deployments; of one with tiers, the middle one's.
  std::vector<std::shared_ptr<Live>> members_of(const std::string& name) const;
  // The group that a model's name means. An adapter's name means its deployments: `only` gets them.
  Result<std::shared_ptr<const Group>> resolve(const std::string& model, std::set<std::string>& only) const;
  void with_fleet(const std::function<void(Fleet&)>& call);

  // Requests.
  std::uint64_t number();
  struct Wait {};
  struct Turned {
    engine::Generator::Refusal refusal;
    std::optional<Cause> cause;
  };
  // A deployment, or a place in the waiting room, or neither.
  std::variant<Picked, Wait, Nobody, Turned> pick(Flight& flight, const Question& question);
  void ended(const std::shared_ptr<Live>& live, const Breaker::Call& call, const Fleet::Ended& how);
  // Whether one more attempt may be made; `paid`: by the retry budget.
  bool may_retry(bool paid);
  void enter(const std::shared_ptr<Flight>& flight);  // is under way
  void leave(Flight& flight);                         // no longer
  void set_timer(Flight& flight, TimePoint when);

  // The response cache. `flight` leads those that ask the same.
  struct Answered {
    ResponseCache::Found found;
    std::shared_ptr<Flight> leader;
  };
  // `trial`: the request is for the version on trial.
  Answered look_up(const std::string& key, const CacheControl& control, const std::string& group, bool trial);
  void lead(const std::string& key, const std::shared_ptr<Flight>& flight);
  void count_joined();
  void landed(const std::string& key, Flight& flight, ResponseCache::Answer answer);
  ResponseCache::Counts cache_counts() const;

  // Work for turn(), on the router's thread.
  struct Task {
    enum class What { advance, deliver, refuse } what;
    std::shared_ptr<Flight> flight;
    engine::Generator::Refusal refusal;
  };
  void post(Task task);
  void bury(std::shared_ptr<Attempt> attempt);  // dropped there
  TimePoint turn();

  void begin();
  void end();
  void publish();

 private:
  struct Metrics {
    Counter fallbacks{"gateway_route_fallbacks_total", "Attempts after the first of a request."};
    Counter retries_refused{"gateway_route_retries_refused_total", "Fallbacks that the retry budget forbade."};
    Counter shed{"gateway_route_shed_total", "Requests turned away for load."};
    Counter joined{"gateway_response_cache_joined_total", "Requests answered by an equal one under way."};
    Gauge waiting{"gateway_route_waiting", "Requests that wait for a place at a deployment."};
    Gauge running{"gateway_route_running", "Requests under way through the router."};
  };

  // What is known of a route for those who scale it.
  struct Scale {
    Scale(const std::string& route, const DemandOptions& options) : demand(options), metrics(route) {}
    Demand demand;
    RouteMetrics metrics;
  };
  using Loads = std::vector<std::pair<std::shared_ptr<Live>, engine::Generator::Load>>;

  void set_table(RouteTable table);
  void look(const Loads& loads, TimePoint now);
  std::chrono::milliseconds most_wait(const Group& group) const;  // under the lock, as the next
  void wake(const std::string& group);
  TimePoint next_due() const;
  void stir(TimePoint when);
  void poll(TimePoint now);
  void run(Task& task);
  void work();

  const RouterOptions options_;
  Metrics metrics_;
  std::mutex changing_;  // taken before mutex_
  mutable BriefMutex mutex_;
  std::condition_variable due_;
  RouteTable table_;
  // Those of the table that count their names.
  struct Counted {
    std::uint64_t tables = 0;  // that there were
    std::vector<std::shared_ptr<engine::Generator>> held;
    std::vector<const engine::CountedNames*> names;  // of each; null: it does not count
  };
  std::shared_ptr<const Counted> counted_;  // never null
  std::map<std::string, std::shared_ptr<const Group>> groups_;
  Fleet fleet_;
  WaitingRoom room_;
  ResponseCache cache_;
  AttemptBudget retries_;
  std::uint64_t numbers_ = 0;
  std::unordered_map<std::uint64_t, std::weak_ptr<Flight>> flights_;
  std::unordered_map<std::string, std::weak_ptr<Flight>> leaders_;
  std::multimap<TimePoint, std::uint64_t> timers_;
  std::deque<Task> tasks_;
  std::vector<std::shared_ptr<Attempt>> buried_;
  std::set<std::string> degraded_;
  std::map<std::string, std::unique_ptr<Scale>> scales_;  // by group
  TimePoint polled_{};
  TimePoint sleeps_until_ = TimePoint::min();  // the router's thread; min: it is awake
  bool stopping_ = false;
  std::vector<RouteEvent> events_;
  std::thread thread_;
};

}  // namespace ashlar::gateway
