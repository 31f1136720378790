#include "cli/host.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <future>
#include <utility>

#include "base/log.h"
#include "cli/default_model.h"
#include "cli/stored_model.h"
#include "engine/generator_set.h"
#include "engine/residents.h"
#include "kernels/kernels.h"
#include "models/loader.h"

namespace ashlar::cli {
namespace {

struct Named {
  std::string name, path;
};

// The file of the embedded model, of a path, or of a pulled model.
Result<std::string> path_of(const std::string& model, const HostOptions& options) {
  return model == kDefaultModel ? default_model_path() : find_model(model, options.store);
}

// "NAME=MODEL" or a model. A file whose own name holds a "=" is taken as it is.
Result<Named> parse_model(const std::string& text, const HostOptions& options) {
  if (text.empty()) return Error{Code::invalid, "--model: expected a model or NAME=MODEL"};
  const bool exists = std::filesystem::exists(text);
  const auto equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && !exists && !store::looks_like_reference(text)) {
    const std::string model = text.substr(equals + 1);
    if (model.empty()) return Error{Code::invalid, fmt::format("--model: '{}' names no file after the '='", text)};
    return Named{text.substr(0, equals), TRY(path_of(model, options))};
  }
  const std::string path = TRY(path_of(text, options));
  if (!exists) return Named{text, path};
  std::string name = std::filesystem::path(text).filename().string();
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return Named{name, path};
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
    const std::string path = TRY(path_of(text, options));
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

  Result<std::shared_ptr<engine::Engine>> load(const std::string& name, const std::string& path, const HostOptions& options) {
    Stopwatch watch;
    auto file = TRY(models::gguf::File::open(path));
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
    std::shared_ptr<engine::Engine> engine = TRY(engine::Engine::create({.names = {name},
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
    log::debug("model_load_times", {{"model", name}, {"open_ms", opened_ms}, {"weights_ms", weights_ms},
                                    {"text_wait_ms", text_ms}, {"engine_ms", watch.lap()}});
    log::info("model_loaded", {{"model", name}, {"architecture", loaded.facts.architecture}, {"type", loaded.facts.file_type},
                               {"context", engine->context()}, {"isa", kernels::kernels().isa},
                               {"weights", name_of(loaded.weights)}, {"ms", watch.total()}});
    return engine;
  }

  Status serve_one(const std::string& text, const HostOptions& options) {
    const auto [name, path] = TRY(parse_model(text, options));
    names_.push_back(name);
    std::shared_ptr<engine::Generator> engine = TRY(load(name, path, options));
    set_ = TRY(engine::GeneratorSet::create({std::move(engine)}));
    return {};
  }

  // Models that come and go; as many as fit are in memory from the start.
  Status serve_many(const std::vector<std::string>& models, const HostOptions& options) {
    std::vector<engine::ResidentModel> residents;
    for (const std::string& text : models) {
      const Named named = TRY(parse_model(text, options));
      auto file = TRY(models::gguf::File::open(named.path));
      const auto facts = TRY(models::open_model(std::move(file)));
      names_.push_back(named.name);
      residents.push_back({.card = {.id = named.name,
                                    .created = std::time(nullptr),
                                    .context = facts.shape.context,
                                    .parameters = facts.facts.parameters,
                                    .bytes = static_cast<std::int64_t>(facts.facts.bytes.count),
                                    .vocabulary = facts.shape.vocabulary,
                                    .has_chat_template = !facts.templates.source.empty()},
                           .bytes = facts.facts.bytes,
                           .load = [this, named, options]() -> Result<std::shared_ptr<engine::Generator>> {
                             return TRY(load(named.name, named.path, options));
                           }});
    }
    const std::vector<engine::ResidentModel> plan = residents;
    const auto keep_alive = TRY(parse_keep_alive(options.keep_alive));
    auto set = TRY(engine::Residents::create(
        std::move(residents),
        {.keep_alive = keep_alive, .max_loaded = options.max_loaded_models, .available = engine::available_memory}));
    int loaded = 0;
    for (const auto& each : plan) {
      const bool fits = loaded == 0 || each.bytes < engine::available_memory();
      if (!fits || (options.max_loaded_models > 0 && loaded == options.max_loaded_models)) break;
      TRY(set->preload(each.card.id));
      ++loaded;
    }
    set_ = std::move(set);
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
  std::unique_ptr<engine::Generator> set_;
};

}  // namespace

Result<std::chrono::milliseconds> parse_keep_alive(std::string_view text) {
  constexpr std::pair<std::string_view, double> kUnits[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};
  double number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, text.data() + text.size());
  const auto found = std::ranges::find(kUnits, unit, &std::pair<std::string_view, double>::first);
  if (failed != std::errc{} || found == std::end(kUnits) || !(number < 1e6))
    return Error{Code::invalid, fmt::format("keep_alive: '{}' is no time such as 5m, 1h, 90 (seconds) or -1", text)};
  if (number < 0) return std::chrono::milliseconds(-1);
  return std::chrono::milliseconds(static_cast<std::int64_t>(number * found->second));
}

Result<std::unique_ptr<Host>> Host::open(const std::vector<std::string>& models, const HostOptions& options) {
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  auto host = std::make_unique<LoadedHost>(options.threads);
  if (!options.draft_model.empty()) TRY(host->take_draft(options.draft_model, options));
  const auto keep_alive = TRY(parse_keep_alive(options.keep_alive));
  const bool stays = models.size() == 1 && keep_alive.count() < 0;
  TRY(stays ? host->serve_one(models[0], options) : host->serve_many(models, options));
  return host;
}

}  // namespace ashlar::cli
