#include "engine/engine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/json.h"
#include "base/log.h"
#include "engine/checks.h"
#include "engine/prompter.h"
#include "engine/runner.h"

namespace ashlar::engine {
namespace {

// Choices of one request are neighbours in the order of arrival.
constexpr std::uint64_t kOrderStep = 256;
// Rows of logits are large: a prompt whose every row is wanted goes in small chunks.
constexpr int kScoredChunk = 32;

class EngineTicket : public Ticket {
 public:
  EngineTicket(std::shared_ptr<Outlet> outlet, std::shared_ptr<Desk> desk)
      : outlet_(std::move(outlet)), desk_(std::move(desk)) {}
  ~EngineTicket() override {
    if (outlet_->close()) desk_->notice_closed();
  }

 private:
  std::shared_ptr<Outlet> outlet_;
  std::shared_ptr<Desk> desk_;
};

Generator::Refusal refusal(Error error) { return {.error = std::move(error)}; }

// Lengths keep one part from running into the next. An adapter gives other keys and values, and a later load of the
// same name others again.
std::shared_ptr<const std::string> cache_salt(const Request& request, const ServedAdapter* adapter) {
  return std::make_shared<const std::string>(fmt::format("{}:{}{}:{}{}", request.tenant.size(), request.tenant,
                                                         request.cache_salt.size(), request.cache_salt,
                                                         adapter == nullptr ? 0 : adapter->number));
}

}  // namespace

struct Engine::State {
  EngineParts parts;
  EngineOptions options;
  CachePlan cache;
  Prompter prompter;
  const std::shared_ptr<const void> identity = std::make_shared<char>();  // of what the prompter made
  std::vector<std::int32_t> end_ids;
  EngineMetrics metrics;
  AdapterShelf adapters;
  std::shared_ptr<Desk> desk;  // tickets may outlive the engine
  Runner runner;
  std::atomic<std::uint64_t> arrivals{0};
  std::jthread thread;

