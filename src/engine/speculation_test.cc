#include "engine/speculation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <sstream>
#include <stdexcept>

#include "base/metrics.h"
#include "engine/engine.h"
#include "engine/fakes_for_test.h"

namespace ashlar::engine {
namespace {

using fake::alone;
using fake::House;
using fake::ids_of;
using fake::request;
using testing::HasSubstr;

// Greedy, and the end is never chosen.
const Sampling kEndless{.temperature = 0, .logit_bias = {{fake::kEos, -100}, {fake::kEot, -100}}};

// The bytes of what the fake model answers, as far as they are bytes.
std::string foretold(const std::string& prompt, int tokens, Sampling sampling = {.temperature = 0}) {
  std::string text;
  for (const std::int32_t id : alone(ids_of(prompt), tokens, std::move(sampling)))
    if (id < 256) text.push_back(static_cast<char>(id));
  return text;
}

// What a client sees, but for when it comes.
void expect_same(const fake::Sink& a, const fake::Sink& b) {
  EXPECT_EQ(a.finished.has_value(), b.finished.has_value());
  ASSERT_EQ(a.choices.size(), b.choices.size());
  for (std::size_t i = 0; i < a.choices.size(); ++i) {
    const auto &left = a.choices[i], &right = b.choices[i];
    EXPECT_EQ(left.text, right.text);
    EXPECT_EQ(left.ids, right.ids);
    ASSERT_EQ(left.end.has_value(), right.end.has_value());
    if (left.end) {
      EXPECT_EQ(left.end->reason, right.end->reason);
      EXPECT_EQ(left.end->stop_string, right.end->stop_string);
      EXPECT_EQ(left.end->stop_token, right.end->stop_token);
    }
    ASSERT_EQ(left.logprobs.size(), right.logprobs.size());
    for (std::size_t j = 0; j < left.logprobs.size(); ++j) {
      EXPECT_EQ(left.logprobs[j].logprob, right.logprobs[j].logprob);
      EXPECT_EQ(left.logprobs[j].bytes, right.logprobs[j].bytes);
      ASSERT_EQ(left.logprobs[j].top.size(), right.logprobs[j].top.size());
      for (std::size_t k = 0; k < left.logprobs[j].top.size(); ++k)
        EXPECT_EQ(left.logprobs[j].top[k].id, right.logprobs[j].top[k].id);
    }
  }
}

double counted(const std::string& name) {
  std::istringstream page(metrics::render());
  for (std::string line; std::getline(page, line);)
    if (line.starts_with(name + "{")) return std::stod(line.substr(line.rfind(' ')));
  return -1;
}

TEST(Speculation, AnAnswerIsTheSameWhoeverGuesses) {
  House plain({.options = {.speculation = "off"}, .names = {"plain"}});
  House guessing({.names = {"guessing"}, .draft = fake::draft_model(4)});
  std::mt19937 random(5);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < 150; ++i) {
    const std::string prompt = "prompt " + std::to_string(i);
    Request asked = request(prompt, 1 + below(60));
    if (i % 2 == 0) asked.sampling = {.temperature = 1, .top_k = below(2) * 4, .top_p = 0.8F, .seed = random()};
    if (below(3) == 0) asked.sampling.repetition_penalty = 1.3F, asked.sampling.frequency_penalty = 0.3F;
    if (below(4) == 0) asked.sampling.logit_bias = {{'e', 3.0F}, {'q', -5.0F}};
    if (below(3) == 0) asked.stopping.min_tokens = below(asked.stopping.max_tokens);
    if (below(3) == 0) asked.stopping.stop = {std::string(1, static_cast<char>('a' + below(26))), "1"};
    if (below(3) == 0) asked.stopping.stop_token_ids = {below(200), below(200)};
    if (below(2) == 0) asked.stopping.ignore_eos = true;
    asked.stopping.include_stop_in_output = below(2) == 0;
    asked.logprobs = below(4) - 1;
    asked.n = 1 + below(2) * below(3);
    if (below(2) == 0) asked.speculating.prediction = foretold(prompt, asked.stopping.max_tokens, asked.sampling);
    const auto expected = plain.ask(asked);
    const auto answer = guessing.ask(asked);
    expect_same(*expected, *answer);
    ASSERT_FALSE(testing::Test::HasFailure()) << i;
    EXPECT_EQ(answer->late, 0);
  }
  EXPECT_EQ(guessing.model->errors, 0);
  EXPECT_LT(guessing.model->forwards, 0.9 * plain.model->forwards);
}

TEST(Speculation, ADraftModelThatIsAlwaysRightSparesSteps) {
  const auto draft = fake::draft_model(0);
  draft->logits = [](std::uint64_t history, std::span<float> out) {
    fake::logits_of(history, out);
    out[fake::kEos] = out[fake::kEot] = -50;  // as kEndless has it
  };
  House house({.options = {.speculative_tokens = 7}, .names = {"right"}, .draft = draft});
  Request asked = request("certain", 161, kEndless);
  const auto sink = house.ask(asked);
  EXPECT_EQ(sink->choices[0].ids, alone(ids_of("certain"), 161, kEndless));
  // A prompt, then few guesses at first and 7 as its record grows.
  EXPECT_LE(house.model->forwards, 1 + 160 / 8 + 6);
  const Usage& usage = sink->finished->usage;
  EXPECT_EQ(usage.rejected_tokens, 0);
  EXPECT_EQ(usage.accepted_tokens, 160 - (house.model->forwards - 1));
  EXPECT_EQ(counted("vllm:spec_decode_num_accepted_tokens_total"), usage.accepted_tokens);
  EXPECT_EQ(counted("vllm:spec_decode_num_draft_tokens_total"), usage.accepted_tokens);
  EXPECT_EQ(counted("vllm:spec_decode_num_drafts_total"), house.model->forwards - 1);
  EXPECT_EQ(counted("vllm:generation_tokens_total"), 161);
  EXPECT_EQ(counted("vllm:inter_token_latency_seconds_count"), 160);
}

TEST(Speculation, APredictionIsFollowedFromItsFirstToken) {
  House house({.options = {.speculation = "off", .speculative_tokens = 15}});
  Request asked = request("edit this", 96, kEndless);
  asked.speculating.prediction = foretold("edit this", 96, kEndless);
  const auto sink = house.ask(asked);
  EXPECT_EQ(sink->choices[0].ids, alone(ids_of("edit this"), 96, kEndless));
  EXPECT_LE(house.model->forwards, 1 + 95 / 16 + 12);
  EXPECT_GT(sink->finished->usage.accepted_tokens, 70);
}

TEST(Speculation, AWrongDraftModelIsSoonLeftAlone) {
  House house({.draft = fake::draft_model(16)});
  Request asked = request("wrong", 160, kEndless);
  asked.speculating.by = Speculation::draft;
  const auto sink = house.ask(asked);
  EXPECT_EQ(sink->choices[0].ids, alone(ids_of("wrong"), 160, kEndless));
  EXPECT_LT(sink->finished->usage.rejected_tokens, 40);
  EXPECT_LT(house.model->rows, 6 + 159 + 40);
}

TEST(Speculation, ARequestMaySwitchIt) {
  const auto draft = fake::draft_model(0);
  House house({.draft = draft});
  Request asked = request("switch", 40);
  asked.speculating.by = Speculation::off;
  house.ask(asked);
  EXPECT_EQ(draft->forwards, 0);
  asked.speculating.by = Speculation::ngram;
  house.ask(asked);
  EXPECT_EQ(draft->forwards, 0);
  asked.speculating.by = Speculation::draft;
  asked.speculating.most = 0;
  house.ask(asked);
  EXPECT_EQ(draft->forwards, 0);
  asked.speculating.most = 2;
  int widest = 0;
  house.model->before_forward = [&](const models::Step& step) {
    widest = std::max(widest, static_cast<int>(step.logit_rows.size()));
  };
  house.ask(asked);
  EXPECT_GT(draft->forwards, 0);
  EXPECT_EQ(widest, 3);
}

TEST(Speculation, ALargerBatchIsLeftAlone) {
  House house({.options = {.speculative_max_batch = 2}, .draft = fake::draft_model(0)});
  std::atomic<int> wide{0}, narrow{0};
  house.model->before_forward = [&](const models::Step& step) {
    if (step.logit_rows.size() <= step.sequences.size()) return;
    ++(step.sequences.size() > 2 ? wide : narrow);
  };
  Request asked = request("several at once", 60, {.temperature = 0});
  asked.stopping.ignore_eos = true;
  asked.n = 3;
  house.ask(asked);
  EXPECT_EQ(wide + narrow, 0);
  asked.n = 2;
  house.ask(asked);
  EXPECT_EQ(wide, 0);
  EXPECT_GT(narrow, 0);
}

TEST(Speculation, ALongPromptReachesTheDraftModelInPieces) {
  const auto draft = fake::draft_model(0, 2048);
  House house({.context = 2048, .draft = draft});
  std::size_t widest = 0;
  draft->before_forward = [&](const models::Step& step) { widest = std::max(widest, step.tokens.size()); };
  std::string prompt;
  for (int i = 0; i < 1000; ++i) prompt.push_back(static_cast<char>('a' + i * i % 23));
  Request asked = request(prompt, 60);
  asked.speculating.by = Speculation::draft;
  const auto sink = house.ask(asked);
  EXPECT_EQ(widest, static_cast<std::size_t>(ModelDrafter::kCatchUp));
  EXPECT_EQ(sink->finished->usage.rejected_tokens, 0);
  EXPECT_GT(sink->finished->usage.accepted_tokens, 0);
  const int before = draft->rows;
  house.ask(asked);
  EXPECT_LT(draft->rows - before, 200) << "the drafter has a prefix cache, too";
  EXPECT_EQ(draft->errors, 0);
}

TEST(Speculation, ADraftModelThatFailsCostsNoAnswer) {
  const auto draft = fake::draft_model(0);
  House house({.draft = draft});
  int calls = 0;
  draft->before_forward = [&](const models::Step&) {
    if (++calls == 30) throw std::runtime_error("out of something");
  };
  Request asked = request("fragile", 100, kEndless);
  EXPECT_EQ(house.ask(asked)->choices[0].ids, alone(ids_of("fragile"), 100, kEndless));
  EXPECT_EQ(house.ask(asked)->choices[0].ids, alone(ids_of("fragile"), 100, kEndless));
  EXPECT_EQ(calls, 30) << "it is not asked again";
  EXPECT_TRUE(house.engine->load().healthy);
}

TEST(Speculation, ADraftModelOfAShorterContextStopsThere) {
  const auto draft = fake::draft_model(0, 32);
  House house({.draft = draft});
  Request asked = request("short", 100, kEndless);
  EXPECT_EQ(house.ask(asked)->choices[0].ids, alone(ids_of("short"), 100, kEndless));
  EXPECT_GT(draft->forwards, 0);
  EXPECT_LE(draft->rows, 64);
}

class OtherTokenizer : public fake::Tokenizer {
 public:
  explicit OtherTokenizer(std::size_t tokens, std::size_t other = 1000) : vocabulary_(fake::Tokenizer::vocabulary()) {
    vocabulary_.tokens.resize(tokens, "[padding]");
    if (other < tokens) vocabulary_.tokens[other] = "other";
  }
  const text::Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  text::Vocabulary vocabulary_;
};

TEST(Speculation, ADraftModelHasTheSameVocabulary) {
  const auto create = [](std::shared_ptr<const text::Tokenizer> tokenizer, int vocabulary) {
    auto draft = std::make_shared<fake::Model>(256, vocabulary);
    return Engine::create({.names = {"fake"},
                           .model = std::make_shared<fake::Model>(),
                           .tokenizer = std::make_shared<fake::Tokenizer>(),
                           .draft_model = draft,
                           .draft_tokenizer = std::move(tokenizer)},
                          {});
  };
  const auto refused = create(std::make_shared<OtherTokenizer>(260, 17), 260);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::invalid);
  EXPECT_THAT(refused.error().message, HasSubstr("17"));
  // More or fewer tokens at the end do no harm: those are not guessed.
  for (const int size : {250, 300}) {
    const auto engine = create(std::make_shared<OtherTokenizer>(static_cast<std::size_t>(size)), std::max(size, 260));
    ASSERT_TRUE(engine);
    fake::Sink sink;
    const auto ticket = (*engine)->start(request("padded", 30), sink);
    sink.wait();
    EXPECT_EQ(sink.choices[0].ids, alone(ids_of("padded"), 30));
  }
}

