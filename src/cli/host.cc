#include "cli/host.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <future>
#include <utility>

#include "base/log.h"
#include "cli/default_model.h"
#include "cli/reading.h"
#include "cli/stored_model.h"
#include "engine/generator_set.h"
#include "engine/reader_set.h"
#include "engine/silent_generator.h"
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
  const std::string found = TRY(path_of(text, options));
  if (!exists) return Named{text, found};
  const auto path = std::filesystem::absolute(found).lexically_normal();
  std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();  // "folder/", too
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return Named{name, found};
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

// What requests get that say nothing, as far as the publisher advises it.
engine::Sampling sampling_of(const models::SamplingAdvice& advice) {
  engine::Sampling sampling;
  const auto take = [](float& value, const std::optional<double>& advised, double most) {
    if (advised) value = static_cast<float>(std::min(*advised, most));
  };
  take(sampling.temperature, advice.temperature, 2);
  take(sampling.min_p, advice.min_p, 1);
  if (advice.top_p != 0) take(sampling.top_p, advice.top_p, 1);
  if (advice.repetition_penalty != 0) take(sampling.repetition_penalty, advice.repetition_penalty, 100);
  sampling.top_k = advice.top_k.value_or(sampling.top_k);
  return sampling;
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

  Status add(const std::string& text, const HostOptions& options) {
    Stopwatch watch;
    auto [name, path] = TRY(parse_model(text, options));
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
                              .max_text_tokens = options.reader.max_text_tokens,
                              .packed_cache = models::PackedCache::from(options.packed_cache)},
                             *pool_));
    const auto weights_ms = watch.lap();
    auto [tokenizer, chat_template] = TRY(text_side.get());
    const auto text_ms = watch.lap();
    names_.push_back(name);
    const std::shared_ptr<models::Model> model = std::move(loaded.model);
    auto reader = TRY(make_reader({.name = name,
                                   .loaded = loaded,
                                   .model = model,
                                   .encoder = std::move(loaded.encoder),
                                   .tokenizer = tokenizer,
                                   .pool = *pool_,
                                   .turns = turns_,
                                   .request_timeout = options.engine.request_timeout},
                                  options.reader));
    const int embedding = reader != nullptr ? reader->dimensions() : 0;
    engines_.push_back(nullptr);
    if (only_reads(loaded)) {
      generators_.push_back(std::make_shared<engine::SilentGenerator>(
          engine::ModelCard{.id = name,
                            .created = std::time(nullptr),
                            .context = reader->context(),
                            .parameters = loaded.facts.parameters,
                            .bytes = static_cast<std::int64_t>(loaded.facts.bytes.count),
                            .vocabulary = tokenizer->size(),
                            .embedding = embedding,
                            .ranks = reader->ranks()},
          tokenizer));
    } else {
      engines_.back() = TRY(make_engine(name, loaded, model, std::move(tokenizer), std::move(chat_template), embedding, options));
      generators_.push_back(engines_.back());
    }
    if (reader != nullptr) readers_.push_back(std::move(reader));
    log::debug("model_load_times", {{"model", name}, {"open_ms", opened_ms}, {"weights_ms", weights_ms},
                                    {"text_wait_ms", text_ms}, {"engine_ms", watch.lap()}});
    log::info("model_loaded", {{"model", name}, {"architecture", loaded.facts.architecture}, {"type", loaded.facts.file_type},
                               {"context", generators_.back()->models().front().context}, {"isa", kernels::kernels().isa},
                               {"weights", name_of(loaded.weights)}, {"ms", watch.total()}});
    return {};
  }

  // "NAME=PATH" is of the first model, "MODEL:NAME=PATH" of that one.
  Status add_adapter(const std::string& text) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size())
      return Error{Code::invalid, fmt::format("--adapter: '{}' is not NAME=PATH", text)};
    std::string name = text.substr(0, equals);
    std::size_t model = 0;
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (name.starts_with(names_[i] + ":")) {
        name = name.substr(names_[i].size() + 1);
        model = i;
        break;
      }
    if (std::ranges::find(names_, name) != names_.end() || std::ranges::find(adapters_, name) != adapters_.end())
      return Error{Code::invalid, fmt::format("--adapter: two are to be served as '{}'", name)};
    if (engines_[model] == nullptr)
      return Error{Code::unsupported, fmt::format("--adapter: '{}' writes no text, so it takes no adapters", names_[model])};
    TRY(engines_[model]->add_adapter(name, text.substr(equals + 1)));
    adapters_.push_back(name);
    return {};
  }

  Status finish() {
    set_ = TRY(engine::GeneratorSet::create({generators_.begin(), generators_.end()}));
    reader_set_ = std::make_unique<engine::ReaderSet>(std::move(readers_));
    return {};
  }

  engine::Generator& generator() override { return *set_; }
  engine::Embedder& embedder() override { return *reader_set_; }
  engine::Reranker& reranker() override { return *reader_set_; }
  const std::vector<std::string>& models() const override { return names_; }
  const std::string& first() const override { return adapters_.empty() ? names_.front() : adapters_.front(); }

 private:
  Result<std::shared_ptr<engine::Engine>> make_engine(const std::string& name, const models::LoadedModel& loaded,
                                                         std::shared_ptr<models::Model> model,
                                                         std::shared_ptr<const text::Tokenizer> tokenizer,
                                                         std::shared_ptr<const text::ChatTemplate> chat_template,
                                                         int embedding, const HostOptions& options) {
    return TRY(engine::Engine::create({.names = {name},
                                       .model = std::move(model),
                                       .tokenizer = std::move(tokenizer),
                                       .chat_template = std::move(chat_template),
                                       .draft_model = draft_,
                                       .draft_tokenizer = draft_tokenizer_,
                                       .created = std::time(nullptr),
                                       .parameters = loaded.facts.parameters,
                                       .bytes = static_cast<std::int64_t>(loaded.facts.bytes.count),
                                       .embedding = embedding,
                                       .sampling = sampling_of(loaded.facts.sampling),
                                       .pool = pool_,
                                       .turns = turns_},
                                      options.engine));
  }

  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<engine::ComputeLock> turns_;
  std::shared_ptr<models::Model> draft_;  // null: none
  std::shared_ptr<const text::Tokenizer> draft_tokenizer_;
  std::vector<std::string> names_, adapters_;
  std::vector<std::shared_ptr<engine::Generator>> generators_;  // of each name
  std::vector<std::shared_ptr<engine::Engine>> engines_;        // the same; nullptr where it only reads
  std::unique_ptr<engine::GeneratorSet> set_;
  std::vector<std::unique_ptr<engine::TextReader>> readers_;  // until they are a set
  std::unique_ptr<engine::ReaderSet> reader_set_;
};

}  // namespace

Result<std::unique_ptr<Host>> Host::open(const std::vector<std::string>& models, const HostOptions& options) {
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  auto host = std::make_unique<LoadedHost>(options.threads);
  if (!options.draft_model.empty()) TRY(host->take_draft(options.draft_model, options));
  for (const std::string& model : models) TRY(host->add(model, options));
  for (const std::string& adapter : options.adapter) TRY(host->add_adapter(adapter));
  TRY(host->finish());
  return host;
}

}  // namespace ashlar::cli
