// A generator that says what a test wrote for it, and an exchange that records.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "api/api.h"
#include "base/json_full.h"
#include "engine/generator.h"
#include "engine/prefixes.h"
#include "net/http.h"

namespace ashlar::api {

// Answers every request with script(request), from its own thread. Bytes are
// its tokens. Requests for a context of more than `context` are invalid.
class FakeGenerator final : public engine::Generator {
 public:
  using Script = std::function<std::vector<engine::Event>(const engine::Request&)>;

  FakeGenerator() : thread_([this](std::stop_token stop) { work(stop); }) {}
  ~FakeGenerator() override {
    thread_.request_stop();
    wake_.notify_all();
  }

  Script script = &FakeGenerator::hello;
  std::optional<Refusal> refusal;  // of every request
  int context = 64;
  bool healthy = true;
  std::shared_ptr<const engine::CachedPrefixes> cache;  // null: it does not tell
  bool foreign = false;                                 // its model is another server's
  bool hold = false;                                    // requests give their first two events and then nothing
  bool away = false;                                    // its model is not in memory until come_back()

  std::vector<engine::Request> seen() const {
    std::lock_guard lock(mutex_);
    return seen_;
  }
  // Waits until `count` tickets were dropped before their last event.
  void wait_cancelled(int count) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return cancelled_ >= count; });
  }
  void wait_idle() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return alive_ == 0; });
  }

  // "Hello" in two pieces for each choice, then a stop.
  static std::vector<engine::Event> hello(const engine::Request& request) {
    std::vector<engine::Event> events;
    const auto ids = ids_of(request.prompt);
    engine::Started started{.prompt_tokens = static_cast<int>(ids.size()), .cached_tokens = 1};
    if (request.prompt_logprobs >= 0)
      for (const auto id : ids)
        started.prompt_logprobs.push_back(token(id, started.prompt_logprobs.empty() ? -1 : request.prompt_logprobs));
    events.emplace_back(std::move(started));
    for (int choice = 0; request.echo && choice < request.n; ++choice)
      events.emplace_back(engine::Text{.choice = choice, .text = std::string(ids.begin(), ids.end())});
    if (request.stopping.max_tokens != 0) say_hello(request, events);
    for (int choice = 0; choice < request.n; ++choice)
      events.emplace_back(engine::ChoiceEnd{
          .choice = choice,
          .reason = request.stopping.max_tokens == 0 ? engine::FinishReason::length : engine::FinishReason::stop});
    events.emplace_back(engine::Finished{
        .usage = {static_cast<int>(ids.size()), request.stopping.max_tokens == 0 ? 0 : 5 * request.n, 1, 0}});
    return events;
  }
  static void say_hello(const engine::Request& request, std::vector<engine::Event>& events) {
    for (const char* piece : {"Hel", "lo"})
      for (int choice = 0; choice < request.n; ++choice) {
        engine::Text text{.choice = choice, .text = piece};
        for (const char c : text.text) {
          text.ids.push_back(c);
          if (request.logprobs >= 0) text.logprobs.push_back(token(c, request.logprobs));
        }
        events.emplace_back(std::move(text));
      }
  }

  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override {
    if (refusal) return std::unexpected(*refusal);
    const auto ids = ids_of(request.prompt);
    if (static_cast<int>(ids.size()) >= context)
      return std::unexpected(
          Refusal{.error = {Code::invalid, "the prompt has " + std::to_string(ids.size()) +
                                               " tokens; the context holds " + std::to_string(context)},
                  .over_context = true});
    std::lock_guard lock(mutex_);
    auto job = std::make_shared<Job>();
    job->sink = &sink;
    for (auto& event : script(request)) job->events.push_back(std::move(event));
    if (seen_.size() >= 1000) seen_.clear();  // a fuzzer asks for hours
    seen_.push_back(std::move(request));
    jobs_.push_back(job);
    ++alive_;
    wake_.notify_all();
    return std::make_unique<FakeTicket>(*this, std::move(job));
  }

  std::vector<engine::ModelCard> models() const override {
    return {{.id = "tiny",
             .created = 7,
             .context = context,
             .parameters = 9,
             .bytes = 8,
             .vocabulary = foreign ? 0 : 256,
             .has_chat_template = true,
             .foreign = foreign,
             .owner = foreign ? "up" : ""}};
  }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt& prompt, bool) const override {
    engine::Tokenized out{.ids = ids_of(prompt), .context = context};
    for (const auto id : out.ids) out.pieces.emplace_back(1, static_cast<char>(id));
    return out;
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>& ids) const override {
    return std::string(ids.begin(), ids.end());
  }
  Result<std::string> render(const std::string&, const engine::Chat& chat) const override {
    std::string out;
    for (const Json& message : *chat.messages)
      out += "<" + message["role"].get<std::string>() + ">" +
             (message["content"].is_string() ? message["content"].get<std::string>() : "");
    return out;
  }
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string&) const override { return cache; }
  void when_ready(const std::string&, std::function<void(Result<const engine::Generator*>)> then) const override {
    if (!away) return then(this);
    waiting_.push_back(std::move(then));
  }
  void come_back(const Result<const engine::Generator*>& as) {
    away = false;
    for (const auto& then : std::exchange(waiting_, {})) then(as);
  }
  Load load() const override { return {.running = 2, .waiting = 1, .kv_used = 0.5, .healthy = healthy}; }

  static std::vector<std::int32_t> ids_of(const engine::Prompt& prompt) {
    if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input)) return *ids;
    if (const auto* text = std::get_if<std::string>(&prompt.input)) return {text->begin(), text->end()};
    return std::vector<std::int32_t>(10, 'x');
  }

 private:
  struct Job {
    std::deque<engine::Event> events;
    engine::Sink* sink = nullptr;
    bool dropped = false;
    int told = 0;
    std::mutex in_call;
  };
  struct FakeTicket final : engine::Ticket {
    FakeTicket(FakeGenerator& owner, std::shared_ptr<Job> its) : generator(owner), job(std::move(its)) {}
    ~FakeTicket() override {
      std::lock_guard call(job->in_call);  // waits for a call in progress, as the contract says
      std::lock_guard lock(generator.mutex_);
      job->dropped = true;
      if (!job->events.empty()) ++generator.cancelled_;
      --generator.alive_;
      generator.wake_.notify_all();
    }
    FakeGenerator& generator;
    std::shared_ptr<Job> job;
  };

  static engine::TokenLogprob token(std::int32_t id, int top) {
    engine::TokenLogprob out{.id = id, .logprob = -0.5f, .bytes = std::string(1, static_cast<char>(id))};
    for (int i = 0; i < top; ++i)
      out.top.push_back(
          {.id = id + i, .logprob = -0.5f - static_cast<float>(i), .bytes = std::string(1, static_cast<char>(id + i))});
    return out;
  }

  void work(std::stop_token stop) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested()) {
      std::shared_ptr<Job> next;
      for (const auto& job : jobs_)
        if (!job->dropped && !job->events.empty() && !(hold && job->told >= 2)) next = job;
      std::erase_if(jobs_, [](const auto& job) { return job->dropped || job->events.empty(); });
      if (next == nullptr) {
        wake_.wait(lock, stop, [&] { return has_work(); });
        continue;
      }
      lock.unlock();
      {
        std::lock_guard call(next->in_call);
        lock.lock();
        const bool dropped = next->dropped;
        engine::Event event = std::move(next->events.front());
        if (!dropped) {
          next->events.pop_front();
          ++next->told;
        }
        lock.unlock();
        if (!dropped) next->sink->on(std::move(event));
      }
      lock.lock();
    }
  }
  bool has_work() const {
    for (const auto& job : jobs_)
      if (!job->dropped && !job->events.empty() && !(hold && job->told >= 2)) return true;
    return false;
  }

  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::vector<std::shared_ptr<Job>> jobs_;
  std::vector<engine::Request> seen_;
  int cancelled_ = 0, alive_ = 0;
  mutable std::vector<std::function<void(Result<const engine::Generator*>)>> waiting_;
  std::jthread thread_;
};