  State(EngineParts its_parts, const EngineOptions& its_options, CachePlan plan, std::unique_ptr<models::KvStore> store,
        std::unique_ptr<ModelDrafter> drafter);
  // Null: the model alone. not_found: neither it nor one of its adapters.
  Result<std::shared_ptr<const ServedAdapter>> find(const std::string& model) const;
  Status check_model(const std::string& model) const;
  Status check_name(const std::string& name) const;
  Speculation speculation(const Speculating& asked) const;
  Clock::time_point deadline(const Request& request) const;
  // Taken from the request, where they were made here already.
  Result<Prompter::Tokens> tokens(const Request& request) const;
  std::unique_ptr<Job> make_job(const Request& request, std::shared_ptr<const ServedAdapter> adapter,
                                Prompter::Tokens prompt, int max_tokens, Sink& sink);
};

Engine::State::State(EngineParts its_parts, const EngineOptions& its_options, CachePlan plan,
                     std::unique_ptr<models::KvStore> store, std::unique_ptr<ModelDrafter> drafter)
    : parts(std::move(its_parts)),
      options(its_options),
      cache(plan),
      prompter(parts.tokenizer, parts.chat_template),
      metrics(parts.names.front(), {{"block_size", std::to_string(models::kBlockTokens)},
                                    {"cache_dtype", std::string(models::name_of(plan.type))},
                                    {"enable_prefix_caching", options.enable_prefix_caching ? "True" : "False"},
                                    {"num_cpu_blocks", std::to_string(plan.blocks)},
                                    {"num_gpu_blocks", std::to_string(plan.blocks)}}),
      adapters(*parts.model),
      desk(std::make_shared<Desk>(
          AdmissionLimits{.max_queued_requests = options.max_num_queued_reqs,
                          .max_queued_tokens = options.max_num_queued_tokens,
                          .max_wait = options.max_queue_wait,
                          .max_sequences = options.max_num_seqs,
                          .cache_tokens = static_cast<std::int64_t>(plan.blocks) * models::kBlockTokens})),
      runner({.model = *parts.model,
              .tokenizer = *parts.tokenizer,
              .store = std::move(store),
              .drafter = std::move(drafter),
              .pool = parts.pool.get(),
              .turns = parts.turns.get(),
              .clock = parts.clock,
              .desk = *desk,
              .metrics = metrics},
             {.max_num_seqs = options.max_num_seqs,
              .max_num_batched_tokens = options.max_num_batched_tokens,
              .target_itl = options.target_itl},
             options.enable_prefix_caching, options.max_queue_wait, options.speculative_max_batch) {
  for (text::TokenId id = 0; id < parts.tokenizer->size(); ++id)
    if (parts.tokenizer->is_end(id)) end_ids.push_back(id);
}

// Ids mean the same to both models, as far as both have them.
Status check_vocabularies(const text::Tokenizer& tokenizer, const text::Tokenizer& draft) {
  const auto& ours = tokenizer.vocabulary().tokens;
  const auto& theirs = draft.vocabulary().tokens;
  const auto [our, their] = std::ranges::mismatch(ours, theirs);
  if (our == ours.end() || their == theirs.end()) return {};
  return std::unexpected(
      Error{Code::invalid, fmt::format("the draft model has another vocabulary than the model that it guesses for: "
                                       "their tokens {} differ",
                                       our - ours.begin())});
}

Result<std::unique_ptr<ModelDrafter>> make_drafter(const EngineParts& parts, const CachePlan& plan) {
  if (parts.draft_model == nullptr) return nullptr;
  CHECK(parts.draft_tokenizer != nullptr, "a draft model comes with its tokenizer");
  TRY(check_vocabularies(*parts.tokenizer, *parts.draft_tokenizer));
  const int usable = std::min({parts.draft_tokenizer->size(), parts.tokenizer->size(),
                               parts.draft_model->shape().vocabulary, parts.model->shape().vocabulary});
  auto store = TRY(parts.draft_model->make_kv_store(plan.blocks, plan.type));
  return std::make_unique<ModelDrafter>(parts.draft_model, std::move(store), usable);
}

Result<std::unique_ptr<Engine>> Engine::create(EngineParts parts, const EngineOptions& options) {
  CHECK(!parts.names.empty() && parts.model != nullptr && parts.tokenizer != nullptr,
        "an engine has a named model and its tokenizer");
  if (parts.tokenizer->size() == 0) return Error{Code::invalid, "the model has no vocabulary to speak with"};
  const Bytes available = available_memory();
  const Bytes left{available.count - std::min(available.count, parts.model->mapped_weights().count)};
  const CachePlan plan = TRY(plan_cache(options, *parts.model, left, parts.draft_model.get()));
  if (options.max_model_len == 0 && plan.context < parts.model->shape().context)
    log::warn("context_lowered",
              {{"model", parts.names.front()}, {"trained", parts.model->shape().context}, {"context", plan.context}});
  std::unique_ptr<models::KvStore> store = TRY(parts.model->make_kv_store(plan.blocks, plan.type));
  std::unique_ptr<ModelDrafter> drafter = TRY(make_drafter(parts, plan));
  log::info("engine_ready", {{"model", parts.names.front()},
                             {"context", plan.context},
                             {"kv_blocks", plan.blocks},
                             {"kv_memory", to_string(store->bytes())}});
  auto state = std::make_unique<State>(std::move(parts), options, plan, std::move(store), std::move(drafter));
  state->thread = std::jthread([runner = &state->runner] {
    begin_thread("ashlar-engine");
    runner->run();
  });
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Engine::~Engine() {
  state_->desk->stop();
  state_->thread.join();
}

Result<std::shared_ptr<const ServedAdapter>> Engine::State::find(const std::string& model) const {
  if (model.empty() || std::ranges::find(parts.names, model) != parts.names.end()) return nullptr;
  if (auto adapter = adapters.find(model)) return adapter;
  for (const std::string& name : parts.names)
    if (model.starts_with(name + ":"))
      if (auto adapter = adapters.find(std::string_view(model).substr(name.size() + 1))) return adapter;
  return Error{Code::not_found,
               fmt::format("there is no model '{}' here, but {}", model, fmt::join(parts.names, ", "))};
}

Status Engine::State::check_model(const std::string& model) const {
  TRY(find(model));
  return {};
}

// Of an adapter.
Status Engine::State::check_name(const std::string& name) const {
  if (std::ranges::find(parts.names, name) == parts.names.end()) return {};
  return Error{Code::invalid, fmt::format("a model is served as '{}'; the adapter needs another name", name)};
}

// A prediction asks for itself.
Speculation Engine::State::speculation(const Speculating& asked) const {
  const Speculation usual = speculation_of(options.speculation).value_or(Speculation::off);
  return asked.by.value_or(usual == Speculation::off && !asked.prediction.empty() ? Speculation::ngram : usual);
}

std::unique_ptr<Job> Engine::State::make_job(const Request& request, std::shared_ptr<const ServedAdapter> adapter,
                                             Prompter::Tokens prompt, int max_tokens, Sink& sink) {
  std::vector<std::int32_t> ids = std::move(prompt.ids);
  auto job = std::make_unique<Job>();
  job->adapter = std::move(adapter);
  job->outlet = std::make_shared<Outlet>(sink);
  job->prompt_tokens = static_cast<int>(ids.size());
  job->max_tokens = max_tokens;
  job->logprobs = request.logprobs;
  job->prompt_logprobs = request.prompt_logprobs;
  job->give_prompt_ids = request.echo || request.prompt_logprobs >= 0;
  job->arrived = request.arrived;
  job->queued = parts.clock();
  job->deadline = deadline(request);
  job->entry = {.priority = request.priority, .tokens = job->prompt_tokens, .sequences = request.n};
  job->open_choices = request.n;

  const Stopping& stopping = request.stopping;
  const Ends ends{.strings = std::make_shared<const StopStrings>(stopping.stop),
                  .stop_token_ids = stopping.stop_token_ids,
                  .ignore_eos = stopping.ignore_eos,
                  .include_stop = stopping.include_stop_in_output,
                  .min_tokens = stopping.min_tokens,
                  .max_tokens = max_tokens};
  std::vector<std::int32_t> held_back = end_ids;
  held_back.insert(held_back.end(), stopping.stop_token_ids.begin(), stopping.stop_token_ids.end());
  const Speculating& speculating = request.speculating;
  const int most_guesses =
      speculating.most < 0 ? options.speculative_tokens : std::min(speculating.most, options.speculative_tokens);
  std::shared_ptr<std::vector<std::int32_t>> prediction;
  if (!speculating.prediction.empty()) {
    prediction = std::make_shared<std::vector<std::int32_t>>(
        parts.tokenizer->encode(speculating.prediction, {.add_special = false}));
    // No answer is longer.
    prediction->resize(std::min(prediction->size(), static_cast<std::size_t>(max_tokens)));
  }
  const auto salt = cache_salt(request, job->adapter.get());
  const std::uint64_t arrival = arrivals.fetch_add(1, std::memory_order_relaxed);
  for (int index = 0; index < request.n; ++index) {
    auto choice = std::make_unique<Choice>(
        *job, index, Sampler(request.sampling, stopping.min_tokens, held_back, request.logprobs, index, ids),
        Answer(*parts.tokenizer, ends, index, request.skip_special_tokens));
    choice->priority = request.priority;
    choice->order = arrival * kOrderStep + static_cast<std::uint64_t>(index);
    choice->tenant = request.tenant;
    choice->salt = salt;
    choice->prompt = job->prompt_tokens;
    choice->guesses.by = speculation(speculating);
    choice->guesses.most = most_guesses;
    choice->guesses.prediction = prediction;
    job->choices.push_back(std::move(choice));
  }
  Choice& first = *job->choices.front();
  if (request.prefix_salt && options.enable_prefix_caching)
    first.marks = std::make_shared<const std::vector<PrefixMark>>(
        prefix_marks(request.prompt, *request.prefix_salt, prompt.text, ids, *parts.tokenizer));
  first.tokens = std::move(ids);
  if (request.echo) job->echo = std::move(prompt.text);
  if (request.prompt_logprobs >= 0) {
    // A prompt token found in the cache would have no logits.
    first.reuse_prefix = false;
    first.max_chunk = kScoredChunk;
  }
  return job;
}

Clock::time_point Engine::State::deadline(const Request& request) const {
  if (options.request_timeout.count() == 0) return request.deadline;
  return std::min(request.deadline, request.arrived + options.request_timeout);
}

Result<Prompter::Tokens> Engine::State::tokens(const Request& request) const {
  if (request.tokenized != nullptr && request.tokenized->by == identity && !request.echo)
    return Prompter::Tokens{.ids = request.tokenized->ids, .text = request.tokenized->text};
  return prompter.tokens(request.prompt, true, request.echo);
}

std::expected<std::unique_ptr<Ticket>, Generator::Refusal> Engine::start(Request request, Sink& sink) {
  State& state = *state_;
  const auto refuse = [](Error error) { return std::unexpected(refusal(std::move(error))); };
  auto adapter = state.find(request.model);
  if (!adapter) return refuse(adapter.error());
  if (state.desk->draining()) return refuse({Code::unavailable, "the server is shutting down"});
  if (const Status fine = check(request, state.parts.tokenizer->size()); !fine) return refuse(fine.error());
  if (request.speculating.by == Speculation::draft && state.parts.draft_model == nullptr)
    return refuse({Code::invalid, "speculation by a draft model was asked, but this server has none"});
  // Before its prompt is made tokens: under overload that would be time taken from those who are served.
  const Clock::time_point now = state.parts.clock(), deadline = state.deadline(request);
  if (deadline <= now) return refuse({Code::deadline, "the deadline passed before the request could be queued"});
  if (auto refused = state.desk->refuse({.priority = request.priority, .sequences = request.n}, deadline, now)) {
    state.metrics.refused.add();
    return std::unexpected(*std::move(refused));
  }
  Result<Prompter::Tokens> prompt = state.tokens(request);
  if (!prompt) return refuse(std::move(prompt).error());
  const Result<int> length =
      answer_length(static_cast<int>(prompt->ids.size()), request.stopping.max_tokens, state.cache.context);
  if (!length) {
    Refusal refused = refusal(length.error());
    refused.over_context = !prompt->ids.empty();
    return std::unexpected(std::move(refused));
  }
  std::unique_ptr<Job> job = state.make_job(request, std::move(*adapter), std::move(*prompt), *length, sink);
  auto ticket = std::make_unique<EngineTicket>(job->outlet, state.desk);
  if (auto refused = state.desk->submit(job, now)) {
    state.metrics.refused.add();
    return std::unexpected(*std::move(refused));
  }
  return ticket;
}

std::vector<ModelCard> Engine::models() const {
  std::vector<ModelCard> cards;
  const EngineParts& parts = state_->parts;
  for (const std::string& name : parts.names)
    cards.push_back({.id = name,
                     .created = parts.created,
                     .context = state_->cache.context,
                     .parameters = parts.parameters,
                     .bytes = parts.bytes,
                     .vocabulary = parts.tokenizer->size(),
                     .has_chat_template = state_->prompter.has_template(),
                     .sampling = parts.sampling,
                     .embedding = parts.embedding});
  for (const auto& adapter : state_->adapters.list()) {
    ModelCard card = cards.front();
    card.id = adapter->name;
    card.created = adapter->created;
    card.parent = parts.names.front();
    card.root = adapter->path;
    cards.push_back(std::move(card));
  }
  return cards;
}

void Engine::load_adapter(AdapterOrder order, std::function<void(Status)> done) {
  if (const Status fine = state_->check_name(order.name); !fine) return done(fine);
  state_->adapters.add_later(std::move(order.name), std::move(order.path), order.replace, std::move(done));
}

Status Engine::unload_adapter(const std::string& name) { return state_->adapters.remove(name); }

Result<Tokenized> Engine::tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const {
  TRY(state_->check_model(model));
  Prompter::Tokens made = TRY(state_->prompter.tokens(prompt, parse_special, false));
  Tokenized out{.ids = std::move(made.ids),
                .context = state_->cache.context,
                .text = std::move(made.text),
                .by = parse_special ? state_->identity : nullptr};
  out.pieces.reserve(out.ids.size());
  for (const std::int32_t id : out.ids) out.pieces.emplace_back(state_->parts.tokenizer->piece(id, true));
  return out;
}

Result<std::string> Engine::detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const {
  TRY(state_->check_model(model));
  const int size = state_->parts.tokenizer->size();
  for (const std::int32_t id : ids)
    if (id < 0 || id >= size)
      return Error{Code::invalid, fmt::format("there is no token {}: the vocabulary has {}", id, size)};
  return state_->parts.tokenizer->decode(ids, true);
}

Result<std::string> Engine::render(const std::string& model, const Chat& chat) const {
  TRY(state_->check_model(model));
  return state_->prompter.render(chat, std::time(nullptr));
}

std::shared_ptr<const CachedPrefixes> Engine::cached_prefixes(const std::string&) const {
  return state_->runner.cached_prefixes();
}

Generator::Load Engine::load() const { return state_->desk->load(state_->parts.clock()); }

bool Engine::drain(Clock::time_point deadline) { return state_->desk->drain(deadline); }

int Engine::context() const { return state_->cache.context; }

int Engine::kv_blocks() const { return state_->cache.blocks; }

}  // namespace ashlar::engine
