#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <stdexcept>
#include <thread>

#include "base/metrics.h"
#include "engine/fakes_for_test.h"
#include "engine/residents.h"

namespace ashlar::engine {
namespace {

using fake::alone;
using fake::House;
using fake::ids_of;
using fake::request;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

// A clock that moves when it is told to.
struct HandClock {
  std::shared_ptr<std::atomic<Clock::duration>> offset =
      std::make_shared<std::atomic<Clock::duration>>(Clock::duration(0));
  Clock::time_point start = Clock::now();
  std::function<Clock::time_point()> function() const {
    return [begin = start, by = offset] { return begin + by->load(); };
  }
  void move(Clock::duration by) { offset->store(offset->load() + by); }
};

Error refused(Engine& engine, Request asked) {
  fake::Sink sink;
  auto ticket = engine.start(std::move(asked), sink);
  EXPECT_FALSE(ticket);
  return ticket ? Error{} : ticket.error().error;
}

TEST(Engine, AnswersWhatTheModelSaysAlone) {
  House house;
  const auto sink = house.ask(request("hello there", 20));
  ASSERT_TRUE(sink->finished);
  EXPECT_EQ(sink->choices[0].ids, alone(ids_of("hello there"), 20));
  EXPECT_EQ(sink->started->prompt_tokens, 12);
  EXPECT_EQ(sink->finished->usage.prompt_tokens, 12);
  EXPECT_EQ(sink->finished->usage.completion_tokens, static_cast<int>(sink->choices[0].ids.size()));
  EXPECT_EQ(house.model->errors, 0);
}

TEST(Engine, RendersAChatWithItsTemplate) {
  House house;
  Request chat;
  chat.prompt = {
      .input = Chat{.messages = std::make_shared<const Json>(Json::parse(R"([{"role":"user","content":"hi"}])"))}};
  chat.sampling.temperature = 0;
  chat.stopping.max_tokens = 5;
  const auto sink = house.ask(std::move(chat));
  const auto ids =
      fake::Tokenizer().encode("<s>user: hi<|eot|>assistant: ", {.add_special = false, .parse_special = true});
  EXPECT_EQ(ids.front(), fake::kBos);
  EXPECT_EQ(sink->choices[0].ids, alone(ids, 5));
}

TEST(Engine, ContinuesTheLastMessage) {
  House house;
  Chat chat{.messages = std::make_shared<const Json>(Json::parse(R"([{"role":"assistant","content":"I was "}])")),
            .add_generation_prompt = false,
            .continue_final_message = true};
  EXPECT_EQ(*house.engine->render("fake", chat), "<s>assistant: I was ");
  chat.add_generation_prompt = true;
  EXPECT_EQ(house.engine->render("fake", chat).error().code, Code::invalid);
}

TEST(Engine, WithoutATemplateAChatIsUnsupported) {
  House house({.chat = false});
  const Chat chat{.messages = std::make_shared<const Json>(Json::array())};
  EXPECT_EQ(house.engine->render("fake", chat).error().code, Code::unsupported);
  EXPECT_FALSE(house.engine->models()[0].has_chat_template);
}

TEST(Engine, TakesIdsAsTheyAre) {
  House house;
  Request asked = request("", 6);
  asked.prompt.input = std::vector<std::int32_t>{5, 6, 7};
  EXPECT_EQ(house.ask(asked)->choices[0].ids, alone({5, 6, 7}, 6));
  asked.prompt.input = std::vector<std::int32_t>{5, 260};
  EXPECT_THAT(refused(*house.engine, asked).message, HasSubstr("260"));
}

TEST(Engine, KnowsItsNames) {
  House house;
  Request asked = request("x", 1);
  asked.model = "alias";
  EXPECT_TRUE(house.ask(asked)->finished);
  asked.model = "other";
  const Error error = refused(*house.engine, asked);
  EXPECT_EQ(error.code, Code::not_found);
  EXPECT_THAT(error.message, HasSubstr("fake, alias"));
  const auto cards = house.engine->models();
  ASSERT_EQ(cards.size(), 2u);
  EXPECT_EQ(cards[1].id, "alias");
  EXPECT_EQ(cards[0].context, 256);
}

TEST(Engine, TokenizesAndDetokenizes) {
  House house;
  const auto tokens = house.engine->tokenize("fake", {.input = "a</s>"}, true);
  EXPECT_THAT(tokens->ids, ElementsAre(fake::kBos, 'a', fake::kEos));
  EXPECT_THAT(tokens->pieces, ElementsAre("<s>", "a", "</s>"));
  EXPECT_EQ(tokens->context, 256);
  EXPECT_EQ(house.engine->tokenize("fake", {.input = "a</s>"}, false)->ids.size(), 6u);
  EXPECT_EQ(*house.engine->detokenize("fake", {'h', 'i'}), "hi");
  EXPECT_EQ(house.engine->detokenize("fake", {999}).error().code, Code::invalid);
}

TEST(Engine, RefusesWhatTheContextCannotHoldWithBothNumbers) {
  House house({.context = 64});
  Error error = refused(*house.engine, request(std::string(60, 'x'), 10));
  EXPECT_EQ(error.code, Code::invalid);
  EXPECT_EQ(error.message, "the prompt has 61 tokens and max_tokens asks for 10 more, but the context holds 64");
  error = refused(*house.engine, request(std::string(63, 'x'), -1));
  EXPECT_EQ(error.message, "the prompt has 64 tokens, but the context holds 64 together with the answer");
  Request unending = request(std::string(50, 'x'), -1);
  unending.stopping.ignore_eos = true;
  const auto sink = house.ask(unending);
  EXPECT_EQ(sink->choices[0].ids.size(), 13u) << "as many as the context holds";
  EXPECT_EQ(sink->choices[0].end->reason, FinishReason::length);
}

TEST(Engine, TheMemoryBoundsTheContext) {
  House house({.options = {.kv_cache_memory = fake::blocks(4)}, .context = 256});
  EXPECT_EQ(house.engine->context(), 64);
  EXPECT_EQ(house.engine->kv_blocks(), 4);
  const fake::Model model;
  const auto plan = plan_cache({.max_model_len = 256, .kv_cache_memory = fake::blocks(4)}, model, {1 << 30});
  EXPECT_EQ(plan.error().code, Code::invalid);
  EXPECT_THAT(plan.error().message, HasSubstr("64 tokens"));
  EXPECT_EQ(plan_cache({}, model, {1 << 30})->blocks, 64 * 256 / 16)
      << "never more than all sequences at their longest";
  EXPECT_EQ(plan_cache({}, model, {100 << 10})->blocks, 50) << "half of the free memory";
  EXPECT_EQ(plan_cache({}, model, {1000}).error().code, Code::exhausted);
  EXPECT_EQ(plan_cache({.max_num_seqs = 10, .max_num_batched_tokens = 9}, model, {1 << 30}).error().code,
            Code::invalid);
  EXPECT_EQ(plan_cache({.kv_type = "f8"}, model, {1 << 30}).error().code, Code::invalid);
}

TEST(Engine, ChecksWhatItIsAsked) {
  House house;
  const auto message = [&](auto&& change) {
    Request asked = request("x", 4);
    change(asked);
    const Error error = refused(*house.engine, asked);
    EXPECT_EQ(error.code, Code::invalid);
    return error.message;
  };
  EXPECT_THAT(message([](Request& r) { r.n = 0; }), HasSubstr("n is 0"));
  EXPECT_THAT(message([](Request& r) { r.n = 1000; }), HasSubstr("between 1 and 128"));
  EXPECT_THAT(message([](Request& r) { r.sampling.temperature = -1; }), HasSubstr("temperature"));
  EXPECT_THAT(message([](Request& r) { r.sampling.temperature = std::nanf(""); }), HasSubstr("temperature"));
  EXPECT_THAT(message([](Request& r) { r.sampling.top_p = 0; }), HasSubstr("top_p"));
  EXPECT_THAT(message([](Request& r) { r.sampling.top_k = -2; }), HasSubstr("top_k"));
  EXPECT_THAT(message([](Request& r) { r.sampling.logit_bias = {{260, 1}}; }), HasSubstr("260"));
  EXPECT_THAT(message([](Request& r) { r.sampling.allowed_token_ids = {-1}; }), HasSubstr("-1"));
  EXPECT_THAT(message([](Request& r) { r.stopping.stop = {""}; }), HasSubstr("empty"));
  EXPECT_THAT(message([](Request& r) { r.stopping.stop = {"\xff"}; }), HasSubstr("UTF-8"));
  EXPECT_THAT(message([](Request& r) { r.stopping.min_tokens = 5; }), HasSubstr("min_tokens"));
  EXPECT_THAT(message([](Request& r) { r.stopping.max_tokens = -7; }), HasSubstr("max_tokens"));
  EXPECT_THAT(message([](Request& r) { r.logprobs = 21; }), HasSubstr("logprobs"));
  EXPECT_THAT(message([](Request& r) { r.prompt = {.input = std::string(), .add_special_tokens = false}; }),
              HasSubstr("no tokens"));
}

TEST(Engine, AStopStringEndsTheText) {
  House house;
  Request asked = request("hello there", 60);
  asked.stopping.ignore_eos = true;
  const auto whole = house.ask(asked);
  const std::string& text = whole->choices[0].text;
  // Some whole characters out of the middle of what it says.
  const std::size_t at = text.find_first_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", 3);
  ASSERT_NE(at, std::string::npos);
  asked.stopping.stop = {text.substr(at, 1)};
  const auto cut = house.ask(asked);
  EXPECT_EQ(cut->choices[0].text, text.substr(0, text.find(text[at])));
  EXPECT_EQ(cut->choices[0].end->reason, FinishReason::stop);
  EXPECT_EQ(cut->choices[0].end->stop_string, text.substr(at, 1));
}

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

TEST(Engine, LogprobsComeWithTheirTokens) {
  House house;
  Request asked = request("logs", 10);
  asked.logprobs = 3;
  const auto sink = house.ask(asked);
  const auto& choice = sink->choices[0];
  ASSERT_EQ(choice.logprobs.size(), choice.ids.size());
  for (std::size_t i = 0; i < choice.ids.size(); ++i) {
    EXPECT_EQ(choice.logprobs[i].id, choice.ids[i]);
    ASSERT_EQ(choice.logprobs[i].top.size(), 3u);
    EXPECT_EQ(choice.logprobs[i].top[0].id, choice.ids[i]) << "greedy takes the likeliest";
    EXPECT_FLOAT_EQ(choice.logprobs[i].top[0].logprob, choice.logprobs[i].logprob);
    EXPECT_EQ(choice.logprobs[i].bytes, fake::Tokenizer().piece(choice.ids[i], true));
  }
}

TEST(Engine, PromptLogprobsAreThoseOfEachPromptToken) {
  House house({.options = {.max_num_seqs = 8, .max_num_batched_tokens = 16}});
  const std::string prompt(70, 'w');
  house.ask(request(prompt, 2));  // cached blocks have no logits to give
  Request asked = request(prompt, 0);
  asked.prompt_logprobs = 2;
  asked.echo = true;
  const auto sink = house.ask(asked);
  const auto ids = ids_of(prompt);
  ASSERT_EQ(sink->started->prompt_logprobs.size(), ids.size());
  EXPECT_EQ(sink->started->prompt_ids, ids);
  std::uint64_t history = 0;
  std::vector<float> logits(fake::kVocabulary);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    history = fake::mix(history, ids[i]);
    fake::logits_of(history, logits);
    EXPECT_EQ(sink->started->prompt_logprobs[i + 1].id, ids[i + 1]);
    EXPECT_FLOAT_EQ(sink->started->prompt_logprobs[i + 1].logprob, raw_logprobs(logits, ids[i + 1], 0).chosen) << i;
    EXPECT_EQ(sink->started->prompt_logprobs[i + 1].top.size(), 2u);
  }
  EXPECT_EQ(sink->choices[0].text, prompt) << "echo, and nothing is generated";
  EXPECT_EQ(sink->choices[0].end->reason, FinishReason::length);
  EXPECT_EQ(sink->finished->usage.completion_tokens, 0);
}

TEST(Engine, EchoComesFirstInEveryChoice) {
  House house;
  Request asked = request("say", 5, {.temperature = 1, .seed = 1});
  asked.n = 2;
  asked.echo = true;
  const auto sink = house.ask(asked);
  for (const auto& choice : sink->choices) EXPECT_TRUE(choice.text.starts_with("say"));
}

TEST(Engine, DroppingTheTicketStopsTheWorkWithinOneStep) {
  House house;
  fake::Gate gate;
  std::atomic<int> rows{0};
  house.model->before_forward = [&](const models::Step& step) {
    rows += static_cast<int>(step.tokens.size());
    gate();
  };
  Request asked = request("endless", 200);
  asked.stopping.ignore_eos = true;
  fake::Sink sink;
  auto ticket = *house.engine->start(asked, sink);
  gate.wait_for_arrival();
  gate.let_pass(3);
  gate.wait_for_arrival(4);
  ticket.reset();
  gate.open();
  EXPECT_TRUE(house.engine->drain(Clock::time_point::max()));
  EXPECT_EQ(gate.arrived(), 4) << "the step that ran was the last";
  EXPECT_EQ(sink.late, 0);
  EXPECT_FALSE(sink.finished || sink.failed);
  EXPECT_EQ(house.engine->load().kv_used, 0);
}

TEST(Engine, ATicketMayBeDroppedInsideItsSink) {
  House house;
  std::unique_ptr<Ticket> ticket;
  fake::Gate gate;
  house.model->before_forward = [&](const models::Step&) { gate(); };
  fake::Sink sink;
  int texts = 0;
  sink.hook = [&](const Event& event) {
    if (std::holds_alternative<Text>(event) && ++texts == 2) ticket.reset();
  };
  Request asked = request("endless", 200);
  asked.stopping.ignore_eos = true;
  ticket = *house.engine->start(asked, sink);
  gate.open();
  EXPECT_TRUE(house.engine->drain(Clock::time_point::max()));
  EXPECT_EQ(texts, 2);
  EXPECT_FALSE(sink.finished);
}

TEST(Engine, ADeadlineEndsARunningRequest) {
  HandClock clock;
  House house({.clock = clock.function()});
  house.model->before_forward = [&](const models::Step&) { clock.move(seconds(1)); };
  Request asked = request("slow", 200);
  asked.stopping.ignore_eos = true;
  asked.arrived = clock.start;
  asked.deadline = clock.start + milliseconds(4500);
  const auto sink = house.ask(asked);
  ASSERT_TRUE(sink->failed);
  EXPECT_EQ(sink->failed->error.code, Code::deadline);
  EXPECT_THAT(sink->failed->error.message, HasSubstr("5 tokens"));
  asked.deadline = clock.start;
  EXPECT_EQ(refused(*house.engine, asked).code, Code::deadline);
}

TEST(Engine, ADeadlineEndsAWaitingRequest) {
  HandClock clock;
  House house({.options = {.max_num_seqs = 1, .max_num_batched_tokens = 64, .request_timeout = seconds(1)},
               .clock = clock.function()});
  fake::Gate gate;
  house.model->before_forward = [&](const models::Step&) { gate(); };
  fake::Sink first, second;
  Request asked = request("one", 50);
  asked.arrived = clock.start;
  auto a = *house.engine->start(asked, first);
  gate.wait_for_arrival();
  auto b = *house.engine->start(asked, second);
  clock.move(seconds(2));
  gate.open();
  first.wait();
  second.wait();
  ASSERT_TRUE(second.failed);
  EXPECT_EQ(second.failed->error.code, Code::deadline);
  EXPECT_THAT(second.failed->error.message, HasSubstr("queue"));
}

TEST(Engine, ALongWaitEndsAWaitingRequestAlone) {
  HandClock clock;
  House house({.options = {.max_num_seqs = 1, .max_num_batched_tokens = 64, .max_queue_wait = seconds(10)},
               .clock = clock.function()});
  fake::Gate gate;
  house.model->before_forward = [&](const models::Step&) { gate(); };
  fake::Sink sinks[3];
  std::vector<std::unique_ptr<Ticket>> tickets;
  Request asked = request("one", 50);
  asked.stopping.ignore_eos = true;
  for (fake::Sink& sink : sinks) {
    asked.arrived = clock.start + clock.offset->load();
    tickets.push_back(*house.engine->start(asked, sink));
    if (tickets.size() == 1) gate.wait_for_arrival();
    clock.move(seconds(tickets.size() == 1 ? 0 : 6));
  }
  gate.let_pass(1);
  sinks[1].wait();
  gate.open();
  ASSERT_TRUE(sinks[1].failed) << "it waited 12 s";
  EXPECT_EQ(sinks[1].failed->error.code, Code::unavailable);
  EXPECT_THAT(sinks[1].failed->error.message, HasSubstr("max_queue_wait"));
  sinks[0].wait();
  sinks[2].wait();
  EXPECT_TRUE(sinks[0].finished) << "it began at once";
  EXPECT_TRUE(sinks[2].finished) << "it waited 6 s";
}

TEST(Engine, AFullQueueRefusesAtOnce) {
  House house({.options = {.max_num_seqs = 1, .max_num_batched_tokens = 64, .max_num_queued_reqs = 2}});
  fake::Gate gate;
  house.model->before_forward = [&](const models::Step&) { gate(); };
  fake::Sink sinks[4];
  auto running = *house.engine->start(request("r", 3), sinks[0]);
  gate.wait_for_arrival();
  auto a = house.engine->start(request("a", 3), sinks[1]);
  // The one in the step still counts as queued until the step is reported.
  auto b = house.engine->start(request("b", 3), sinks[2]);
  auto c = house.engine->start(request("c", 3), sinks[3]);
  ASSERT_FALSE(c);
  EXPECT_EQ(c.error().error.code, Code::exhausted);
  EXPECT_GE(c.error().retry_after, seconds(1));
  gate.open();
  EXPECT_TRUE(house.engine->drain(Clock::time_point::max()));
}

TEST(Engine, DrainRefusesNewAndFinishesOld) {
  House house;
  fake::Gate gate;
  house.model->before_forward = [&](const models::Step&) { gate(); };
  fake::Sink sink;
  auto ticket = *house.engine->start(request("last", 10), sink);
  gate.wait_for_arrival();
  std::jthread opener([&] {
    for (;; std::this_thread::yield()) {  // until drain() has begun, new ones are taken
      fake::Sink unheard;
      const auto early = house.engine->start(request("new", 1), unheard);
      if (!early && early.error().error.code == Code::unavailable) break;
    }
    gate.open();
  });
  EXPECT_TRUE(house.engine->drain(Clock::now() + seconds(60)));
  EXPECT_TRUE(sink.finished);
}

TEST(Engine, WhatDoesNotEndInTimeFails) {
  House house({.context = 100'000});
  Request asked = request("endless", 90'000);
  asked.stopping.ignore_eos = true;
  fake::Sink sink;
  auto ticket = *house.engine->start(asked, sink);
  sink.wait_for_text();
  EXPECT_FALSE(house.engine->drain(Clock::now()));
  ASSERT_TRUE(sink.failed);
  EXPECT_EQ(sink.failed->error.code, Code::unavailable);
}

TEST(Engine, AnEngineThatDiesFailsItsRequests) {
  auto house = std::make_unique<House>();
  Request asked = request("endless", 200);
  asked.stopping.ignore_eos = true;
  fake::Sink sink;
  std::atomic<bool> seen{false};
  house->model->before_forward = [&](const models::Step&) { seen = true; };
  auto ticket = *house->engine->start(asked, sink);
  sink.wait_for_text();
  house.reset();
  ASSERT_TRUE(sink.finished || sink.failed);
  EXPECT_EQ(sink.late, 0);
}

TEST(Engine, AFailedStepCostsItsRequestsNotTheEngine) {
  House house;
  house.model->before_forward = [](const models::Step&) { throw std::runtime_error("out of something"); };
  const auto failed = house.ask(request("bad", 5));
  ASSERT_TRUE(failed->failed);
  EXPECT_EQ(failed->failed->error.code, Code::internal);
  EXPECT_TRUE(house.engine->load().healthy);
  for (int i = 0; i < 6; ++i) house.ask(request("bad", 5));
  // The last failure is reported after its event was sent.
  while (house.engine->load().healthy) std::this_thread::yield();
  house.model->before_forward = nullptr;
  EXPECT_TRUE(house.ask(request("good", 5))->finished);
  while (!house.engine->load().healthy) std::this_thread::yield();
}

TEST(Engine, LogitsThatAreNotFiniteFailTheirRequestAlone) {
  House house;
  const std::uint64_t poison = [] {
    std::uint64_t history = 0;
    for (const std::int32_t id : ids_of("poison")) history = fake::mix(history, id);
    return history;
  }();
  house.model->logits = [&](std::uint64_t history, std::span<float> out) {
    fake::logits_of(history, out);
    if (history == poison) out[17] = std::nanf("");
  };
  fake::Gate gate;
  house.model->before_forward = [&](const models::Step&) { gate(); };
  fake::Sink good, bad;
  auto a = *house.engine->start(request("fine", 20), good);
  gate.wait_for_arrival();
  auto b = *house.engine->start(request("poison", 20), bad);
  gate.open();
  good.wait();
  bad.wait();
  EXPECT_EQ(good.choices[0].ids, alone(ids_of("fine"), 20));
  ASSERT_TRUE(bad.failed);
  EXPECT_THAT(bad.failed->error.message, HasSubstr("not finite"));
  Request scored = request("poison and more", 0);
  scored.prompt_logprobs = 0;
  EXPECT_TRUE(house.ask(scored)->failed) << "in the prompt's own logits, too";
}

TEST(Engine, MetricsTellWhatHappened) {
  House house({.names = {"measured"}});
  Request asked = request(std::string(40, 'm'), 7);
  asked.stopping.ignore_eos = true;
  house.ask(asked);
  house.ask(asked);
  house.engine->drain(Clock::time_point::max());
  const std::string page = metrics::render();
  const std::string labels = R"({model_name="measured",engine="0")";
  for (const std::string& line : {
           "vllm:prompt_tokens_total" + labels + "} 82\n",
           "vllm:generation_tokens_total" + labels + "} 14\n",
           "vllm:prefix_cache_queries_total" + labels + "} 82\n",
           "vllm:prefix_cache_hits_total" + labels + "} 32\n",
           "vllm:request_success_total" + labels + R"(,finished_reason="length"} 2)" + "\n",
           "vllm:num_requests_running" + labels + "} 0\n",
           "vllm:kv_cache_usage_perc" + labels + "} 0\n",
           "vllm:time_to_first_token_seconds_count" + labels + "} 2\n",
           "vllm:inter_token_latency_seconds_count" + labels + "} 12\n",
           "vllm:request_generation_tokens_bucket" + labels + R"(,le="10"} 2)" + "\n",
           "vllm:request_params_max_tokens_sum" + labels + "} 14\n",
       })
    EXPECT_THAT(page, HasSubstr(line));
  EXPECT_THAT(page, HasSubstr(R"(vllm:cache_config_info{model_name="measured",engine="0",block_size="16")"));
}

TEST(Residents, SendEachRequestToItsModel) {
  const auto turns = std::make_shared<ComputeLock>();
  const auto pool = std::make_shared<ThreadPool>(2);
  House a({.names = {"a"}, .pool = pool, .turns = turns}), b({.names = {"b"}, .pool = pool, .turns = turns});
  const auto model = [](const std::string& name, House& house) {
    return ResidentModel{.card = {.id = name}, .load = [&] { return Resident{.generator = std::move(house.engine)}; }};
  };
  auto set = Residents::create({model("a", a), model("b", b)}, {});
  ASSERT_TRUE(set);
  fake::Sink sinks[8];
  std::vector<std::unique_ptr<Ticket>> tickets;
  for (int i = 0; i < 8; ++i) {
    Request asked = request("to " + std::to_string(i), 10);
    asked.model = i % 2 == 0 ? "a" : "b";
    tickets.push_back(*(*set)->start(asked, sinks[i]));
  }
  for (int i = 0; i < 8; ++i) {
    sinks[i].wait();
    EXPECT_EQ(sinks[i].choices[0].ids, alone(ids_of("to " + std::to_string(i)), 10));
  }
  EXPECT_GT(a.model->forwards, 0);
  EXPECT_GT(b.model->forwards, 0);
  fake::Sink sink;
  Request unknown = request("x", 1);
  unknown.model = "c";
  const auto refusal = (*set)->start(unknown, sink);
  ASSERT_FALSE(refusal);
  EXPECT_EQ(refusal.error().error.code, Code::not_found);
  EXPECT_THAT(refusal.error().error.message, HasSubstr("a, b"));
  EXPECT_EQ((*set)->models().size(), 2u);
  EXPECT_EQ((*set)->tokenize("b", {.input = "x"}, false)->ids.size(), 2u);
  EXPECT_EQ(Residents::create({model("a", a), model("a", b)}, {}).error().code, Code::invalid);
  EXPECT_EQ(Residents::create({}, {}).error().code, Code::invalid);
}

}  // namespace
}  // namespace ashlar::engine
