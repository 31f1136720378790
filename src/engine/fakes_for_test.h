// A model and a tokenizer for tests. The model remembers, in its KV store, which
// token it saw at which position, and its logits depend on the whole history that
// it reads back through the block table: a wrong table, a missed copy or a stale
// cached block gives other tokens, or is reported.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/json_full.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "models/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace ashlar::engine::fake {

inline constexpr int kBos = 256, kEos = 257, kEot = 258, kVocabulary = 260;

// Bytes are tokens; then <s>, </s>, <|eot|>, and "é" in one token.
class Tokenizer : public text::Tokenizer {
 public:
  Tokenizer() {
    vocabulary_.model = "fake";
    for (int byte = 0; byte < 256; ++byte) vocabulary_.tokens.emplace_back(1, static_cast<char>(byte));
    vocabulary_.tokens.insert(vocabulary_.tokens.end(), {"<s>", "</s>", "<|eot|>", "é"});
    vocabulary_.types.assign(vocabulary_.tokens.size(), text::TokenType::normal);
    for (const int control : {kBos, kEos, kEot})
      vocabulary_.types[static_cast<std::size_t>(control)] = text::TokenType::control;
    vocabulary_.bos = kBos;
    vocabulary_.eos = kEos;
    vocabulary_.eot = kEot;
  }
  std::vector<text::TokenId> encode(std::string_view text, text::EncodeOptions options) const override {
    std::vector<text::TokenId> ids;
    if (options.add_special) ids.push_back(kBos);
    while (!text.empty()) {
      text::TokenId id = static_cast<unsigned char>(text.front());
      std::size_t length = 1;
      for (const int control : {kBos, kEos, kEot})
        if (options.parse_special && text.starts_with(token(control))) id = control, length = token(control).size();
      ids.push_back(id);
      text.remove_prefix(length);
    }
    return ids;
  }
  std::string_view piece(text::TokenId id, bool special) const override {
    if (id < 0 || id >= size() || (!special && is_end(id)) || (!special && id == kBos)) return {};
    return token(id);
  }
  std::string decode(std::span<const text::TokenId> ids, bool special) const override {
    std::string text;
    for (const text::TokenId id : ids) text.append(piece(id, special));
    return text;
  }
  const text::Vocabulary& vocabulary() const override { return vocabulary_; }
  bool is_end(text::TokenId id) const override { return id == kEos || id == kEot; }
  text::TokenId find(std::string_view wanted) const override {
    for (int id = 0; id < size(); ++id)
      if (token(id) == wanted) return id;
    return -1;
  }

 private:
  const std::string& token(int id) const { return vocabulary_.tokens[static_cast<std::size_t>(id)]; }
  text::Vocabulary vocabulary_;
};

struct Cell {
  std::int32_t token = -1;
  int position = -1;
};

class KvStore : public models::KvStore {
 public:
  explicit KvStore(int blocks) : cells(static_cast<std::size_t>(blocks) * models::kBlockTokens), blocks_(blocks) {}
  int blocks() const override { return blocks_; }
  Bytes bytes() const override { return {cells.size() * sizeof(Cell)}; }
  void copy_block(int from, int to) override {
    std::copy_n(&at(from, 0), models::kBlockTokens, &at(to, 0));
    ++copies;
  }
  Cell& at(int block, int slot) {
    return cells[static_cast<std::size_t>(block) * models::kBlockTokens + static_cast<std::size_t>(slot)];
  }

  std::vector<Cell> cells;
  std::atomic<int> copies{0};

 private:
  int blocks_;
};

// What the fake model computes from a history: a hash, and logits out of it.
inline std::uint64_t mix(std::uint64_t history, std::int32_t token) {
  history = (history ^ static_cast<std::uint64_t>(token)) * 0x9e3779b97f4a7c15;
  return history ^ (history >> 29);
}
inline void logits_of(std::uint64_t history, std::span<float> out) {
  for (std::size_t id = 0; id < out.size(); ++id) {
    const std::uint64_t bits = mix(history + 0x1234567, static_cast<std::int32_t>(id));
    out[id] = static_cast<float>((bits >> 40) % 8001) / 1000.0F - 4.0F;
  }
  out[kBos] = -20;
}

class Model : public models::Model {
 public:
  explicit Model(int context = 256, int vocabulary = kVocabulary) {
    shape_.architecture = "fake";
    shape_.vocabulary = vocabulary;
    shape_.context = context;
  }
  const models::Shape& shape() const override { return shape_; }
  Bytes kv_block_bytes(models::KvType) const override { return {1024}; }
  Result<std::unique_ptr<models::KvStore>> make_kv_store(int blocks, models::KvType) const override {
    auto made = std::make_unique<KvStore>(blocks);
    store = made.get();
    return made;
  }
  void forward(const models::Step& step, models::KvStore& kv) override {
    if (before_forward) before_forward(step);
    auto& cells = static_cast<KvStore&>(kv);
    std::set<int> written;
    for (const auto& sequence : step.sequences) write(step, sequence, cells, written);
    if (step.pause != nullptr && in_pause) in_pause();
    if (step.pause != nullptr) (*step.pause)();
    std::size_t next = 0;
    for (const auto& sequence : step.sequences) next = answer(step, sequence, cells, next);
    if (next != step.logit_rows.size()) ++errors;
    ++forwards;
    rows += static_cast<int>(step.tokens.size());
  }

