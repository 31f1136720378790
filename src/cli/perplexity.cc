// ashlar perplexity: how well a model predicts a text, measured as llama.cpp
// measures it, so that figures can be set side by side.
#include <fmt/format.h>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/scoring.h"
#include "cli/stored_model.h"
#include "cli/terminal.h"
#include "kernels/kernels.h"
#include "models/loader.h"
#include "text/tokenizer.h"

namespace ashlar::cli {
namespace {

struct PerplexityOptions {
  int context = 512, threads = 0;
  std::string base, isa, kv_type = "auto";
  bool json = false;
  void fields(auto&& field) {
    field("context", context, "Tokens in a window; the second half of each is scored.");
    field("base", base,
          "Compare with this model of the same vocabulary: its perplexity, and how far off the probabilities are.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("isa", isa, "Use the kernels of this instruction set instead of the best that this processor has.");
    field("kv_type", kv_type, "Keys and values as f16, bf16, int8 or auto.");
    field("json", json, "For a script: {\"perplexity\", \"tokens\", \"seconds\"}, and with --base \"base_perplexity\", \"divergence\", \"same_top\".");
  }
};

Result<Score> score_text(const std::string& model, const std::string& text_path, const PerplexityOptions& options) {
  const int window = options.context;
  if (window < 4) return Error{Code::invalid, "--context: a window has at least 4 tokens"};
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  const auto kv_type = TRY(models::kv_type_of(options.kv_type));
  const std::string text = TRY(read_file(text_path, std::size_t{1} << 30));
  const std::string path = TRY(find_model(model));
  ThreadPool pool(options.threads);
  auto loaded = TRY(models::load(path, {}, pool));
  if (loaded.model == nullptr) return Error{Code::invalid, fmt::format("{}: holds no weights of a model that generates", path)};
  models::LoadedModel base;
  if (!options.base.empty()) {
    const auto found = TRY(find_model(options.base));
    base = TRY(models::load(found, {}, pool));
    if (base.model == nullptr || base.shape.vocabulary != loaded.shape.vocabulary)
      return Error{Code::invalid, fmt::format("--base: {} generates with {} tokens and {} with {}, so they cannot be compared",
                                              options.base, base.shape.vocabulary, model, loaded.shape.vocabulary)};
  }
  const auto tokenizer = TRY(text::Tokenizer::create(std::move(loaded.vocabulary)));
  auto tokens = tokenizer->encode(text);
  const auto windows = tokens.size() / static_cast<std::size_t>(window);
  if (windows == 0)
    return Error{Code::invalid, fmt::format("{}: {} tokens, fewer than one window of {}", text_path, tokens.size(), window)};
  tokens.resize(windows * static_cast<std::size_t>(window));
  start_windows(tokens, window, tokenizer->vocabulary());
  Progress progress("scoring", static_cast<std::int64_t>(windows));
  return score_windows(*loaded.model, tokens, window, kv_type, [&](std::int64_t done, const Score& score) -> Status {
    progress.at(done, fmt::format("perplexity {:.4f}", score.perplexity()));
    return {};
  }, base.model.get());
}

Json json_of(const Score& score, bool beside) {
  Json out{{"perplexity", score.perplexity()}, {"tokens", score.tokens}, {"seconds", score.seconds}};
  if (!beside) return out;
  out["base_perplexity"] = score.base_perplexity();
  out["divergence"] = score.per_token(score.divergence);
  out["same_top"] = score.per_token(static_cast<double>(score.same));
  return out;
}

}  // namespace

int perplexity(const Words& words) {
  std::string model, text;
  PerplexityOptions options;
  CommandLine line{.name = "perplexity",
                   .summary = "How well a model predicts a text: lower is better.",
                   .examples = "The text is tokenized once and cut into windows of --context N tokens, an incomplete last one dropped; each\n"
                               "window's first token becomes BOS where the model adds one; positions N/2+1 to N-1 are scored.",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file, a Hugging Face folder, or the name of a pulled model.", .value = &model, .required = true},
                                   {.name = "FILE", .help = "A text.", .value = &text, .required = true}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  const auto score = score_text(model, text, options);
  if (!score) return fail("perplexity", score.error());
  if (options.json)
    fmt::print("{}\n", dump_json(json_of(*score, !options.base.empty())));
  else
    fmt::print("perplexity {:.4f} over {} tokens in {:.1f} s\n", score->perplexity(), score->tokens, score->seconds);
  if (!options.json && !options.base.empty())
    fmt::print("base {:.4f}, changed by {:+.2f} %; mean divergence {:.5f}, the same likeliest token {:.2f} % of the time\n",
               score->base_perplexity(), 100 * (score->perplexity() / score->base_perplexity() - 1),
               score->per_token(score->divergence), 100 * score->per_token(static_cast<double>(score->same)));
  return 0;
}

}  // namespace ashlar::cli
