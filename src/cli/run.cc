// ashlar run: a chat in the terminal, or one answer on stdout.
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <deque>
#include <iostream>
#include <mutex>

#include "base/json_full.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/host.h"
#include "cli/stored_model.h"
#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

std::atomic<bool> g_interrupted{false};

// Ctrl-C stops the answer in progress; at the prompt it ends the program.
void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { g_interrupted.store(true); };
  sigaction(SIGINT, &action, nullptr);  // no SA_RESTART: reading a line ends too
}

struct RunOptions {
  std::string system;
  double temperature = -1, top_p = 1, min_p = 0;
  int top_k = 0, max_tokens = -1;
  long long seed = -1;
  bool raw = false, verbose = false;
  void fields(auto&& field) {
    field("system", system, "A system message that begins the conversation.");
    field("temperature", temperature, "Randomness of the answer; 0: always the likeliest token. -1: as its publisher advises, else 0.7, or 0 for the embedded model.");
    field("top_p", top_p, "Choose among the likeliest tokens that together have this probability.");
    field("top_k", top_k, "Choose among so many likeliest tokens; 0: all.");
    field("min_p", min_p, "Leave out tokens less likely than this share of the likeliest.");
    field("max_tokens", max_tokens, "Most tokens in an answer; -1: as many as the context holds.");
    field("seed", seed, "Makes the answer repeatable; -1: another one each time.");
    field("raw", raw, "Continue the text as it is, without the chat template.");
    field("verbose", verbose, "Show speed and token counts after each answer.");
  }
};

// Hands events from the engine's thread to ours.
class Inbox : public engine::Sink {
 public:
  void on(engine::Event event) override {
    {
      std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
    }
    ready_.notify_one();
  }
  // The next event; nullopt: interrupted.
  std::optional<engine::Event> next() {
    std::unique_lock lock(mutex_);
    while (events_.empty()) {
      if (g_interrupted.load()) return std::nullopt;
      ready_.wait_for(lock, std::chrono::milliseconds(50));
    }
    engine::Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<engine::Event> events_;
};

class Conversation {
 public:
  Conversation(Host& host, const RunOptions& options) : host_(host), options_(options) { reset(); }

  void reset() {
    messages_ = Json::array();
    if (!options_.system.empty()) messages_.push_back({{"role", "system"}, {"content", options_.system}});
  }

  // Prints the answer as it comes. An interrupted answer is kept as far as it went.
  Status say(const std::string& text) {
    engine::Request request;
    request.id = fmt::format("run-{}", ++count_);
    request.model = host_.first();
    request.sampling.temperature = static_cast<float>(options_.temperature);
    request.sampling.top_p = static_cast<float>(options_.top_p);
    request.sampling.min_p = static_cast<float>(options_.min_p);
    request.sampling.top_k = options_.top_k;
    if (options_.seed >= 0) request.sampling.seed = static_cast<std::uint64_t>(options_.seed);
    request.stopping.max_tokens = options_.max_tokens;
    if (options_.raw) {
      request.prompt.input = text;
    } else {
      messages_.push_back({{"role", "user"}, {"content", text}});
      request.prompt.input = engine::Chat{.messages = std::make_shared<const Json>(messages_)};
    }
    std::string answer;
    const Status done = stream(std::move(request), answer);
    if (!options_.raw) {
      if (done) messages_.push_back({{"role", "assistant"}, {"content", answer}});
      else messages_.erase(messages_.size() - 1);
    }
    return done;
  }

 private:
  Status stream(engine::Request request, std::string& answer) {
    Inbox inbox;
    g_interrupted.store(false);
    auto ticket = host_.generator().start(std::move(request), inbox);
    if (!ticket) return std::unexpected(ticket.error().error);
    while (true) {
      auto event = inbox.next();
      if (!event) {
        fmt::print("\n");
        return {};
      }
      if (auto* text = std::get_if<engine::Text>(&*event)) {
        answer += text->text;
        std::fwrite(text->text.data(), 1, text->text.size(), stdout);
        std::fflush(stdout);
      } else if (auto* failed = std::get_if<engine::Failed>(&*event)) {
        return std::unexpected(failed->error);
      } else if (auto* finished = std::get_if<engine::Finished>(&*event)) {
        fmt::print("\n");
        if (options_.verbose) print_usage(*finished);
        return {};
      }
    }
  }

  static void print_usage(const engine::Finished& done) {
    const Palette colour = palette(stderr);
    const auto rate = [](int tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0.0; };
    std::fflush(stdout);
    fmt::print(stderr, "{}prompt {} tokens ({} cached), {:.0f} tokens/s; answer {} tokens, {:.1f} tokens/s{}\n", colour.dim,
               done.usage.prompt_tokens, done.usage.cached_tokens,
               rate(done.usage.prompt_tokens - done.usage.cached_tokens, done.prefill_seconds),
               done.usage.completion_tokens, rate(done.usage.completion_tokens, done.decode_seconds), colour.plain);
  }

