// Urgent requests come in the middle of a step, whose answers do not show it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "engine/engine.h"
#include "engine/fakes_for_test.h"

namespace ashlar::engine {
namespace {

using fake::alone;
using fake::House;
using fake::ids_of;
using fake::request;

Request urgent(std::string prompt, int max_tokens) {
  Request made = request(std::move(prompt), max_tokens);
  made.priority = -1;
  return made;
}

// The n-th step rests until somebody opens the gate.
struct Resting {
  fake::Gate gate;
  std::atomic<int> before;
  explicit Resting(House& house, int steps) : before(steps) {
    house.model->in_pause = [this] {
      if (before-- == 0) gate();
    };
  }
};

TEST(UrgentRequests, HaveTheirFirstTokenInTheMiddleOfAStep) {
  House house({.options = {.max_num_seqs = 2}});
  Resting resting(house, 5);
  fake::Sink usual[2], quick;
  std::vector<std::unique_ptr<Ticket>> tickets;
  // A token of the step that rested comes after those of the urgent one.
  std::atomic<bool> resting_now{false};
  std::vector<char> order;
  usual[0].hook = [&](const Event& event) {
    if (resting_now && std::holds_alternative<Text>(event)) order.push_back('u');
  };
  quick.hook = [&](const Event& event) {
    if (std::holds_alternative<Text>(event)) order.push_back('q');
  };
  for (fake::Sink& sink : usual) tickets.push_back(*house.engine->start(request("ordinary", 40), sink));
  resting.gate.wait_for_arrival();
  resting_now = true;
  tickets.push_back(*house.engine->start(urgent("urgent", 3), quick));
  resting.gate.open();
  for (fake::Sink* sink : {&usual[0], &usual[1], &quick}) sink->wait();
  ASSERT_GE(order.size(), 2u);
  EXPECT_EQ(order[0], 'q');
  EXPECT_EQ(quick.choices[0].ids, alone(ids_of("urgent"), 3));
  for (const fake::Sink& sink : usual)
    EXPECT_EQ(sink.choices[0].ids, alone(ids_of("ordinary"), 40)) << "pushed out or not";
  EXPECT_EQ(house.model->errors, 0);
}

TEST(UrgentRequests, ThatFailInTheMiddleOfAStepFailAlone) {
  House house({.options = {.max_num_seqs = 4}});
  Resting resting(house, 3);
  house.model->before_forward = [](const models::Step& step) {
    if (step.pause == nullptr) throw std::runtime_error("no");
  };
  fake::Sink usual, quick;
  auto first = *house.engine->start(request("ordinary", 40), usual);
  resting.gate.wait_for_arrival();
  auto second = *house.engine->start(urgent("bad", 4), quick);
  resting.gate.open();
  usual.wait();
  quick.wait();
  ASSERT_TRUE(quick.failed);
  EXPECT_EQ(quick.failed->error.code, Code::internal);
  EXPECT_EQ(usual.choices[0].ids, alone(ids_of("ordinary"), 40));
  EXPECT_TRUE(house.engine->drain(Clock::time_point::max()));
  EXPECT_EQ(house.engine->load().kv_used, 0);
}

TEST(UrgentRequests, MayLeaveInTheMiddleOfAStep) {
  House house({.options = {.max_num_seqs = 4}});
  Resting resting(house, 3);
  fake::Sink usual, quick;
  auto first = *house.engine->start(request("ordinary", 40), usual);
  resting.gate.wait_for_arrival();
  std::unique_ptr<Ticket> second;
  quick.hook = [&](const Event& event) {
    if (std::holds_alternative<Text>(event)) second.reset();
  };
  second = *house.engine->start(urgent("leaves", 4), quick);
  resting.gate.open();
  usual.wait();
  EXPECT_EQ(usual.choices[0].ids, alone(ids_of("ordinary"), 40));
  EXPECT_TRUE(house.engine->drain(Clock::time_point::max()));
  EXPECT_EQ(house.engine->load().kv_used, 0);
}

// Several answers, a cache that is too small, steps that rest at any time.
TEST(UrgentRequests, LeaveEveryAnswerAsItIs) {
  House house({.options = {.max_num_seqs = 3, .max_num_batched_tokens = 24, .kv_cache_memory = fake::blocks(10)},
               .context = 96});
  house.model->in_pause = [] { std::this_thread::yield(); };
  std::vector<std::unique_ptr<fake::Sink>> sinks;
  std::vector<std::unique_ptr<Ticket>> tickets;
  std::vector<std::string> prompts;
  for (int i = 0; i < 300; ++i) {
    prompts.push_back(std::string(static_cast<std::size_t>(1 + i * 7 % 40), static_cast<char>('a' + i % 5)));
    Request asked = i % 3 == 0 ? urgent(prompts.back(), 1 + i % 9) : request(prompts.back(), 1 + i % 30);
    if (i % 7 == 0) asked.n = 2;
    sinks.push_back(std::make_unique<fake::Sink>());
    tickets.push_back(*house.engine->start(std::move(asked), *sinks.back()));
    if (i % 4 == 0) sinks[static_cast<std::size_t>(i / 2)]->wait();
  }
  for (std::size_t i = 0; i < sinks.size(); ++i) {
    sinks[i]->wait();
    ASSERT_TRUE(sinks[i]->finished);
    const int length = static_cast<int>(i % 3 == 0 ? 1 + i % 9 : 1 + i % 30);
    for (const auto& choice : sinks[i]->choices) EXPECT_EQ(choice.ids, alone(ids_of(prompts[i]), length)) << i;
  }
  EXPECT_EQ(house.model->errors, 0);
  EXPECT_TRUE(house.engine->drain(Clock::time_point::max()));
  EXPECT_EQ(house.engine->load().kv_used, 0);
}

}  // namespace
}  // namespace ashlar::engine
