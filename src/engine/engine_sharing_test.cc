// Requests of one engine beside each other: what they share, and how they take turns.
#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "engine/fakes_for_test.h"

namespace ashlar::engine {
namespace {

using fake::alone;
using fake::HandClock;
using fake::House;
using fake::ids_of;
using fake::request;
using std::chrono::milliseconds;

TEST(Engine, ChoicesShareThePromptAndDifferByTheirStream) {
  House house;
  Request asked = request(std::string(40, 'p'), 12, {.temperature = 1, .seed = 3});
  asked.n = 4;
  asked.stopping.ignore_eos = true;
  const int before = house.model->rows;
  const auto sink = house.ask(asked);
  ASSERT_EQ(sink->choices.size(), 4u);
  EXPECT_LE(house.model->rows - before, 41 + 4 * 11) << "the prompt is computed once";
  EXPECT_EQ(house.model->store->copies, 3) << "the partial block, once for each other choice";
  for (int choice = 0; choice < 4; ++choice) {
    const auto& said = sink->choices[static_cast<std::size_t>(choice)];
    const auto expected = alone(ids_of(std::string(40, 'p')), 12, {.temperature = 1, .seed = 3}, choice);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), said.ids.begin()));
    EXPECT_TRUE(said.end);
  }
  EXPECT_NE(sink->choices[0].ids, sink->choices[1].ids);
  EXPECT_EQ(sink->finished->usage.completion_tokens, 48);
  EXPECT_EQ(sink->finished->usage.prompt_tokens, 41);
}

TEST(Engine, MoreChoicesThanPlacesTakeTurns) {
  House house({.options = {.max_num_seqs = 2}});
  Request asked = request("several", 8, {.temperature = 1, .seed = 3});
  asked.n = 5;
  const auto sink = house.ask(asked);
  for (int choice = 0; choice < 5; ++choice)
    EXPECT_EQ(sink->choices[static_cast<std::size_t>(choice)].ids,
              alone(ids_of("several"), 8, {.temperature = 1, .seed = 3}, choice));
  EXPECT_EQ(house.model->errors, 0);
}

TEST(Engine, ThePrefixCacheSparesThePrompt) {
  House house;
  const std::string prompt(100, 'q');
  const auto first = house.ask(request(prompt, 4));
  EXPECT_EQ(first->started->cached_tokens, 0);
  const int before = house.model->rows;
  const auto second = house.ask(request(prompt, 4));
  EXPECT_EQ(second->started->cached_tokens, 96);
  EXPECT_EQ(second->finished->usage.cached_tokens, 96);
  EXPECT_LE(house.model->rows - before, 101 - 96 + 3);
  EXPECT_EQ(first->choices[0].ids, second->choices[0].ids);
  Request other = request(prompt, 4);
  other.tenant = "another";
  EXPECT_EQ(house.ask(other)->started->cached_tokens, 0);
  other = request(prompt, 4);
  other.cache_salt = "salt";
  EXPECT_EQ(house.ask(other)->started->cached_tokens, 0);
  EXPECT_EQ(house.ask(request(std::string(95, 'q'), 2))->started->cached_tokens, 80)
      << "the last token is always computed";
}

// Eight cold clients over one system prompt: it is computed once.
TEST(Engine, PromptsThatComeTogetherAndBeginAlikeAreComputedOnce) {
  House house({.context = 1024});
  fake::Gate gate;
  house.model->before_forward = [&](const models::Step&) { gate(); };
  fake::Sink before;
  auto busy = *house.engine->start(request("somebody else", 1), before);
  gate.wait_for_arrival();
  const std::string system(409, 's');  // and <s>
  std::deque<fake::Sink> sinks(8);
  std::vector<std::unique_ptr<Ticket>> tickets;
  const auto prompt = [&](int i) { return system + "question " + std::to_string(i); };
  for (int i = 0; i < 8; ++i)
    tickets.push_back(*house.engine->start(request(prompt(i), 4), sinks[static_cast<std::size_t>(i)]));
  gate.open();
  for (int i = 0; i < 8; ++i) {
    fake::Sink& sink = sinks[static_cast<std::size_t>(i)];
    sink.wait();
    EXPECT_EQ(sink.choices[0].ids, alone(ids_of(prompt(i)), 4));
    EXPECT_EQ(sink.started->cached_tokens, i == 0 ? 0 : 416);
  }
  EXPECT_EQ(house.model->errors, 0);
  EXPECT_LE(house.model->rows, 16 + 420 + 7 * 4 + 8 * 3);
}

TEST(Engine, AnswersAndPromptsShareOneForwardPass) {
  House house;
  fake::Gate gate;
  std::atomic<int> mixed{0};
  house.model->before_forward = [&](const models::Step& step) {
    const bool decodes = std::ranges::any_of(step.sequences, [](const auto& s) { return s.rows == 1; });
    const bool prompts = std::ranges::any_of(step.sequences, [](const auto& s) { return s.rows > 1; });
    if (decodes && prompts) ++mixed;
    gate();
  };
  Request endless = request("endless", 50);
  endless.stopping.ignore_eos = true;
  fake::Sink first, second;
  auto a = *house.engine->start(endless, first);
  gate.wait_for_arrival(1);
  gate.let_pass(1);
  gate.wait_for_arrival(2);
  auto b = *house.engine->start(request("meanwhile another one", 5), second);
  gate.open();
  first.wait();
  second.wait();
  EXPECT_EQ(mixed, 1);
  EXPECT_LE(house.model->forwards, 51) << "the second request cost no pass of its own";
}

// On a machine where every row takes 1 ms and a step 10 ms more, in simulated time.
TEST(Engine, ALongPromptDoesNotStallARunningStream) {
  HandClock clock;
  House house({.options = {.max_num_batched_tokens = 512, .target_itl = milliseconds(100)},
               .context = 4096,
               .clock = clock.function()});
  std::atomic<int> steps{0};
  std::atomic<Clock::duration> longest{};
  fake::Gate gate;
  house.model->before_forward = [&](const models::Step& step) {
    const Clock::duration took = milliseconds(10 + step.tokens.size());
    const bool decodes = std::ranges::any_of(step.sequences, [](const auto& s) { return s.rows == 1; });
    const bool prompts = std::ranges::any_of(step.sequences, [](const auto& s) { return s.rows > 1; });
    if (decodes) longest = std::max(longest.load(), took);
    if (decodes && prompts) ++steps;
    gate();
    clock.move(took);
  };
  Request stream = request(std::string(300, 'x'), 400);
  stream.stopping.ignore_eos = true;
  fake::Sink first, second;
  auto a = *house.engine->start(stream, first);
  gate.wait_for_arrival(1);
  gate.let_pass(2);
  gate.wait_for_arrival(3);
  auto b = *house.engine->start(request(std::string(3000, 'y'), 2), second);
  gate.open();
  second.wait();
  EXPECT_LE(longest.load(), milliseconds(105));
  EXPECT_LE(steps, 3000 / 64 + 2) << "and the prompt is not starved";
  first.wait();
}

}  // namespace
}  // namespace ashlar::engine
