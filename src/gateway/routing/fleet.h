// All deployments with what is known of each, and who of them gets the next request.
//
// Nothing here locks but the outstanding tokens, which are atomic: the router's lock holds the rest.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/metrics.h"
#include "gateway/routing/breaker.h"
#include "gateway/routing/concurrency.h"
#include "gateway/routing/deployment.h"
#include "gateway/routing/outliers.h"
#include "gateway/routing/pace.h"
#include "gateway/routing/prefix_index.h"
#include "gateway/routing/ring.h"
#include "gateway/routing/sessions.h"
#include "gateway/routing/waiting_room.h"

namespace ashlar::gateway {

struct FleetOptions {
  std::chrono::milliseconds latency_half_life{10'000};
  double ring_bound = 1.25;                   // of a deployment's share of the outstanding tokens
  std::size_t prefix_index_blocks = 1 << 16;  // keys of what was sent, remembered for each deployment
  double prefix_block_tokens = 32;            // what a key stands for, about
  // Where a deployment tells what it has cached, what was sent there is believed for so long: it may be computing it.
  std::chrono::milliseconds prefix_recent{10'000};
  std::chrono::milliseconds session_ttl{3'600'000};
  std::size_t most_sessions = 100'000;
  OutlierOptions outliers;
  ConcurrencyOptions concurrency;
  double reserve = 0.1;  // SheddingOptions::reserve
};

struct DeploymentMetrics {
  explicit DeploymentMetrics(const Deployment& deployment);
  Counter ok, failed, refused, cancelled;
  Gauge outstanding, breaker, places;
  Histogram first_token, between_tokens;
};

// What is known of a deployment. It outlives a change of its configuration.
struct Vitals {
  Vitals(const Deployment& deployment, const FleetOptions& options);

  std::atomic<std::int64_t> outstanding{0};  // tokens of prompt and answer that are still to be computed
  // What came from it: tokens, first ones, and the microseconds that those were waited for.
  std::atomic<std::int64_t> tokens{0}, first_tokens{0}, first_microseconds{0};

  // Under the router's lock:
  Breaker breaker;
  PeakEwma first_token;
  ConcurrencyLimit limit;
  bool pressed = false;  // somebody found no place, since the last turn
  PrefixIndex prefixes;
  double turn = 0;  // of the smooth weighted round robin
  std::uint64_t picked = 0;
  int running = 0;
};

// A deployment as it is now. Shared with the requests that run there, which go on after it was removed.
struct Live {
  const Deployment config;
  const std::shared_ptr<Vitals> vitals;
  const std::shared_ptr<DeploymentMetrics> metrics;  // by its name, group and label
};

// How many requests it gets at once; 0: any number. Under the router's lock.
int places(const Live& live);

// What a deployment says that it has cached of a request's prompt.
struct Told {
  const Vitals* deployment = nullptr;
  int tokens = 0;
};

// What a request needs to know which deployments can have it, and which is best.
struct Question {
  const Group* group = nullptr;
  int prompt_tokens = 0, answer_tokens = 0;  // expected
  int most_tokens = 0;                       // of prompt and answer, to be held against the context
  int priority = 0;
  std::span<const std::string> data_classes;
  std::string session;  // empty: none
  std::uint64_t prefix = 0;
  std::span<const std::uint64_t> blocks;           // keys of the prompt's beginnings
  std::span<const Told> told;                      // by those that can say
  const std::set<std::string>* without = nullptr;  // tried, or refused by a permit
  const std::set<std::string>* only = nullptr;     // those that serve an adapter; null: all
  const std::string* trial = nullptr;              // the one on trial, that this request is for; null: it is not
};

struct Picked {
  std::shared_ptr<Live> live;
  Breaker::Call call;
  std::string why;
  int cached = -1;  // tokens of the prompt that it should have; -1: that was not asked
};
// Why there is nobody.
struct Nobody {
  bool busy = false;                   // somebody fits, and has no place just now
  bool broken = false;                 // somebody would fit, but for breaker or ejection
  bool too_long = false;               // somebody would fit, but for the context
  bool forbidden = false;              // somebody would fit, but for the data's class
  TimePoint again = TimePoint::max();  // when the first breaker is tried again
};

class Fleet {
 public:
  explicit Fleet(FleetOptions options)
      : options_(std::move(options)), sessions_(options_.session_ttl, options_.most_sessions) {}

  // Takes these and no others. One that is there already, of the same name and generator, keeps what is known of it.
  void set(std::vector<Deployment> deployments);
  std::shared_ptr<Live> find(const std::string& name) const;
  std::vector<std::shared_ptr<Live>> members(const std::string& group) const;
  std::vector<std::shared_ptr<Live>> all() const;

  // Picked has a place, which ended() gives back.
  std::variant<Picked, Nobody> pick(const Question& question, TimePoint now);
  struct Ended {
    enum class How { good, bad, dropped } how = How::dropped;
    bool overload = false;  // refused for load
    std::optional<std::chrono::nanoseconds> first_token;
    double seconds_per_token = 0;
    double work = 0;  // tokens
  };
  void ended(Live& live, const Breaker::Call& call, const Ended& how, TimePoint now);

  void signal(Live& live, const Signals& signals, TimePoint now);
  void force(Live& live, Breaker::Mode mode, TimePoint now);
  // Ejections end, sweeps are made.
  void turn(TimePoint now);
  bool ejected(const Live& live) const;
  // Whether all that could answer for the group are out; `trial`: the one on trial could, too.
  bool degraded(const std::string& group, TimePoint now, bool trial);
  double work_rate(const std::string& group, TimePoint now) const;
  // Seconds that a first token takes of late once a deployment was asked for it; 0: not known.
  double usual_first_token(const std::string& group) const;
  // What changed since this was last asked.
  std::vector<RouteEvent> events();

 private:
  struct Pool {
    explicit Pool(const OutlierOptions& options) : outliers(options) {}
    std::vector<std::shared_ptr<Live>> members;
    Ring ring;  // of the members, in their order
    Outliers outliers;
    WorkRate rate;
    Reserve urgent, usual;  // for those below priority 0; for those of 0
    ConcurrencyLimit::Done seen;
    double first_token = 0;  // the usual one
  };
  using Candidates = std::vector<std::shared_ptr<Live>>;

  void take_over(const std::string& group, Pool& pool, const std::map<std::string, std::shared_ptr<Live>>& by_name);
  bool has_place(const Pool& pool, Live& live, int priority) const;
  void turn(Pool& pool, TimePoint now);
  std::shared_ptr<Live> choose(Pool& pool, const Candidates& candidates, const Question& question, TimePoint now,
                               std::string& why);
  int cached(const Live& live, const Question& question, TimePoint now) const;
  std::shared_ptr<Live> by_ring(const Pool& pool, const Candidates& candidates, const Question& question,
                                std::string& why) const;
  void note(Live& live, TimePoint now);
  void note(Pool& pool, TimePoint now);

  FleetOptions options_;
  std::map<std::string, Pool> pools_;
  std::map<std::string, std::shared_ptr<Live>> by_name_;
  Sessions sessions_;
  std::uint64_t picks_ = 0;
  std::vector<RouteEvent> events_;
};

}  // namespace ashlar::gateway