  std::function<void(const models::Step&)> before_forward;  // may throw, wait, or count
  std::function<void()> in_pause;                           // the same in the middle of a step
  std::function<void(std::uint64_t, std::span<float>)> logits = logits_of;
  std::atomic<int> errors{0}, forwards{0}, rows{0};
  mutable KvStore* store = nullptr;

 private:
  void write(const models::Step& step, const models::Step::Sequence& sequence, KvStore& kv, std::set<int>& written) {
    for (int row = 0; row < sequence.rows; ++row) {
      const int position = sequence.first_position + row;
      const int block = sequence.blocks[static_cast<std::size_t>(position / models::kBlockTokens)];
      if (!written.insert(block * models::kBlockTokens + position % models::kBlockTokens).second) ++errors;
      kv.at(block, position % models::kBlockTokens) = {step.tokens[static_cast<std::size_t>(sequence.first_row + row)],
                                                       position};
    }
  }
  std::size_t answer(const models::Step& step, const models::Step::Sequence& sequence, KvStore& kv, std::size_t next) {
    std::uint64_t history = 0;
    const int end = sequence.first_position + sequence.rows;
    for (int position = 0; position < end; ++position) {
      const Cell& cell = kv.at(sequence.blocks[static_cast<std::size_t>(position / models::kBlockTokens)],
                               position % models::kBlockTokens);
      if (cell.position != position) ++errors;
      history = mix(history, cell.token);
      const int row = sequence.first_row + position - sequence.first_position;
      if (position < sequence.first_position || next == step.logit_rows.size() || step.logit_rows[next] != row)
        continue;
      const auto width = static_cast<std::size_t>(shape_.vocabulary);
      logits(history, step.logits.subspan(next++ * width, width));
    }
    return next;
  }

  models::Shape shape_;
};

// Mostly of the same mind as Model: `wrong` of 16 histories go on otherwise.
inline std::shared_ptr<Model> draft_model(unsigned wrong, int context = 256) {
  auto model = std::make_shared<Model>(context);
  model->logits = [wrong](std::uint64_t history, std::span<float> out) {
    logits_of(history, out);
    if (const std::uint64_t bits = mix(history, 99); bits % 16 < wrong) out[(bits >> 8) % kBos] = 50;
  };
  return model;
}

// Writes role: content lines.
class ChatTemplate : public text::ChatTemplate {
 public:
  Result<std::string> render(const Json& context, std::time_t) const override {
    std::string out = context["bos_token"].get<std::string>();
    if (!context["messages"].is_array()) return Error{Code::invalid, "messages is no array"};
    for (const Json& message : context["messages"])
      out += message["role"].get<std::string>() + ": " + message["content"].get<std::string>() + "<|eot|>";
    if (context["add_generation_prompt"].get<bool>()) out += "assistant: ";
    return out;
  }
  const std::string& source() const override { return source_; }

 private:
  std::string source_ = "fake";
};

// Gathers a request's events; wait() until the last one.
class Sink : public engine::Sink {
 public:
  void on(Event event) override {
    std::lock_guard lock(mutex_);
    if (ended_) ++late;
    if (hook) hook(event);
    if (const auto* text = std::get_if<Text>(&event)) {
      if (choices.size() <= static_cast<std::size_t>(text->choice))
        choices.resize(static_cast<std::size_t>(text->choice) + 1);
      Choice& choice = choices[static_cast<std::size_t>(text->choice)];
      choice.text += text->text;
      choice.ids.insert(choice.ids.end(), text->ids.begin(), text->ids.end());
      choice.logprobs.insert(choice.logprobs.end(), text->logprobs.begin(), text->logprobs.end());
    } else if (const auto* end = std::get_if<ChoiceEnd>(&event)) {
      if (choices.size() <= static_cast<std::size_t>(end->choice))
        choices.resize(static_cast<std::size_t>(end->choice) + 1);
      choices[static_cast<std::size_t>(end->choice)].end = *end;
    } else if (const auto* begun = std::get_if<Started>(&event)) {
      started = *begun;
    } else if (const auto* done = std::get_if<Finished>(&event)) {
      finished = *done;
    } else {
      failed = std::get<Failed>(event);
    }
    ended_ = ended_ || finished || failed;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_; });
  }
  void wait_for_text() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_ || !choices.empty(); });
  }
  bool ended() const {
    std::lock_guard lock(mutex_);
    return ended_;
  }

  struct Choice {
    std::string text;
    std::vector<std::int32_t> ids;
    std::vector<TokenLogprob> logprobs;
    std::optional<ChoiceEnd> end;
  };
  // Read them after wait().
  std::optional<Started> started;
  std::vector<Choice> choices;
  std::optional<Finished> finished;
  std::optional<Failed> failed;
  int late = 0;  // events after the last one
  std::function<void(const Event&)> hook;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
};

