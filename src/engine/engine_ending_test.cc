// How requests and engines end: dropped, late, refused, failed.
#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <thread>

#include "engine/fakes_for_test.h"

namespace ashlar::engine {
namespace {

using fake::alone;
using fake::HandClock;
using fake::House;
using fake::ids_of;
using fake::refused;
using fake::request;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

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
  EXPECT_EQ(sinks[1].failed->dropped, Dropped::expired);
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
  EXPECT_EQ(c.error().dropped, Dropped::saturated);
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

}  // namespace
}  // namespace ashlar::engine