TEST(Speculation, WhatCannotBeIsRefused) {
  House house;
  fake::Sink sink;
  Request asked = request("x", 1);
  asked.speculating.by = Speculation::draft;
  const auto refused = house.engine->start(asked, sink);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().error.message, HasSubstr("draft model"));
  const fake::Model model;
  for (const EngineOptions& options :
       {EngineOptions{.speculation = "on"}, EngineOptions{.speculative_tokens = 65},
        EngineOptions{.speculative_tokens = -1}, EngineOptions{.speculative_max_batch = -1}})
    EXPECT_EQ(plan_cache(options, model, {1 << 30}).error().code, Code::invalid);
}

TEST(Confidence, GrowsAndShrinksTheDraft) {
  Confidence confidence;
  EXPECT_GE(confidence.depth(Source::long_match, 100, 0), 5);
  EXPECT_EQ(confidence.depth(Source::long_match, 3, 0), 3);
  for (int i = 0; i < 20; ++i) confidence.learn(Source::long_match, 7, 7);
  EXPECT_EQ(confidence.depth(Source::long_match, 64, 0), 64);
  EXPECT_EQ(confidence.depth(Source::short_match, 64, 0), 1) << "each kind of guess has its own record";
  EXPECT_EQ(confidence.depth(Source::short_match, 64, 7), 2) << "where rows are cheap more of them pay";
  for (int i = 0; i < 30; ++i) confidence.learn(Source::long_match, 7, 0);
  EXPECT_EQ(confidence.depth(Source::long_match, 64, 7), 0);
  int calls = 1;
  while (confidence.depth(Source::long_match, 64, 7) == 0) ++calls;
  EXPECT_GT(calls, 2);
  EXPECT_LT(calls, 50) << "and it is tried again";
}

}  // namespace
}  // namespace ashlar::engine
