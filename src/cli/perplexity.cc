// ashlar perplexity: how well a model predicts a text, measured as llama.cpp
// measures it, so that figures can be set side by side.
#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/direct.h"
#include "cli/flags.h"
#include "cli/stored_model.h"
#include "cli/terminal.h"
#include "kernels/kernels.h"
#include "models/loader.h"

namespace ashlar::cli {
namespace {

struct PerplexityOptions {
  int context = 512, threads = 0;
  std::string isa, kv_type = "auto";
  bool json = false;
  void fields(auto&& field) {
    field("context", context, "Tokens in a window; the second half of each is scored.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("isa", isa, "Use the kernels of this instruction set instead of the best that this processor has.");
    field("kv_type", kv_type, "Keys and values as f16, bf16, int8 or auto.");
    field("json", json, "For a script: {\"perplexity\", \"tokens\", \"seconds\"}.");
  }
};

struct Score {
  double loss = 0;  // sum of -log p
  std::int64_t tokens = 0;
  double seconds = 0;
  double perplexity() const { return std::exp(loss / static_cast<double>(tokens)); }
};

double log_probability(std::span<const float> logits, std::int32_t token) {
  float most = logits[0];
  for (const float logit : logits) most = std::max(most, logit);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - most));
  return static_cast<double>(logits[static_cast<std::size_t>(token)] - most) - std::log(sum);
}

Result<Score> score_text(const std::string& model, const std::string& text_path, const PerplexityOptions& options) {
  constexpr int kChunk = 64;  // rows whose logits are held at once
  const int window = options.context;
  if (window < 4) return Error{Code::invalid, "--context: a window has at least 4 tokens"};
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  const auto kv_type = TRY(models::kv_type_of(options.kv_type));
  const std::string text = TRY(read_file(text_path, std::size_t{1} << 30));
  const std::string path = TRY(find_model(model));
  ThreadPool pool(options.threads);
  auto loaded = TRY(models::load(path, {}, pool));
  if (loaded.model == nullptr) return Error{Code::invalid, fmt::format("{}: holds no weights of a model that generates", path)};
  const auto tokenizer = TRY(text::Tokenizer::create(std::move(loaded.vocabulary)));
  auto tokens = tokenizer->encode(text);
  const auto windows = tokens.size() / static_cast<std::size_t>(window);
  if (windows == 0)
    return Error{Code::invalid, fmt::format("{}: {} tokens, fewer than one window of {}", text_path, tokens.size(), window)};
  auto direct = TRY(Direct::create(*loaded.model, 1, window, kv_type));
  const auto& vocabulary = tokenizer->vocabulary();
  Score score;
  Progress progress("scoring", static_cast<std::int64_t>(windows));
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t w = 0; w < windows; ++w) {
    const auto span = std::span(tokens).subspan(w * static_cast<std::size_t>(window), static_cast<std::size_t>(window));
    if (vocabulary.add_bos && vocabulary.bos >= 0) span[0] = vocabulary.bos;
    direct.forget(0);
    // Positions N/2+1 ... N-1 are scored, each from the logits one before it.
    const int first = window / 2;
    direct.feed(0, span.first(static_cast<std::size_t>(first)), 0, 512, [](int, std::span<const float>) {});
    const auto scored = span.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(window - 1 - first));
    direct.feed(0, scored, static_cast<int>(scored.size()), kChunk, [&](int at, std::span<const float> logits) {
      score.loss -= log_probability(logits, span[static_cast<std::size_t>(first + at + 1)]);
      ++score.tokens;
    });
    progress.at(static_cast<std::int64_t>(w + 1), fmt::format("perplexity {:.4f}", score.perplexity()));
  }
  score.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return score;
}

}  // namespace

int perplexity(const Words& words) {
  std::string model, text;
  PerplexityOptions options;
  CommandLine line{.name = "perplexity",
                   .summary = "How well a model predicts a text: lower is better.",
                   .examples = "The text is tokenized once and cut into windows of --context N tokens, an incomplete last one dropped; each\n"
                               "window's first token becomes BOS where the model adds one; positions N/2+1 to N-1 are scored.",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file or a Hugging Face folder.", .value = &model, .required = true},
                                   {.name = "FILE", .help = "A text.", .value = &text, .required = true}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  const auto score = score_text(model, text, options);
  if (!score) return fail("perplexity", score.error());
  if (options.json)
    fmt::print("{}\n", dump_json({{"perplexity", score->perplexity()}, {"tokens", score->tokens}, {"seconds", score->seconds}}));
  else
    fmt::print("perplexity {:.4f} over {} tokens in {:.1f} s\n", score->perplexity(), score->tokens, score->seconds);
  return 0;
}

}  // namespace ashlar::cli