// Holds the engine thread inside forward() until it is opened.
class Gate {
 public:
  void operator()() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_ || passes_ > 0; });
    if (!open_) --passes_;
  }
  void wait_for_arrival(int count = 1) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= count; });
  }
  void let_pass(int count) {
    std::lock_guard lock(mutex_);
    passes_ += count;
    changed_.notify_all();
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  int arrived() {
    std::lock_guard lock(mutex_);
    return arrived_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0, passes_ = 0;
  bool open_ = false;
};

struct HousePlan {
  EngineOptions options;
  int context = 256;
  std::function<Clock::time_point()> clock = Clock::now;
  std::vector<std::string> names = {"fake", "alias"};
  std::shared_ptr<ThreadPool> pool;
  std::shared_ptr<ComputeLock> turns;
  bool chat = true;
  std::shared_ptr<Model> draft;  // guesses; null: none
};

// An engine over the fake model.
struct House {
  std::shared_ptr<Model> model;
  std::unique_ptr<Engine> engine;

  explicit House(HousePlan plan = {}) : model(std::make_shared<Model>(plan.context)) {
    auto made = Engine::create({.names = plan.names,
                                .model = model,
                                .tokenizer = std::make_shared<Tokenizer>(),
                                .chat_template = plan.chat ? std::make_shared<ChatTemplate>() : nullptr,
                                .draft_model = plan.draft,
                                .draft_tokenizer = std::make_shared<Tokenizer>(),
                                .created = 7,
                                .parameters = 8,
                                .bytes = 9,
                                .pool = plan.pool,
                                .turns = plan.turns,
                                .clock = plan.clock},
                               plan.options);
    CHECK(made.has_value(), "the fake engine starts");
    engine = *std::move(made);
  }

  // Starts, waits for the end, and gives back what was said.
  std::unique_ptr<Sink> ask(Request request) {
    auto sink = std::make_unique<Sink>();
    auto ticket = engine->start(std::move(request), *sink);
    CHECK(ticket.has_value(), "the request is admitted");
    sink->wait();
    return sink;
  }
};

// As many blocks as a KV memory of this size has.
inline Bytes blocks(int count) { return {static_cast<std::uint64_t>(count) * 1024}; }

inline Request request(std::string prompt, int max_tokens, Sampling sampling = {.temperature = 0}) {
  Request made;
  made.prompt = {.input = std::move(prompt)};
  made.sampling = std::move(sampling);
  made.stopping.max_tokens = max_tokens;
  return made;
}

inline std::vector<std::int32_t> ids_of(std::string_view prompt) { return Tokenizer().encode(prompt, {}); }

// What the fake model says after `tokens`, alone, by plain loops and one sampler.
inline std::vector<std::int32_t> alone(std::vector<std::int32_t> tokens, int max_tokens,
                                       Sampling sampling = {.temperature = 0}, int choice = 0) {
  Sampler sampler(std::move(sampling), 0, {}, -1, choice, tokens);
  Sampler::Scratch scratch;
  std::vector<std::int32_t> answer;
  std::vector<float> logits(kVocabulary);
  std::uint64_t history = 0;
  for (const std::int32_t token : tokens) history = mix(history, token);
  while (static_cast<int>(answer.size()) < max_tokens) {
    logits_of(history, logits);
    answer.push_back(sampler.sample(logits, scratch)->id);
    if (answer.back() == kEos || answer.back() == kEot) break;
    history = mix(history, answer.back());
  }
  return answer;
}

// A clock that moves when it is told to.
struct HandClock {
  std::shared_ptr<std::atomic<Clock::duration>> offset =
      std::make_shared<std::atomic<Clock::duration>>(Clock::duration(0));
  Clock::time_point start = Clock::now();
  std::function<Clock::time_point()> function() const {
    return [begin = start, by = offset] { return begin + by->load(); };
  }
  void move(Clock::duration by) { offset->store(offset->load() + by); }
};

// Why the engine does not even begin; empty: it did.
inline Error refused(Engine& engine, Request asked) {
  Sink sink;
  auto ticket = engine.start(std::move(asked), sink);
  return ticket ? Error{} : ticket.error().error;
}

}  // namespace ashlar::engine::fake
