// What an engine answers, refuses and measures.
#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/metrics.h"
#include "engine/fakes_for_test.h"
#include "engine/residents.h"

namespace ashlar::engine {
namespace {

using fake::alone;
using fake::House;
using fake::ids_of;
using fake::refused;
using fake::request;
using testing::ElementsAre;
using testing::HasSubstr;

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
  EXPECT_TRUE((*Residents::create({}, {}))->models().empty());
}

}  // namespace
}  // namespace ashlar::engine
