#include "cli/host_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <future>
#include <utility>

#include "base/guest_loops.h"
#include "base/log.h"
#include "cli/reading.h"
#include "engine/engine.h"
#include "engine/silent_generator.h"
#include "kernels/kernels.h"
#include "models/loader.h"

namespace ashlar::cli {
namespace {

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

// Opened, but for the weights, and found fit to be served.
Result<models::LoadedModel> open_served(const std::string& path) {
  auto file = TRY(models::open_file(path));
  auto loaded = TRY(models::open_model(std::move(file)));
  if (!loaded.config) return Error{Code::invalid, fmt::format("{}: has a vocabulary but no weights", path)};
  if (loaded.vocabulary.tokens.empty()) return Error{Code::invalid, fmt::format("{}: has weights but no vocabulary", path)};
  return loaded;
}

// What is told of a model before it is loaded. There may then be no memory for all of its context, nor to embed.
engine::ModelCard card_of(const std::string& name, const models::LoadedModel& opened, const HostOptions& options) {
  const bool writes = !only_reads(opened), ranked = ranks(opened);
  const int trained = opened.shape.context, wanted = options.engine.max_model_len;
  return {.id = name,
          .created = std::time(nullptr),
          .context = !writes ? std::min(trained, options.reader.max_text_tokens) : wanted > 0 ? wanted : trained,
          .parameters = opened.facts.parameters,
          .bytes = static_cast<std::int64_t>(opened.facts.bytes.count),
          .vocabulary = static_cast<int>(opened.vocabulary.tokens.size()),
          .has_chat_template = !opened.templates.source.empty(),
          .sampling = sampling_of(opened.facts.sampling),
          .generates = writes,
          .embedding = ranked ? 0 : opened.shape.width,
          .ranks = ranked};
}

Result<engine::Resident> load(const std::string& name, const std::string& path, const SharedParts& shared,
                              const HostOptions& options) {
  Stopwatch watch;
  auto loaded = TRY(open_served(path));
  const engine::ModelCard card = card_of(name, loaded, options);
  const auto opened_ms = watch.lap();
  // While the weights come in, its text side is made on another thread.
  auto text_side = std::async(std::launch::async, [&, vocabulary = std::move(loaded.vocabulary)]() mutable {
    return make_text_side(name, std::move(vocabulary), loaded.templates.source);
  });
  {
    // The other models answer meanwhile: they and the packing take turns at the pool.
    const GuestLoops beside_the_others(*shared.turns);
    TRY(models::load_weights(loaded,
                             {.max_rows = options.engine.max_num_batched_tokens,
                              .max_text_tokens = options.reader.max_text_tokens,
                              .packed_cache = models::PackedCache::from(options.packed_cache)},
                             *shared.pool));
  }
  const auto weights_ms = watch.lap();
  auto [tokenizer, chat_template] = TRY(text_side.get());
  const auto text_ms = watch.lap();
  const std::shared_ptr<models::Model> model = std::move(loaded.model);
  const std::shared_ptr<engine::TextReader> reader = TRY(make_reader({.name = name,
                                                                      .loaded = loaded,
                                                                      .model = model,
                                                                      .encoder = std::move(loaded.encoder),
                                                                      .tokenizer = tokenizer,
                                                                      .pool = *shared.pool,
                                                                      .turns = shared.turns,
                                                                      .request_timeout = options.engine.request_timeout},
                                                                     options.reader));
  engine::Resident resident{.embedder = reader, .reranker = reader};
  if (!card.generates) {
    engine::ModelCard silent = card;
    silent.context = reader->context();
    silent.embedding = reader->dimensions();
    silent.ranks = reader->ranks();
    resident.generator = std::make_shared<engine::SilentGenerator>(std::move(silent), tokenizer);
  } else {
    resident.generator = TRY(engine::Engine::create({.names = {name},
                                                     .model = model,
                                                     .tokenizer = std::move(tokenizer),
                                                     .chat_template = std::move(chat_template),
                                                     .draft_model = shared.draft,
                                                     .draft_tokenizer = shared.draft_tokenizer,
                                                     .created = card.created,
                                                     .parameters = card.parameters,
                                                     .bytes = card.bytes,
                                                     .embedding = reader != nullptr ? reader->dimensions() : 0,
                                                     .sampling = card.sampling,
                                                     .pool = shared.pool,
                                                     .turns = shared.turns},
                                                    options.engine));
  }
  log::debug("model_load_times", {{"model", name}, {"open_ms", opened_ms}, {"weights_ms", weights_ms},
                                  {"text_wait_ms", text_ms}, {"engine_ms", watch.lap()}});
  log::info("model_loaded", {{"model", name}, {"architecture", loaded.facts.architecture}, {"type", loaded.facts.file_type},
                             {"context", resident.generator->models().front().context}, {"isa", kernels::kernels().isa},
                             {"weights", name_of(loaded.weights)}, {"ms", watch.total()}});
  return resident;
}

}  // namespace

Result<engine::ResidentModel> host_model(const std::string& name, const std::string& path, const SharedParts& shared,
                                         const HostOptions& options) {
  const auto opened = TRY(open_served(path));
  return engine::ResidentModel{.card = card_of(name, opened, options),
                               .bytes = opened.facts.bytes,
                               .load = [name, path, &shared, &options] { return load(name, path, shared, options); }};
}

Status load_draft(const std::string& path, const HostOptions& options, SharedParts& shared) {
  auto loaded = TRY(models::load(path,
                                 {.max_rows = options.engine.max_num_batched_tokens,
                                  .packed_cache = models::PackedCache::from(options.packed_cache)},
                                 *shared.pool));
  if (loaded.model == nullptr || loaded.vocabulary.tokens.empty())
    return Error{Code::invalid, fmt::format("{}: a draft model has weights and a vocabulary", path)};
  shared.draft = std::move(loaded.model);
  shared.draft_tokenizer = TRY(text::Tokenizer::create(std::move(loaded.vocabulary)));
  log::info("draft_model_loaded", {{"path", path}, {"architecture", loaded.facts.architecture}, {"type", loaded.facts.file_type}});
  return {};
}

}  // namespace ashlar::cli