class RecordingExchange final : public net::Exchange {
 public:
  explicit RecordingExchange(net::HttpRequest request) : request_(std::move(request)) {}

  const net::HttpRequest& request() const override { return request_; }
  void respond(int status, net::Headers headers, std::string body) override {
    record([&] { status_ = status, headers_ = std::move(headers), body_ = std::move(body), ended_ = true; });
  }
  void begin(int status, net::Headers headers) override {
    record([&] { status_ = status, headers_ = std::move(headers); });
  }
  void write(std::string piece) override {
    record([&] { body_ += piece, ++writes_; });
  }
  void end() override {
    record([&] { ended_ = true; });
  }
  void on_gone(std::function<void()> gone) override {
    record([&] { gone_ = std::move(gone); });
  }

  void leave() {
    std::function<void()> gone;
    record([&] { gone = std::exchange(gone_, nullptr); });
    if (gone) gone();
  }
  void wait_ended() {
    wait([this] { return ended_; });
  }
  void wait_for_text(const std::string& text) {
    wait([&] { return body_.find(text) != std::string::npos; });
  }

  int status() const { return locked(status_); }
  int writes() const { return locked(writes_); }
  std::string body() const { return locked(body_); }
  std::string header(const std::string& name) const { return std::string(net::find_header(locked(headers_), name)); }
  Json json() const { return Json::parse(body()); }
  // The data of each event; comments are left out.
  std::vector<std::string> events() const {
    std::vector<std::string> out;
    const std::string all = body();
    for (std::size_t at = 0; at < all.size();) {
      const auto end = all.find("\n\n", at);
      if (all.compare(at, 6, "data: ") == 0) out.push_back(all.substr(at + 6, end - at - 6));
      at = end + 2;
    }
    return out;
  }

