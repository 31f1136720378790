// A fleet of replicas in simulated time: the router is the real one, on one thread and a clock that events turn. One
// seed, one run. Used by the tests and by bench/routing_simulation.cc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/prefixes.h"
#include "gateway/routing/router.h"

namespace ashlar::gateway::simulation {

using namespace std::chrono_literals;

class World {
 public:
  TimePoint now{1'000'000s};
  void at(TimePoint when, std::function<void()> what) {
    events_.push({std::max(when, now), ++events_made_, std::move(what)});
  }
  void after(double seconds, std::function<void()> what) {
    at(now + std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9)), std::move(what));
  }
  // Until nothing is left to happen but the router's own polls.
  void run(Router& router, TimePoint until = TimePoint::max()) {
    TimePoint due = router.turn();
    while (!events_.empty() && now < until) {
      const TimePoint next = std::min(events_.top().when, std::max(due, now + 1us));
      now = std::max(now, next);
      while (!events_.empty() && events_.top().when <= now) {
        auto what = std::move(events_.top().what);
        events_.pop();
        what();
      }
      due = router.turn();
    }
  }

 private:
  struct Entry {
    TimePoint when;
    std::uint64_t order;
    mutable std::function<void()> what;
    bool operator<(const Entry& other) const { return when != other.when ? when > other.when : order > other.order; }
  };
  std::priority_queue<Entry> events_;
  std::uint64_t events_made_ = 0;
};

// What a request is, by its id: the router sees its text and hints alone.
struct Facts {
  std::vector<std::uint64_t> blocks;
  int input = 0, output = 0;
};
using Book = std::unordered_map<std::string, Facts>;

struct Shape {
  double prefill_tokens_per_second = 10'000;
  double decode_step_seconds = 0.02;  // of a batch of one; each request more adds decode_step_more
  double decode_step_more = 0;
  std::size_t cache_blocks = 4096;
  int block_tokens = 512;
  int chunk = 512;     // of a prompt, before a more urgent one may go on
  bool tells = false;  // what it has cached
};

