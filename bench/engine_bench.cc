// How much sooner does an answer come when it is guessed ahead from its prompt?
//
//   engine_bench VOCABULARY.gguf [SHAPE [TYPE]]
//
// The model has the size and speed of a known one but random weights, so its
// logits are bent to say a given text: a source file of this repository after an
// edit, with the file as it was in the prompt. Guesses and steps are then those of
// a model that edits without a mistake; prose that is not in the prompt shows what
// guessing costs where it does not help. Run it in the repository's root.
#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <sstream>

#include "base/log.h"
#include "engine/engine.h"
#include "kernels/kernels.h"
#include "models/shapes.h"

namespace {

using namespace ashlar;

// The model beneath, except that after a script's prompt it says the script.
class Actor final : public models::Model {
 public:
  explicit Actor(std::unique_ptr<models::Model> beneath) : beneath_(std::move(beneath)) {}
  const models::Shape& shape() const override { return beneath_->shape(); }
  Bytes kv_block_bytes(models::KvType type) const override { return beneath_->kv_block_bytes(type); }
  Result<std::unique_ptr<models::KvStore>> make_kv_store(int blocks, models::KvType type) const override {
    return beneath_->make_kv_store(blocks, type);
  }
  void forward(const models::Step& step, models::KvStore& kv) override {
    beneath_->forward(step, kv);
    ++steps;
    const auto width = static_cast<std::size_t>(shape().vocabulary);
    for (std::size_t i = 0; i < step.logit_rows.size(); ++i)
      for (const auto& sequence : step.sequences) {
        const int row = step.logit_rows[i] - sequence.first_row;
        const auto next = static_cast<std::size_t>(sequence.first_position + row + 1);
        if (row >= 0 && row < sequence.rows && next < script.size())
          step.logits[i * width + static_cast<std::size_t>(script[next])] = 1e6F;
      }
  }

  std::vector<std::int32_t> script;  // the prompt and the answer
  int steps = 0;

 private:
  std::unique_ptr<models::Model> beneath_;
};

class Waiter final : public engine::Sink {
 public:
  void on(engine::Event event) override {
    std::lock_guard lock(mutex_);
    if (auto* text = std::get_if<engine::Text>(&event)) ids.insert(ids.end(), text->ids.begin(), text->ids.end());
    if (auto* finished = std::get_if<engine::Finished>(&event)) done = *finished;
    ended_ = done || std::holds_alternative<engine::Failed>(event);
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_; });
  }
  std::vector<std::int32_t> ids;
  std::optional<engine::Finished> done;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
};

std::string read(const char* path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string replaced(std::string text, std::string_view what, std::string_view by, int times = 1 << 20) {
  for (auto at = text.find(what); at != text.npos && times-- > 0; at = text.find(what, at + by.size()))
    text.replace(at, what.size(), by);
  return text;
}

struct Scene {
  const char* name;
  std::string prompt, answer;
};

std::vector<Scene> scenes() {
  const std::string file = read("src/engine/pace.cc");
  const auto ask = [&](const char* what) { return fmt::format("{}\n\n```cpp\n{}```\n\n```cpp\n", what, file); };
  return {
      {"a constant changed", ask("Forget twice as fast."), replaced(file, "0.1)", "0.2)", 1)},
      {"a name changed everywhere", ask("Call the parameter now: instant."), replaced(file, "now", "instant")},
      {"a line added before each return", ask("Log before each return."),
       replaced(file, "  return", "  log::debug(\"leaving\", {});\n  return")},
      {"prose that is not in the prompt", "Explain how this house is built.\n",
       read("docs/architecture.md").substr(0, 1500)},
  };
}

int fail(const Error& error) {
  fmt::print(stderr, "engine_bench: {}\n", error.message);
  return 1;
}

struct Run {
  double rate = 0;
  int steps = 0;
  engine::Usage usage;
};

Run perform(engine::Engine& engine, Actor& actor, const std::vector<std::int32_t>& prompt,
            const std::vector<std::int32_t>& answer, engine::Speculation by) {
  engine::Request request;
  request.prompt.input = prompt;
  request.sampling.temperature = 0;
  request.stopping.max_tokens = static_cast<int>(answer.size());
  request.stopping.ignore_eos = true;
  request.speculating.by = by;
  Waiter waiter;
  const int before = actor.steps;
  const auto ticket = engine.start(std::move(request), waiter);
  CHECK(ticket.has_value(), "the request is admitted");
  waiter.wait();
  CHECK(waiter.ids == answer, "the answer is the script");
  return {.rate = (static_cast<double>(answer.size()) - 1) / waiter.done->decode_seconds,
          .steps = actor.steps - before,
          .usage = waiter.done->usage};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return fail({Code::invalid, "expected VOCABULARY.gguf [SHAPE [TYPE]]"});
  const std::string shape = argc > 2 ? argv[2] : "qwen2.5-0.5b", type = argc > 3 ? argv[3] : "Q4_0";
  log::configure(log::Level::warn, log::Format::text);
  const auto pool = std::make_shared<ThreadPool>(0);
  auto vocabulary = models::load(argv[1], {.weights = false}, *pool);
  if (!vocabulary) return fail(vocabulary.error());
  const auto tokenizer = text::Tokenizer::create(std::move(vocabulary->vocabulary));
  if (!tokenizer) return fail(tokenizer.error());
  auto loaded = models::random_model(shape, type, {}, *pool);
  if (!loaded) return fail(loaded.error());
  const auto actor = std::make_shared<Actor>(std::move(loaded->model));
  const auto made = engine::Engine::create({.names = {"actor"}, .model = actor, .tokenizer = *tokenizer, .pool = pool},
                                           {.max_model_len = 4096});
  if (!made) return fail(made.error());

  fmt::print("{} {}, {} threads, {}; decoding, the best of 3 runs each, taken in turns\n\n", shape, type, pool->size(),
             kernels::kernels().isa);
  fmt::print("{:<34}{:>8}{:>11}{:>11}{:>8}{:>10}{:>10}{:>8}\n", "answer", "tokens", "tokens/s", "guessed", "ratio",
             "accepted", "rejected", "steps");
  for (const Scene& scene : scenes()) {
    const auto prompt = (*tokenizer)->encode(scene.prompt),
               answer = (*tokenizer)->encode(scene.answer, {.add_special = false});
    if (answer.size() < 2) return fail({Code::not_found, "run it in the repository's root"});
    actor->script = prompt;
    actor->script.insert(actor->script.end(), answer.begin(), answer.end());
    Run plain, guessed;
    for (int i = 0; i < 3; ++i) {
      const Run a = perform(**made, *actor, prompt, answer, engine::Speculation::off);
      const Run b = perform(**made, *actor, prompt, answer, engine::Speculation::ngram);
      if (a.rate > plain.rate) plain = a;
      if (b.rate > guessed.rate) guessed = b;
    }
    fmt::print("{:<34}{:>8}{:>11.1f}{:>11.1f}{:>8.2f}{:>10}{:>10}{:>8}\n", scene.name, answer.size(), plain.rate,
               guessed.rate, guessed.rate / plain.rate, guessed.usage.accepted_tokens, guessed.usage.rejected_tokens,
               guessed.steps);
    std::fflush(stdout);
  }
  return 0;
}
