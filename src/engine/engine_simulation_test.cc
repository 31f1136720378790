// Thousands of random requests in a cache that is far too small, so that
// preemption, eviction, sharing, forks and aborts happen all the time: every
// token is still what the request would get alone.
#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <sstream>
#include <thread>

#include "base/metrics.h"
#include "engine/engine.h"
#include "engine/fakes_for_test.h"

namespace ashlar::engine {
namespace {

using fake::alone;
using fake::House;
using fake::ids_of;

struct Live {
  Request request;
  std::string prompt;
  fake::Sink sink;
  std::unique_ptr<Ticket> ticket;
  bool dropped = false;
};

// Prompts out of few beginnings, so that many share their first blocks.
std::unique_ptr<Live> make(std::mt19937& random, int context, int number) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  auto live = std::make_unique<Live>();
  live->prompt.assign(static_cast<std::size_t>(below(3) * 16 + below(20)), static_cast<char>('a' + below(2)));
  for (int i = below(12); i > 0; --i) live->prompt.push_back(static_cast<char>('a' + below(3)));
  const int room = context - static_cast<int>(live->prompt.size()) - 1;
  Sampling sampling{.temperature = 0};
  if (below(2) == 0)
    sampling = {.temperature = 0.9F, .top_k = below(3) * 10, .top_p = below(2) == 0 ? 1 : 0.9F, .seed = random()};
  if (below(4) == 0) sampling.repetition_penalty = 1.2F, sampling.presence_penalty = 0.5F;
  live->request = fake::request(live->prompt, 1 + below(room), sampling);
  live->request.id = std::to_string(number);
  live->request.tenant = std::to_string(below(3));
  live->request.priority = below(5) == 0 ? -1 : 0;
  live->request.n = below(4) == 0 ? 1 + below(4) : 1;
  if (below(10) == 0) live->request.prompt_logprobs = 1;
  if (below(4) == 0) live->request.speculating.by = static_cast<Speculation>(below(4));
  if (below(4) == 0) live->request.speculating.most = below(6);
  if (below(3) == 0) {
    // Much of what it will say, with a byte here and there that is wrong.
    std::string& prediction = live->request.speculating.prediction;
    for (const std::int32_t id : alone(ids_of(live->prompt), live->request.stopping.max_tokens, sampling))
      prediction.push_back(below(10) == 0 ? 'x' : static_cast<char>(id));
  }
  return live;
}

void check(Live& live) {
  const fake::Sink& sink = live.sink;
  EXPECT_EQ(sink.late, 0);
  ASSERT_FALSE(sink.failed) << sink.failed->error.message;
  if (!live.dropped) {
    ASSERT_TRUE(sink.finished);
    EXPECT_EQ(sink.choices.size(), static_cast<std::size_t>(live.request.n));
  }
  for (std::size_t choice = 0; choice < sink.choices.size(); ++choice) {
    const auto expected =
        alone(ids_of(live.prompt), live.request.stopping.max_tokens, live.request.sampling, static_cast<int>(choice));
    const auto& said = sink.choices[choice].ids;
    if (live.dropped)
      EXPECT_TRUE(said.size() <= expected.size() && std::equal(said.begin(), said.end(), expected.begin()));
    else
      EXPECT_EQ(said, expected) << "request " << live.request.id << " choice " << choice;
  }
}

// The sum of a counter's samples on the metrics page.
double counted(const std::string& name) {
  double sum = 0;
  std::istringstream page(metrics::render());
  for (std::string line; std::getline(page, line);)
    if (line.starts_with(name + "{")) sum += std::stod(line.substr(line.rfind(' ')));
  return sum;
}

// `wrong`: how many of 16 guesses of the draft model are.
void simulate(EngineOptions options, int context, int requests, unsigned seed, unsigned wrong = 4) {
  std::mt19937 random(seed);
  const auto draft = fake::draft_model(wrong, context);
  House house({.options = options, .context = context, .draft = draft});
  ASSERT_EQ(house.engine->context(), context);
  house.model->in_pause = [] { std::this_thread::yield(); };  // so that urgent ones come then
  std::deque<std::unique_ptr<Live>> live;
  for (int number = 0; number < requests || !live.empty();) {
    if (number < requests && live.size() < 24) {
      auto next = make(random, context, number++);
      auto ticket = house.engine->start(next->request, next->sink);
      ASSERT_TRUE(ticket) << ticket.error().error.message;
      next->ticket = *std::move(ticket);
      live.push_back(std::move(next));
      continue;
    }
    // Some leave before they have all, some before they have anything.
    if (random() % 6 == 0) {
      Live& leaving = *live[random() % live.size()];
      if (leaving.ticket != nullptr) {
        if (random() % 2 == 0) leaving.sink.wait_for_text();
        leaving.dropped = true;
        leaving.ticket.reset();
      }
    }
    Live& oldest = *live.front();
    if (oldest.ticket != nullptr) oldest.sink.wait();
    oldest.ticket.reset();
    check(oldest);
    if (testing::Test::HasFailure()) return;
    live.pop_front();
  }
  EXPECT_TRUE(house.engine->drain(Clock::time_point::max()));
  EXPECT_EQ(house.engine->load().kv_used, 0) << "a block leaked";
  EXPECT_EQ(house.engine->load().running + house.engine->load().waiting, 0);
  EXPECT_EQ(house.model->errors, 0) << "a row was read or written where it is not";
  EXPECT_EQ(draft->errors, 0) << "the same, by the draft model";
  const double drafted = counted("vllm:spec_decode_num_draft_tokens_total");
  const double accepted = counted("vllm:spec_decode_num_accepted_tokens_total");
  EXPECT_GT(accepted, 20) << "no guess was ever right";
  EXPECT_GT(drafted, accepted) << "no guess was ever wrong";
  EXPECT_GT(counted("vllm:num_preemptions_total"), 10) << "nothing was contested";
  if (options.enable_prefix_caching && options.max_num_batched_tokens >= 24)
    EXPECT_GT(counted("ashlar_engine_prefix_waits_total"), 0) << "nobody waited for a common prefix";
}

TEST(EngineSimulation, ATinyCache) {
  simulate({.max_num_seqs = 8, .max_num_batched_tokens = 24, .kv_cache_memory = fake::blocks(16)}, 128, 700, 1);
}

TEST(EngineSimulation, AnyBudget) {
  for (const int budget : {4, 16, 17, 100})
    simulate({.max_num_seqs = 4, .max_num_batched_tokens = budget, .kv_cache_memory = fake::blocks(12)}, 96, 100,
             static_cast<unsigned>(budget));
}

TEST(EngineSimulation, ManySequencesAndRoomForHalf) {
  simulate({.max_num_seqs = 32, .max_num_batched_tokens = 64, .kv_cache_memory = fake::blocks(80)}, 96, 500, 3);
}

TEST(EngineSimulation, WithoutAPrefixCache) {
  simulate({.max_num_seqs = 8,
            .max_num_batched_tokens = 32,
            .kv_cache_memory = fake::blocks(16),
            .enable_prefix_caching = false},
           96, 400, 4);
}

TEST(EngineSimulation, GuessesRightAndWrong) {
  for (const int most : {1, 3, 20})
    for (const unsigned wrong : {0U, 3U, 15U}) {
      simulate({.max_num_seqs = 6,
                .max_num_batched_tokens = 40,
                .kv_cache_memory = fake::blocks(2 * 9),  // half of them for the draft model
                .speculative_tokens = most,
                .speculative_max_batch = 6},
               128, 120, wrong, wrong);
    }
}

// Many threads ask, leave, look and are served at once; for ThreadSanitizer above all.
TEST(EngineThreads, ManyClientsAtOnce) {
  House house({.options = {.max_num_seqs = 8,
                           .max_num_batched_tokens = 64,
                           .kv_cache_memory = fake::blocks(48),
                           .max_num_queued_reqs = 16},
               .context = 96,
               .pool = std::make_shared<ThreadPool>(2),
               .draft = fake::draft_model(4, 96)});
  std::atomic<int> finished{0}, refused{0};
  std::vector<std::jthread> clients;
  for (unsigned client = 0; client < 12; ++client)
    clients.emplace_back([&, client] {
      std::mt19937 random(client);
      for (int i = 0; i < 40; ++i) {
        auto live = make(random, 96, i);
        auto ticket = house.engine->start(live->request, live->sink);
        if (!ticket) {
          EXPECT_EQ(ticket.error().error.code, Code::exhausted);
          ++refused;
          continue;
        }
        live->ticket = *std::move(ticket);
        if (random() % 3 == 0) {
          live->sink.wait_for_text();
          live->dropped = true;  // it may have ended meanwhile; a prefix is right in any case
          live->ticket.reset();
        } else {
          live->sink.wait();
          ++finished;
        }
        check(*live);
        static_cast<void>(house.engine->load());
        static_cast<void>(house.engine->models());
      }
    });
  clients.clear();
  EXPECT_GT(finished, 0);
  EXPECT_TRUE(house.engine->drain(Clock::time_point::max()));
  EXPECT_EQ(house.engine->load().kv_used, 0);
  EXPECT_EQ(house.model->errors, 0);
}

}  // namespace
}  // namespace ashlar::engine
