#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/fakes_for_test.h"
#include "engine/sampler.h"

namespace ashlar::engine {
namespace {

using testing::HasSubstr;

struct House {
  std::shared_ptr<fake::Model> model;
  std::unique_ptr<Engine> engine;

  explicit House(EngineOptions options = {}, int context = 256, std::function<Clock::time_point()> clock = Clock::now)
      : model(std::make_shared<fake::Model>(context)) {
    auto made = Engine::create({.names = {"fake", "alias"},
                                .model = model,
                                .tokenizer = std::make_shared<fake::Tokenizer>(),
                                .chat_template = std::make_shared<fake::ChatTemplate>(),
                                .clock = std::move(clock)},
                               options);
    if (!made) throw std::runtime_error(made.error().message);
    engine = *std::move(made);
  }
};

Request greedy(std::string prompt, int max_tokens) {
  Request request;
  request.prompt = {.input = std::move(prompt)};
  request.sampling.temperature = 0;
  request.stopping.max_tokens = max_tokens;
  return request;
}

// What the fake model says after `tokens`, alone, by plain loops.
std::vector<std::int32_t> alone(std::vector<std::int32_t> tokens, int max_tokens) {
  std::vector<std::int32_t> answer;
  std::vector<float> logits(fake::kVocabulary);
  while (static_cast<int>(answer.size()) < max_tokens) {
    std::uint64_t history = 0;
    for (const std::int32_t token : tokens) history = fake::mix(history, token);
    fake::logits_of(history, logits);
    const auto id = static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
    answer.push_back(id);
    tokens.push_back(id);
    if (id == fake::kEos || id == fake::kEot) break;
  }
  return answer;
}

std::vector<std::int32_t> ids_of(const std::string& prompt) { return fake::Tokenizer().encode(prompt, {}); }

TEST(Engine, AnswersWhatTheModelSaysAlone) {
  House house;
  fake::Sink sink;
  auto ticket = house.engine->start(greedy("hello there", 20), sink);
  ASSERT_TRUE(ticket) << ticket.error().error.message;
  sink.wait();
  ASSERT_TRUE(sink.finished) << sink.failed->error.message;
  EXPECT_EQ(sink.choices[0].ids, alone(ids_of("hello there"), 20));
  EXPECT_EQ(sink.started->prompt_tokens, 12);
  EXPECT_EQ(sink.finished->usage.completion_tokens, static_cast<int>(sink.choices[0].ids.size()));
  EXPECT_EQ(house.model->errors, 0);
}

}  // namespace
}  // namespace ashlar::engine
