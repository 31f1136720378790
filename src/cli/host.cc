#include "cli/host.h"

#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <future>
#include <utility>

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
  const auto path = std::filesystem::absolute(text).lexically_normal();
  std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();  // "folder/", too
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return Named{name, text};
}

// Milliseconds.
class Stopwatch {
 public:
  std::int64_t total() const { return between(start_, Clock::now()); }
  // Since the last lap.
  std::int64_t lap() {
    const auto before = std::exchange(lap_, Clock::now());
    return between(before, lap_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static std::int64_t between(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(to - from).count();
  }
  Clock::time_point start_ = Clock::now(), lap_ = start_;
};

std::string_view name_of(models::PackedImage::Origin origin) {
  switch (origin) {
    case models::PackedImage::Origin::fresh: return "packed";
    case models::PackedImage::Origin::mapped: return "cache, mapped";
    case models::PackedImage::Origin::copied: return "cache, read";
  }
  return "";
}

// What turns text into tokens and messages into text.
struct TextSide {
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate> chat_template;  // nullptr: none that can be used
};

Result<TextSide> make_text_side(const std::string& model, text::Vocabulary vocabulary, const std::string& chat_template) {
  TextSide side;
  if (!chat_template.empty()) {
    auto parsed = text::ChatTemplate::parse(chat_template);
    if (parsed) side.chat_template = std::move(*parsed);
    else log::warn("chat_template_unusable", {{"model", model}, {"why", parsed.error().message}});
  }
  side.tokenizer = TRY(text::Tokenizer::create(std::move(vocabulary)));
  return side;
}

// All that is loaded. The pool outlives the engines, which outlive the set.
class LoadedHost final : public Host {
 public:
  LoadedHost(int threads) : pool_(std::make_shared<ThreadPool>(threads, /*pin=*/true)), turns_(std::make_shared<engine::ComputeLock>()) {}

  Status take_draft(const std::string& text, const HostOptions& options) {
    const std::string path = text == kDefaultModel ? TRY(default_model_path()) : text;
    auto loaded = TRY(models::load(path,
                                   {.max_rows = options.engine.max_num_batched_tokens,
                                    .packed_cache = models::PackedCache::from(options.packed_cache)},
                                   *pool_));
    if (loaded.model == nullptr || loaded.vocabulary.tokens.empty())
      return Error{Code::invalid, fmt::format("{}: a draft model has weights and a vocabulary", path)};
    draft_ = std::move(loaded.model);
    draft_tokenizer_ = TRY(text::Tokenizer::create(std::move(loaded.vocabulary)));
    log::info("draft_model_loaded", {{"path", text}, {"architecture", loaded.facts.architecture}, {"type", loaded.facts.file_type}});
    return {};
  }

  Status add(const std::string& text, const HostOptions& options) {
    Stopwatch watch;
    auto [name, path] = TRY(parse_model(text));
    auto file = TRY(models::open_file(path));
    auto loaded = TRY(models::open_model(std::move(file)));
    if (!loaded.config) return Error{Code::invalid, fmt::format("{}: has a vocabulary but no weights", path)};
    if (loaded.vocabulary.tokens.empty()) return Error{Code::invalid, fmt::format("{}: has weights but no vocabulary", path)};
    const auto opened_ms = watch.lap();
    // While the weights come in, its text side is made on another thread.
    auto text_side = std::async(std::launch::async, [&, vocabulary = std::move(loaded.vocabulary)]() mutable {
      return make_text_side(name, std::move(vocabulary), loaded.templates.source);
    });
    TRY(models::load_weights(loaded,
                             {.max_rows = options.engine.max_num_batched_tokens,
                              .packed_cache = models::PackedCache::from(options.packed_cache)},
                             *pool_));
    const auto weights_ms = watch.lap();
    auto [tokenizer, chat_template] = TRY(text_side.get());
    const auto text_ms = watch.lap();
    names_.push_back(name);
    auto engine = TRY(engine::Engine::create({.names = {name},
                                              .model = std::move(loaded.model),
                                              .tokenizer = std::move(tokenizer),
                                              .chat_template = std::move(chat_template),
                                              .draft_model = draft_,
                                              .draft_tokenizer = draft_tokenizer_,
                                              .created = std::time(nullptr),
                                              .parameters = loaded.facts.parameters,
                                              .bytes = static_cast<std::int64_t>(loaded.facts.bytes.count),
                                              .pool = pool_,
                                              .turns = turns_},
                                             options.engine));
    engines_.push_back(std::move(engine));
    log::debug("model_load_times", {{"model", name}, {"open_ms", opened_ms}, {"weights_ms", weights_ms},
                                    {"text_wait_ms", text_ms}, {"engine_ms", watch.lap()}});
    log::info("model_loaded", {{"model", name}, {"architecture", loaded.facts.architecture}, {"type", loaded.facts.file_type},
                               {"context", engines_.back()->context()}, {"isa", kernels::kernels().isa},
                               {"weights", name_of(loaded.weights)}, {"ms", watch.total()}});
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
  if (!options.draft_model.empty()) TRY(host->take_draft(options.draft_model, options));
  for (const std::string& model : models) TRY(host->add(model, options));
  TRY(host->finish());
  return host;
}

}  // namespace ashlar::cli
