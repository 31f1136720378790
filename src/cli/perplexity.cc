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
  });
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
    fmt::print("{}\n", dump_json({{"perplexity", score->perplexity()}, {"tokens", score->tokens}, {"seconds", score->seconds}}));
  else
    fmt::print("perplexity {:.4f} over {} tokens in {:.1f} s\n", score->perplexity(), score->tokens, score->seconds);
  return 0;
}

}  // namespace ashlar::cli
