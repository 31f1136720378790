// Deployments and clients for the router's tests: answers come when the test says so, on a clock that it turns.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json_full.h"
#include "engine/prefixes.h"
#include "gateway/routing/router.h"

namespace ashlar::gateway::fake {

using engine::Event;
using engine::Request;
using namespace std::chrono_literals;

// Holds what a test says.
class Cache final : public engine::CachedPrefixes {
 public:
  int cached(std::span<const std::uint64_t> keys) const override {
    for (std::size_t i = keys.size(); i > 0; --i)
      if (const auto found = there.find(keys[i - 1]); found != there.end()) return found->second;
    return 0;
  }
  std::size_t size() const override { return there.size(); }
  News news(std::uint64_t, std::uint64_t, std::size_t) const override { return {}; }
  std::map<std::uint64_t, int> there;
};

// Not thread-safe. Requests that were started and not dropped stand in `calls`, in order.
class Generator final : public engine::Generator {
 public:
  struct Call {
    Generator* owner;
    Request request;
    engine::Sink* sink;
    bool dropped = false;

    void say(Event event) { sink->on(std::move(event)); }
    void start() { say(engine::Started{.prompt_tokens = 7}); }
    void text(std::string text) { say(engine::Text{.text = std::move(text), .ids = {1}}); }
    void finish() {
      say(engine::ChoiceEnd{});
      say(engine::Finished{.usage = {.prompt_tokens = 7, .completion_tokens = 1}});
    }
    void answer(std::string words) {
      start();
      text(std::move(words));
      finish();
    }
    void fail(Code code, std::string why = "broken") { say(engine::Failed{.error = {code, std::move(why)}}); }
  };

  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(Request request, engine::Sink& sink) override {
    ++started;
    if (refusal) return std::unexpected(*refusal);
    auto call = std::make_shared<Call>(Call{this, std::move(request), &sink});
    calls.push_back(call);
    if (on_start) on_start(*call);
    return std::make_unique<Ticket>(call);
  }
  std::vector<engine::ModelCard> models() const override { return cards; }
  Result<engine::Tokenized> tokenize(const std::string& model, const engine::Prompt&, bool) const override {
    return engine::Tokenized{.ids = {1, 2}, .pieces = {model, "x"}};
  }
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>&) const override {
    return model;
  }
  Result<std::string> render(const std::string& model, const engine::Chat&) const override { return model; }
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string&) const override { return cache; }
  void when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const override {
    if (!ready) return then(Error{Code::io, "cannot load " + model});
    then(this);
  }
  Load load() const override { return told; }

  // The last that was started and is still there.
  Call& last() { return *calls.back(); }
  int alive() const {
    int count = 0;
    for (const auto& call : calls) count += call->dropped ? 0 : 1;
    return count;
  }

  std::optional<Refusal> refusal;
  std::function<void(Call&)> on_start;
  std::vector<engine::ModelCard> cards{{.id = "m", .context = 4096}};
  Load told;
  std::shared_ptr<const engine::CachedPrefixes> cache;  // null: it does not tell
  bool ready = true;
  std::vector<std::shared_ptr<Call>> calls;
  int started = 0;

 private:
  struct Ticket final : engine::Ticket {
    explicit Ticket(std::shared_ptr<Call> which) : call(std::move(which)) {}
    ~Ticket() override { call->dropped = true; }
    std::shared_ptr<Call> call;
  };
};

// What a client saw.
class Sink final : public engine::Sink {
 public:
  void on(Event event) override {
    if (const auto* text = std::get_if<engine::Text>(&event)) words += text->text;
    if (const auto* failed = std::get_if<engine::Failed>(&event)) {
      error = failed->error;
      dropped = failed->dropped;
    }
    started += std::holds_alternative<engine::Started>(event) ? 1 : 0;
    over += std::holds_alternative<engine::Finished>(event) || error ? 1 : 0;
    events.push_back(std::move(event));
    if (then) then();
  }
  std::string words;
  std::optional<Error> error;
  engine::Dropped dropped = engine::Dropped::no;
  int started = 0, over = 0;
  std::vector<Event> events;
  std::function<void()> then;
};

// A router over deployments "a", "b", ... of group "g".
struct House {
  TimePoint now{1'000'000s};
  std::vector<std::shared_ptr<Generator>> generators;
  std::vector<RouteEvent> events;
  std::vector<RouteTrace> traces;
  RouterOptions options;
  RouteTable table;
  std::unique_ptr<Router> router;

  explicit House(int deployments = 2, Strategy strategy = Strategy::least_outstanding) {
    options.now = [this] { return now; };
    options.own_thread = false;
    options.on_event = [this](const RouteEvent& event) { events.push_back(event); };
    options.on_done = [this](const RouteTrace& trace) { traces.push_back(trace); };
    table.groups = {{.name = "g", .strategy = strategy}};
    for (int i = 0; i < deployments; ++i) add(std::string(1, static_cast<char>('a' + i)), "g");
  }
  Generator& add(std::string name, std::string group) {
    generators.push_back(std::make_shared<Generator>());
    table.deployments.push_back({.name = std::move(name), .group = std::move(group), .generator = generators.back()});
    return *generators.back();
  }
  Router& open() {
    auto made = Router::create(options, table);
    if (!made) check_failed("Router::create", made.error().message.c_str(), __FILE__, __LINE__);
    router = std::move(*made);
    return *router;
  }
  Generator& operator[](std::size_t i) { return *generators[i]; }
  void pass(std::chrono::milliseconds time) {
    for (const TimePoint until = now + time; now < until;) {
      now = std::min(until, std::max(now + 1ms, router->turn()));
      router->turn();
    }
  }
  bool happened(std::string_view what) const {
    return std::ranges::any_of(events, [&](const RouteEvent& event) { return event.what == what; });
  }
};

inline Request ask(std::string words = "hello", std::string model = "g") {
  static std::atomic<int> ids = 0;
  Request request;
  request.id = "r" + std::to_string(++ids);
  request.model = std::move(model);
  request.tenant = "t";
  request.prompt.input = std::move(words);
  request.stopping.max_tokens = 16;
  return request;
}

}  // namespace ashlar::gateway::fake