// Prompts are computed one after the other in chunks, the most urgent first, less what the LRU cache of blocks has;
// then tokens come at the batch's pace, told in one event at the end. Tokens are not drawn: only times are simulated.
class Replica final : public engine::Generator {
 public:
  Replica(World& world, const Book& book, Shape shape) : world_(world), book_(book), shape_(shape) {}

  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override {
    if (dead) return std::unexpected(Refusal{.error = {Code::io, "connection refused"}});
    auto job = std::make_shared<Job>();
    job->facts = &book_.at(request.id);
    job->sink = &sink;
    job->rank = {request.priority, ++jobs_};
    alive_.push_back(job);
    waiting_.emplace(job->rank, job);
    prefill();
    return std::make_unique<Ticket>(*this, job);
  }
  // Its cache is empty, as after a restart.
  void forget() {
    order_.clear();
    cached_.clear();
  }
  // All that runs there fails; nothing starts.
  void kill() {
    dead = true;
    waiting_.clear();
    for (const auto& job : std::exchange(alive_, {}))
      if (job->sink != nullptr)
        std::exchange(job->sink, nullptr)->on(engine::Failed{.error = {Code::io, "connection reset"}});
    decoding_ = 0;
  }
  std::vector<engine::ModelCard> models() const override { return {}; }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt&, bool) const override {
    return engine::Tokenized{};
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override { return ""; }
  Result<std::string> render(const std::string&, const engine::Chat&) const override { return ""; }
  Load load() const override { return {}; }
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string&) const override {
    return shape_.tells ? std::make_shared<const Cached>(*this) : nullptr;
  }

  bool dead = false;
  std::int64_t computed_tokens = 0, cached_tokens = 0;

 private:
  // Asked at once, and held by nobody.
  struct Cached final : engine::CachedPrefixes {
    explicit Cached(const Replica& which) : replica(which) {}
    int cached(std::span<const std::uint64_t> keys) const override {
      std::size_t found = 0;
      while (found < keys.size() && replica.cached_.contains(keys[found])) ++found;
      return static_cast<int>(found) * replica.shape_.block_tokens;
    }
    std::size_t size() const override { return replica.cached_.size(); }
    News news(std::uint64_t, std::uint64_t, std::size_t) const override { return {}; }
    const Replica& replica;
  };

  struct Job {
    const Facts* facts = nullptr;
    engine::Sink* sink = nullptr;  // null: over, or dropped
    std::pair<int, std::uint64_t> rank;
    bool decoding = false;
    int cached = 0, left = -1;  // of the prompt; -1: not begun
  };
  struct Ticket final : engine::Ticket {
    Ticket(Replica& which, std::shared_ptr<Job> what) : replica(which), job(std::move(what)) {}
    ~Ticket() override { replica.drop(job); }
    Replica& replica;
    std::shared_ptr<Job> job;
  };

  void drop(const std::shared_ptr<Job>& job) {
    waiting_.erase(job->rank);
    std::erase(alive_, job);
    if (job->sink != nullptr && job->decoding) --decoding_;
    job->sink = nullptr;
  }

  void prefill() {
    if (computing_ || waiting_.empty() || dead) return;
    const auto job = waiting_.begin()->second;
    waiting_.erase(waiting_.begin());
    if (job->left < 0) open(*job);
    const int chunk = std::min(job->left, shape_.chunk);
    computing_ = true;
    world_.after(chunk / shape_.prefill_tokens_per_second, [this, job, chunk] {
      computing_ = false;
      job->left -= chunk;
      if (job->sink != nullptr && job->left > 0) waiting_.emplace(job->rank, job);
      if (job->sink != nullptr && job->left == 0) first_token(job);
      prefill();
    });
  }

  // What of its prompt is cached, and what is to be computed: the last token in any case.
  void open(Job& job) {
    const auto& blocks = job.facts->blocks;
    std::size_t found = 0;
    while (found < blocks.size() && cached_.contains(blocks[found])) ++found;
    job.cached = std::min(static_cast<int>(found) * shape_.block_tokens, job.facts->input - 1);
    job.left = job.facts->input - job.cached;
    computed_tokens += job.left;
    cached_tokens += job.cached;
    for (std::size_t i = blocks.size(); i-- > 0;) touch(blocks[i]);
  }

  void first_token(const std::shared_ptr<Job>& job) {
    job->sink->on(engine::Started{.prompt_tokens = job->facts->input, .cached_tokens = job->cached});
    if (job->sink != nullptr) job->sink->on(engine::Text{.text = "x", .ids = {1}});
    if (job->sink == nullptr) return;
    job->decoding = true;
    ++decoding_;
    const double step = shape_.decode_step_seconds + shape_.decode_step_more * decoding_;
    world_.after(step * (job->facts->output - 1), [this, job] {
      if (job->sink == nullptr) return;
      engine::Sink& sink = *std::exchange(job->sink, nullptr);
      std::erase(alive_, job);
      --decoding_;
      sink.on(engine::Text{.text = "x",
                           .ids = std::vector<std::int32_t>(static_cast<std::size_t>(job->facts->output - 1), 1)});
      sink.on(engine::ChoiceEnd{});
      sink.on(engine::Finished{.usage = {.prompt_tokens = job->facts->input, .completion_tokens = job->facts->output}});
    });
  }

  void touch(std::uint64_t block) {
    if (const auto found = cached_.find(block); found != cached_.end()) {
      order_.splice(order_.end(), order_, found->second);
      return;
    }
    if (order_.size() >= shape_.cache_blocks) {
      cached_.erase(order_.front());
      order_.pop_front();
    }
    order_.push_back(block);
    cached_[block] = std::prev(order_.end());
  }

  World& world_;
  const Book& book_;
  Shape shape_;
  std::map<std::pair<int, std::uint64_t>, std::shared_ptr<Job>> waiting_;
  std::vector<std::shared_ptr<Job>> alive_;
  std::list<std::uint64_t> order_;
  std::unordered_map<std::uint64_t, std::list<std::uint64_t>::iterator> cached_;
  std::uint64_t jobs_ = 0;
  int decoding_ = 0;
  bool computing_ = false;
};

// One client: when it asked, when its first token came, how it ended. Its ticket is dropped at the end.
struct Client final : engine::Sink {
  explicit Client(World& which) : world(which) {}
  void on(engine::Event event) override {
    if (std::holds_alternative<engine::Text>(event) && !first_token) first_token = world.now;
    if (std::holds_alternative<engine::Finished>(event)) ended = world.now, good = true;
    if (std::holds_alternative<engine::Failed>(event)) ended = world.now;
    if (ended) ticket.reset();
  }
  double ttft() const { return std::chrono::duration<double>(*first_token - asked).count(); }
  World& world;
  TimePoint asked{};
  int priority = 0;
  bool good = false;
  std::optional<TimePoint> first_token, ended;
  std::unique_ptr<RouteTicket> ticket;
};

// The share-th smallest.
inline double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

}  // namespace ashlar::gateway::simulation
