#include "gateway/routing/router.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <random>
#include <thread>

#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using fake::ask;
using fake::Sink;

// A deployment with a thread of its own, which answers, fails, hangs and refuses as its seed says.
class Restless final : public engine::Generator {
 public:
  explicit Restless(unsigned seed) : random_(seed), thread_([this](const std::stop_token& stop) { work(stop); }) {}
  ~Restless() override { thread_.request_stop(); }
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request, engine::Sink& sink) override {
    auto job = std::make_shared<Job>();
    const std::lock_guard lock(mutex_);
    if (random_() % 10 == 0) return std::unexpected(Refusal{.error = {Code::unavailable, "full"}});
    job->sink = &sink;
    jobs_.push_back(job);
    return std::make_unique<Ticket>(job);
  }
  std::vector<engine::ModelCard> models() const override { return {}; }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt&, bool) const override {
    return engine::Tokenized{};
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override { return ""; }
  Result<std::string> render(const std::string&, const engine::Chat&) const override { return ""; }
  Load load() const override { return {}; }

 private:
  struct Job {
    std::mutex mutex;  // not recursive: a ticket that dies inside its own call would hang
    engine::Sink* sink = nullptr;
    int step = 0;
  };
  struct Ticket final : engine::Ticket {
    explicit Ticket(std::shared_ptr<Job> which) : job(std::move(which)) {}
    ~Ticket() override {
      const std::lock_guard lock(job->mutex);
      job->sink = nullptr;
    }
    std::shared_ptr<Job> job;
  };
  void work(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::shared_ptr<Job> job;
      unsigned dice = 0;
      {
        const std::lock_guard lock(mutex_);
        dice = random_();
        if (!jobs_.empty()) job = jobs_[dice % jobs_.size()];
      }
      if (!job) {
        std::this_thread::yield();
        continue;
      }
      if (!step(*job, dice / 64)) {
        const std::lock_guard lock(mutex_);
        std::erase(jobs_, job);
      }
    }
  }
  static bool step(Job& job, unsigned dice) {
    const std::lock_guard lock(job.mutex);
    if (job.sink == nullptr) return false;
    const bool fails = dice % 16 == 0;
    if (fails) job.sink->on(engine::Failed{.error = {Code::io, "gone"}});
    if (fails) return job.sink = nullptr, false;
    switch (job.step++) {
      case 0:
        job.sink->on(engine::Started{});
        return true;
      case 1:
      case 2:
        job.sink->on(engine::Text{.text = "x", .ids = {1}});
        return true;
      case 3:
        job.sink->on(engine::ChoiceEnd{});
        return true;
      default:
        job.sink->on(engine::Finished{});
        job.sink = nullptr;
        return false;
    }
  }

  std::mutex mutex_;
  std::mt19937 random_;
  std::vector<std::shared_ptr<Job>> jobs_;
  std::jthread thread_;
};

// What one client saw; several threads may hold it against the contract.
class Watch final : public engine::Sink {
 public:
  void on(engine::Event event) override {
    if (dead || over) ++wrong;
    if (notes && notes->size() != 1) ++wrong;
    if (std::holds_alternative<engine::Started>(event) && began++ > 0) ++wrong;
    over = over || std::holds_alternative<engine::Finished>(event) || std::holds_alternative<engine::Failed>(event);
    // Events may come before start() has returned the ticket, and it may not be waited for here.
    if (drop_inside && has_ticket) {
      dead = true;
      ticket.reset();
      dropped = true;
    }
    gone = dropped || over;
  }
  std::atomic<bool> dead = false, over = false;
  std::atomic<int> began = 0, wrong = 0;
  bool drop_inside = false;
  std::shared_ptr<engine::Notes> notes;  // of one that asks for its way: there, once, before the first event
  std::unique_ptr<RouteTicket> ticket;
  std::atomic<bool> has_ticket = false, dropped = false;
  std::atomic<bool> gone = false;  // this has been left for good
};

TEST(RouterThreads, ManyStartAndLeaveWhileDeploymentsComeAndGo) {
  RouterOptions options;
  options.cache.most_bytes = 1 << 16;
  options.first_token = 50ms;
  options.poll = 1ms;
  options.fleet.concurrency = {.settle = 1ms, .window = 2ms, .rest = 5ms};
  std::atomic<int> told = 0;
  options.on_done = [&](const RouteTrace& trace) { told += trace.json().empty() ? 0 : 1; };
  RouteTable table;
  table.groups = {{.name = "g", .sticky = true}};
  for (unsigned i = 0; i < 3; ++i)
    table.deployments.push_back({.name = std::string(1, static_cast<char>('a' + i)),
                                 .group = "g",
                                 .generator = std::make_shared<Restless>(i),
                                 .max_concurrent = 4,
                                 .adaptive = true});
  auto router = std::move(*Router::create(options, table));
  table.deployments.clear();
  std::atomic<int> wrong = 0, answered = 0;
  {
    std::vector<std::jthread> clients;
    for (unsigned c = 0; c < 4; ++c)
      clients.emplace_back([&, c] {
        std::mt19937 random{c};
        for (int i = 0; i < 150; ++i) {
          Watch watch;
          auto request = ask("question " + std::to_string(random() % 8));
          if (random() % 2 == 0) request.sampling.temperature = 0;
          if (random() % 2 == 0) {
            request.sender.explain = true;
            request.notes = watch.notes = std::make_shared<engine::Notes>();
          }
          auto ticket = router->route(std::move(request), {.session = std::to_string(random() % 4)}, watch);
          if (!ticket) continue;
          const auto patience = random() % 3 == 0 ? random() % 200 : 100'000;
          for (unsigned spin = 0; spin < patience && !watch.over; ++spin) std::this_thread::yield();
          (void)(*ticket)->trace();
          ticket->reset();
          watch.dead = true;
          wrong += watch.wrong;
          answered += watch.over ? 1 : 0;
        }
      });
    std::jthread operators([&](const std::stop_token& stop) {
      for (unsigned i = 0; !stop.stop_requested(); ++i) {
        (void)router->add({.name = "d", .group = "g", .generator = std::make_shared<Restless>(i)});
        (void)router->state();
        (void)router->load();
        (void)router->remove("d");
        (void)router->force("a", i % 2 == 0 ? Breaker::Mode::forced_open : Breaker::Mode::automatic);
        std::this_thread::yield();
      }
    });
    clients.clear();
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(answered, 50);
  EXPECT_GT(told, 50);
}

TEST(RouterThreads, TicketsDieInsideTheirOwnSinksOnAGeneratorThatCouldNotBearIt) {
  RouterOptions options;
  RouteTable table;
  table.groups = {{.name = "g"}};
  table.deployments.push_back({.name = "a", .group = "g", .generator = std::make_shared<Restless>(1U)});
  auto router = std::move(*Router::create(options, std::move(table)));
  int wrong = 0, dropped = 0;
  for (int i = 0; i < 200; ++i) {
    Watch watch;
    watch.drop_inside = true;
    auto ticket = router->route(ask(), {}, watch);
    if (!ticket) continue;
    watch.ticket = std::move(*ticket);
    watch.has_ticket = true;
    while (!watch.gone) std::this_thread::yield();
    wrong += watch.wrong;
    dropped += watch.dropped ? 1 : 0;
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(dropped, 0);
}

}  // namespace
}  // namespace ashlar::gateway