  Host& host_;
  RunOptions options_;
  Json messages_;
  int count_ = 0;
};

// A line from the terminal; nullopt: end of input, or Ctrl-C.
std::optional<std::string> read_line(const char* prompt) {
  const Palette colour = palette(stdout);
  fmt::print("{}{}{}{} ", colour.bold, colour.green, prompt, colour.plain);
  std::fflush(stdout);
  g_interrupted.store(false);
  std::string line;
  while (true) {
    char c = 0;
    const ssize_t n = ::read(STDIN_FILENO, &c, 1);
    if (n <= 0) {
      if (n < 0 && errno == EINTR && !g_interrupted.load()) continue;
      if (n == 0 && !line.empty()) return line;
      return std::nullopt;
    }
    if (c == '\n') return line;
    line.push_back(c);
  }
}

int chat(Conversation& conversation, const std::string& model) {
  const Palette colour = palette(stdout);
  fmt::print("{}{}{}: ask something. /reset begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer; \\ at the end of a line continues it.\n",
             colour.bold, model, colour.plain);
  while (true) {
    auto line = read_line(">");
    while (line && line->ends_with('\\')) {
      line->back() = '\n';
      const auto more = read_line(".");
      if (!more) break;
      *line += *more;
    }
    if (!line || *line == "/exit" || *line == "/quit" || *line == "/bye") {
      fmt::print("\n");
      return 0;
    }
    if (line->find_first_not_of(" \t\n") == std::string::npos) continue;
    if (*line == "/reset") {
      conversation.reset();
      fmt::print("{}A new conversation.{}\n", colour.dim, colour.plain);
    } else if ((*line)[0] == '/') {
      fmt::print("{}The commands are /reset and /exit.{}\n", colour.dim, colour.plain);
    } else if (const auto done = conversation.say(*line); !done) {
      fail("run", done.error());
    }
  }
}

// What was not asked is as the model's publisher advises it.
void take_advice(const engine::Sampling& advice, bool embedded, RunOptions& options) {
  const engine::Sampling usual;
  if (options.temperature < 0)
    options.temperature = embedded                                   ? 0
                          : advice.temperature != usual.temperature ? static_cast<double>(advice.temperature)
                                                                    : 0.7;
  if (options.top_p == 1) options.top_p = static_cast<double>(advice.top_p);
  if (options.min_p == 0) options.min_p = static_cast<double>(advice.min_p);
  if (options.top_k == 0) options.top_k = advice.top_k;
}

bool looks_like_model(const std::string& word, const HostOptions& options) {
  return word.ends_with(".gguf") || word == kDefaultModel || names_model(word, options.store);
}

}  // namespace

int run(const Words& words) {
  std::string first, second;
  RunOptions options;
  HostOptions host_options;
  auto all = list_options(options);
  for (Option& option : list_options(host_options)) all.push_back(std::move(option));
  CommandLine line{.name = "run",
                   .summary = "Chat with a model in the terminal. With PROMPT, or a pipe on standard input: answer on standard output and exit.",
                   .examples = "Examples:\n  ashlar run\n  ashlar run model.gguf \"Why is the sky blue?\"\n"
                               "  ashlar run model.gguf --temperature 0 < question.txt\n"
                               "  ashlar pull ollama:qwen3:0.6b && ashlar run qwen3:0.6b",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file, a Hugging Face folder or a pulled model's name; left out: the embedded model.", .value = &first},
                                   {.name = "PROMPT", .help = "What to answer.", .value = &second}},
                   .options = std::move(all)};
  if (const auto status = parse(line, words)) return *status;
  // One word alone may be either.
  if (second.empty() && !first.empty() && !looks_like_model(first, host_options)) std::swap(first, second);
  std::string prompt = second;
  const bool interactive = prompt.empty() && is_terminal(stdin);
  if (!interactive && prompt.empty()) {
    auto piped = read_stdin(64 << 20);
    if (!piped) return fail("run", piped.error());
    prompt = std::move(*piped);
    if (prompt.ends_with('\n')) prompt.pop_back();
    if (prompt.empty()) return fail("run", {Code::invalid, "nothing to answer: give a PROMPT, or text on standard input"});
  }

  log::configure(log::Level::warn, log::Format::text);
  catch_interrupts();
  auto host = Host::open({first.empty() ? std::string(kDefaultModel) : first}, host_options);
  if (!host) return fail("run", host.error());
  const auto card = (*host)->generator().models().front();
  take_advice(card.sampling, first.empty() || first == kDefaultModel, options);
  if (!options.raw && !card.has_chat_template) {
    fmt::print(stderr, "{} has no chat template: it continues the text as it is (--raw).\n", card.id);
    options.raw = true;
  }
  Conversation conversation(**host, options);
  if (interactive) return chat(conversation, card.id);
  if (const auto done = conversation.say(prompt); !done) return fail("run", done.error());
  return g_interrupted.load() ? 130 : 0;
}

}  // namespace ashlar::cli