 private:
  template <class T>
  T locked(const T& value) const {
    std::lock_guard lock(mutex_);
    return value;
  }
  void record(auto&& change) {
    std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }
  void wait(auto&& done) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, done);
  }

  const net::HttpRequest request_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int status_ = 0, writes_ = 0;
  net::Headers headers_;
  std::string body_;
  bool ended_ = false;
  std::function<void()> gone_;
};

// An Api over a FakeGenerator.
struct World {
  explicit World(ApiOptions options = {}, std::unique_ptr<gateway::Identity> identity = nullptr)
      : api(*Api::create(options, "127.0.0.1", std::move(identity))) {
    api->serve(generator);
  }

  // Sends and does not wait.
  std::shared_ptr<RecordingExchange> send(std::string method, std::string path, std::string body = "",
                                          net::Headers headers = {}) {
    auto exchange = std::make_shared<RecordingExchange>(net::HttpRequest{.method = std::move(method),
                                                                         .path = std::move(path),
                                                                         .headers = std::move(headers),
                                                                         .body = std::move(body),
                                                                         .peer = peer});
    api->handler()(exchange);
    return exchange;
  }
  std::shared_ptr<RecordingExchange> ask(std::string method, std::string path, std::string body = "",
                                         net::Headers headers = {}) {
    auto exchange = send(std::move(method), std::move(path), std::move(body), std::move(headers));
    exchange->wait_ended();
    return exchange;
  }
  std::shared_ptr<RecordingExchange> chat(std::string body, net::Headers headers = {}) {
    return ask("POST", "/v1/chat/completions", std::move(body), std::move(headers));
  }
  std::shared_ptr<RecordingExchange> complete(std::string body) {
    return ask("POST", "/v1/completions", std::move(body));
  }

  std::string peer = "192.0.2.1:5000";
  FakeGenerator generator;
  std::unique_ptr<Api> api;
};

// A request of /v1/chat/completions.
inline constexpr const char* kHi = R"({"model":"tiny","messages":[{"role":"user","content":"hi"}]})";

// kHi with further members.
inline std::string hi(const std::string& members) {
  return R"({"messages":[{"role":"user","content":"hi"}],)" + members + "}";
}

}  // namespace ashlar::api
