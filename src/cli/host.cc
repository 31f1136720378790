#include "cli/host.h"

#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <filesystem>

#include "base/log.h"
#include "cli/default_model.h"
#include "engine/generator_set.h"
#include "kernels/kernels.h"
#include "models/loader.h"

namespace ashlar::cli {
namespace {

struct Named {
  std::string name, path;
};

// "NAME=PATH", a path, or the embedded model's name. A file whose own name holds
// a "=" is taken as it is.
Result<Named> parse_model(const std::string& text) {
  if (text.empty()) return Error{Code::invalid, "--model: expected PATH or NAME=PATH"};
  if (text == kDefaultModel) return Named{text, TRY(default_model_path())};
  const auto equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && !std::filesystem::exists(text)) {
    const std::string path = text.substr(equals + 1);
    if (path.empty()) return Error{Code::invalid, fmt::format("--model: '{}' names no file after the '='", text)};
    return Named{text.substr(0, equals), path == kDefaultModel ? TRY(default_model_path()) : path};
  }
  std::string name = std::filesystem::path(text).filename().string();
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return Named{name, text};
}

// All that is loaded. The pool outlives the engines, which outlive the set.
class LoadedHost final : public Host {
 public:
  LoadedHost(int threads) : pool_(std::make_shared<ThreadPool>(threads)), turns_(std::make_shared<engine::ComputeLock>()) {}

  Status take_draft(const std::string& text, const engine::EngineOptions& options) {
    const std::string path = text == kDefaultModel ? TRY(default_model_path()) : text;
    auto loaded = TRY(models::load(path, {.max_rows = options.max_num_batched_tokens}, *pool_));
    if (loaded.model == nullptr || loaded.vocabulary.tokens.empty())
      return Error{Code::invalid, fmt::format("{}: a draft model has weights and a vocabulary", path)};
    draft_ = std::move(loaded.model);
    draft_tokenizer_ = TRY(text::Tokenizer::create(std::move(loaded.vocabulary)));
    log::info("draft_model_loaded", {{"path", text}, {"architecture", loaded.facts.architecture}, {"type", loaded.facts.file_type}});
    return {};
  }

  Status add(const std::string& text, const engine::EngineOptions& options) {
    const auto start = std::chrono::steady_clock::now();
    auto [name, path] = TRY(parse_model(text));
    auto loaded = TRY(models::load(path, {.max_rows = options.max_num_batched_tokens}, *pool_));
    if (loaded.model == nullptr) return Error{Code::invalid, fmt::format("{}: has a vocabulary but no weights", path)};
    if (loaded.vocabulary.tokens.empty()) return Error{Code::invalid, fmt::format("{}: has weights but no vocabulary", path)};
    std::shared_ptr<const text::ChatTemplate> chat_template;
    if (!loaded.templates.source.empty()) {
      auto parsed = text::ChatTemplate::parse(loaded.templates.source);
      if (parsed) chat_template = std::move(*parsed);
      else log::warn("chat_template_unusable", {{"model", name}, {"why", parsed.error().message}});
    }
    names_.push_back(name);
    auto engine = TRY(engine::Engine::create({.names = {name},
                                              .model = std::move(loaded.model),
                                              .tokenizer = TRY(text::Tokenizer::create(std::move(loaded.vocabulary))),
                                              .chat_template = std::move(chat_template),
                                              .draft_model = draft_,
                                              .draft_tokenizer = draft_tokenizer_,
                                              .created = std::time(nullptr),
                                              .parameters = loaded.facts.parameters,
                                              .bytes = static_cast<std::int64_t>(loaded.facts.bytes.count),
                                              .pool = pool_,
                                              .turns = turns_},
                                             options));
    engines_.push_back(std::move(engine));
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
    log::info("model_loaded", {{"model", name}, {"architecture", loaded.facts.architecture}, {"type", loaded.facts.file_type},
                               {"context", engines_.back()->context()}, {"isa", kernels::kernels().isa}, {"ms", took.count()}});
    return {};
  }

  Status finish() {
    set_ = TRY(engine::GeneratorSet::create({engines_.begin(), engines_.end()}));
    return {};
  }

  engine::Generator& generator() override { return *set_; }
  const std::vector<std::string>& models() const override { return names_; }

 private:
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<engine::ComputeLock> turns_;
  std::shared_ptr<models::Model> draft_;  // null: none
  std::shared_ptr<const text::Tokenizer> draft_tokenizer_;
  std::vector<std::string> names_;
  std::vector<std::shared_ptr<engine::Engine>> engines_;
  std::unique_ptr<engine::GeneratorSet> set_;
};

}  // namespace

Result<std::unique_ptr<Host>> Host::open(const std::vector<std::string>& models, const HostOptions& options) {
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  auto host = std::make_unique<LoadedHost>(options.threads);
  if (!options.draft_model.empty()) TRY(host->take_draft(options.draft_model, options.engine));
  for (const std::string& model : models) TRY(host->add(model, options.engine));
  TRY(host->finish());
  return host;
}

}  // namespace ashlar::cli
