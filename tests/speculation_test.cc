// Real models, guessed ahead: the same answers, in fewer steps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/log.h"
#include "base/metrics.h"
#include "cli/host.h"

namespace ashlar {
namespace {

using engine::Speculation;

struct Answer final : engine::Sink {
  void on(engine::Event event) override {
    std::lock_guard lock(mutex);
    if (auto* said = std::get_if<engine::Text>(&event)) {
      text[said->choice] += said->text;
      ids.insert(ids.end(), said->ids.begin(), said->ids.end());
      for (const auto& token : said->logprobs) logprobs.push_back(token.logprob);
    } else if (auto* done = std::get_if<engine::Finished>(&event)) {
      usage = done->usage;
      ended = true;
    } else if (std::holds_alternative<engine::Failed>(event)) {
      failed = ended = true;
    }
    changed.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return ended; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::map<int, std::string> text;
  std::vector<std::int32_t> ids;  // of all choices, as they came
  std::vector<float> logprobs;
  engine::Usage usage;
  bool ended = false, failed = false;
};

std::unique_ptr<Answer> ask(cli::Host& host, engine::Request request) {
  request.model = host.models().front();
  auto answer = std::make_unique<Answer>();
  const auto ticket = host.generator().start(std::move(request), *answer);
  EXPECT_TRUE(ticket);
  if (ticket) answer->wait();
  EXPECT_FALSE(answer->failed);
  return answer;
}

constexpr const char* kCode =
    "def area(width, height):\n    if width < 0 or height < 0:\n        raise ValueError(\"negative size\")\n"
    "    return width * height\n\n";

engine::Request request(const std::string& prompt, float temperature, Speculation by) {
  engine::Request asked;
  asked.prompt.input = prompt;
  asked.sampling = {.temperature = temperature, .top_p = 0.95F, .seed = 11};
  asked.stopping.max_tokens = 80;
  asked.stopping.ignore_eos = true;
  asked.logprobs = 2;
  asked.speculating.by = by;
  return asked;
}

// The same tokens, log-probabilities and text, alone and with many choices.
void expect_no_difference(cli::Host& host, const std::vector<std::string>& prompts) {
  for (const std::string& prompt : prompts)
    for (const float temperature : {0.0F, 0.7F}) {
      SCOPED_TRACE(prompt);
      const auto plain = ask(host, request(prompt, temperature, Speculation::off));
      EXPECT_EQ(plain->usage.accepted_tokens + plain->usage.rejected_tokens, 0);
      for (const auto by : {Speculation::ngram, Speculation::draft, Speculation::automatic}) {
        const auto guessed = ask(host, request(prompt, temperature, by));
        EXPECT_EQ(guessed->ids, plain->ids);
        EXPECT_EQ(guessed->logprobs, plain->logprobs);
        EXPECT_EQ(guessed->text, plain->text);
        EXPECT_EQ(guessed->usage.completion_tokens, 80);
      }
      engine::Request several = request(prompt, temperature, Speculation::off);
      several.n = 3;
      const auto together = ask(host, several);
      several.speculating.by = Speculation::automatic;
      EXPECT_EQ(ask(host, several)->text, together->text);
    }
}

cli::HostOptions options(const char* draft) {
  log::configure(log::Level::warn, log::Format::text);
  return {.engine = {.max_model_len = 512}, .draft_model = draft, .threads = 1};
}

TEST(Speculation, TheEmbeddedModelSaysTheSame) {
  const auto host = cli::Host::open({cli::kDefaultModel}, options(cli::kDefaultModel));
  ASSERT_TRUE(host) << host.error().message;
  expect_no_difference(**host, {std::string(kCode) + kCode + kCode, "Hello, who are you?"});

  // As its own draft it is right each time.
  const auto own = ask(**host, request(kCode, 0, Speculation::draft));
  EXPECT_EQ(own->usage.rejected_tokens, 0);
  EXPECT_GT(own->usage.accepted_tokens, 55);
  // A text that repeats itself is foretold from what was said.
  const auto copied = ask(**host, request(std::string(kCode) + kCode + kCode, 0, Speculation::ngram));
  EXPECT_GT(copied->usage.accepted_tokens, 40);
  EXPECT_THAT(metrics::render(), testing::HasSubstr("vllm:spec_decode_num_accepted_tokens_total"));
}

TEST(Speculation, AStoryIsTheSame) {
  const std::string path = "../shared/data/models/stories260K/stories260K-f32.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data";
  const auto host = cli::Host::open({path}, options(path.c_str()));
  ASSERT_TRUE(host) << host.error().message;
  expect_no_difference(**host, {"Once upon a time", "Lily and Tom played. Lily and Tom"});
}

TEST(Speculation, ADraftModelOfAnotherVocabularyIsRefused) {
  const std::string path = "../shared/data/models/stories260K/stories260K-f32.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data";
  const auto host = cli::Host::open({cli::kDefaultModel}, options(path.c_str()));
  ASSERT_FALSE(host);
  EXPECT_THAT(host.error().message, testing::HasSubstr("vocabulary"));
}

}  // namespace
}  // namespace ashlar
