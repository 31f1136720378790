// ashlar load: a load generator for any OpenAI-compatible server.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/load_plan.h"
#include "cli/terminal.h"
#include "net/http_client.h"
#include "net/sse.h"

namespace ashlar::cli {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct LoadOptions {
  int clients = 16, requests = 0, prompt_tokens = 128, max_tokens = 64, timeout_seconds = 600;
  std::string trace, model, api_key, tls_ca;
  double speed = 1;
  bool completions = false, ignore_eos = true, shared_prompt = false, insecure = false, json = false;
  void fields(auto&& field) {
    field("clients", clients, "Requests under way at once; with --trace, the most.");
    field("requests", requests, "Requests in all; 0: four for each client, or the whole trace.");
    field("prompt_tokens", prompt_tokens, "Length of each prompt, about, in tokens.");
    field("max_tokens", max_tokens, "Length of each answer.");
    field("shared_prompt", shared_prompt, "All requests have the same prompt.");
    field("trace", trace, "Replay arrivals and lengths of this file: TIMESTAMP,ContextTokens,GeneratedTokens, or JSON lines with timestamp, input_length, output_length, hash_ids.");
    field("speed", speed, "Replay a trace so many times faster.");
    field("model", model, "The model to ask for; otherwise the first that the server lists.");
    field("completions", completions, "Use /v1/completions rather than /v1/chat/completions.");
    field("ignore_eos", ignore_eos, "Ask the server to go on to --max-tokens.");
    field("api_key", api_key, "Sent as Authorization: Bearer.");
    field("tls_ca", tls_ca, "PEM file of authorities to trust.");
    field("insecure", insecure, "Accept any certificate.");
    field("timeout_seconds", timeout_seconds, "Give a request up after so long.");
    field("json", json, "For a script.");
  }
};

struct Answer {
  Clock::time_point sent, first, last;
  bool any = false, ended = false;
  int status = 0;
  int chunks = 0;          // that carried text
  std::int64_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0;
  std::vector<double> gaps;  // seconds between one text and the next
  std::string error;
};

// What the server sends for one request. The client's thread.
class Listener {
 public:
  Listener(Answer& answer) : answer_(answer) {}

  void on_data(std::string_view piece) {
    if (answer_.status != 200) {
      if (body_.size() < 4096) body_.append(piece.substr(0, 4096));
      return;
    }
    if (auto read = reader_.read(piece, [&](const net::SseEvent& event) { on_event(event.data); }); !read) answer_.error = read.error().message;
  }

  void on_done(const Status& status) {
    answer_.last = answer_.any ? answer_.last : Clock::now();
    if (!status) answer_.error = status.error().message;
    else if (answer_.status != 200) answer_.error = fmt::format("HTTP {}", answer_.status);
    else if (answer_.error.empty() && !answer_.ended) answer_.error = "the stream ended without [DONE]";
    if (answer_.answer_tokens == 0) answer_.answer_tokens = answer_.chunks;
  }

 private:
  void on_event(const std::string& data) {
    if (data == "[DONE]") {
      answer_.ended = true;
      return;
    }
    const auto json = parse_json(data);
    if (!json || !json->is_object()) {
      answer_.error = "an event that is no JSON object";
      return;
    }
    if (json->contains("error")) answer_.error = "error in the stream";
    if (const auto usage = json->find("usage"); usage != json->end() && usage->is_object()) {
      answer_.prompt_tokens = usage->value("prompt_tokens", std::int64_t{0});
      answer_.answer_tokens = usage->value("completion_tokens", std::int64_t{0});
      if (const auto details = usage->find("prompt_tokens_details"); details != usage->end() && details->is_object())
        answer_.cached_tokens = details->value("cached_tokens", std::int64_t{0});
    }
    if (carries_text(*json)) note_text();
  }

  static bool carries_text(const Json& chunk) {
    const auto choices = chunk.find("choices");
    if (choices == chunk.end() || !choices->is_array()) return false;
    for (const auto& choice : *choices) {
      if (!choice.is_object()) continue;
      for (const auto& holder : {choice.value("delta", Json()), choice})
        for (const char* key : {"content", "reasoning_content", "text"})
          if (holder.is_object() && holder.contains(key) && holder[key].is_string() && !holder[key].get_ref<const std::string&>().empty()) return true;
    }
    return false;
  }

  void note_text() {
    const auto now = Clock::now();
    if (!answer_.any) answer_.first = now;
    else answer_.gaps.push_back(Seconds(now - answer_.last).count());
    answer_.any = true;
    answer_.last = now;
    ++answer_.chunks;
  }

  Answer& answer_;
  net::SseReader reader_;
  std::string body_;
};

class Generator {
 public:
  Generator(net::HttpClient& client, std::string url, std::string model, const LoadOptions& options)
      : client_(client), url_(std::move(url)), model_(std::move(model)), options_(options) {}

  // Runs the plan: each request at its time, at most `clients` at once.
  std::vector<Answer> run(const std::vector<PlannedRequest>& plan) {
    std::vector<Answer> answers(plan.size());
    std::vector<std::unique_ptr<net::Call>> calls(plan.size());
    std::vector<std::unique_ptr<Listener>> listeners(plan.size());
    Progress progress("requests", static_cast<std::int64_t>(plan.size()));
    const auto start = Clock::now();
    std::unique_lock lock(mutex_);
    for (std::size_t i = 0; i < plan.size(); ++i) {
      const auto due = start + std::chrono::duration_cast<Clock::duration>(Seconds(plan[i].at_seconds / options_.speed));
      while (Clock::now() < due || running_ >= options_.clients) {
        changed_.wait_until(lock, std::max(due, Clock::now() + std::chrono::milliseconds(200)));
        progress.at(static_cast<std::int64_t>(done_));
      }
      ++running_;
      lock.unlock();
      listeners[i] = std::make_unique<Listener>(answers[i]);
      calls[i] = send(plan[i], i, answers[i], *listeners[i]);
      lock.lock();
    }
    while (running_ > 0) {
      changed_.wait_for(lock, std::chrono::milliseconds(200));
      progress.at(static_cast<std::int64_t>(done_));
    }
    return answers;
  }

 private:
  std::unique_ptr<net::Call> send(const PlannedRequest& request, std::size_t number, Answer& answer, Listener& listener) {
    const std::string text = prompt_text(request, options_.shared_prompt ? 0 : number + 1);
    Json body = {{"model", model_}, {"stream", true}, {"stream_options", {{"include_usage", true}}}, {"temperature", 0},
                 {"max_tokens", std::max(1, request.answer_tokens)}};
    if (options_.ignore_eos) body["ignore_eos"] = true;
    if (options_.completions) body["prompt"] = text;
    else body["messages"] = Json::array({{{"role", "user"}, {"content", text}}});
    net::ClientRequest http{.method = "POST",
                            .url = url_ + (options_.completions ? "/v1/completions" : "/v1/chat/completions"),
                            .headers = {{"content-type", "application/json"}},
                            .body = dump_json(body),
                            .timeout = std::chrono::seconds(options_.timeout_seconds)};
    if (!options_.api_key.empty()) http.headers.emplace_back("authorization", "Bearer " + options_.api_key);
    answer.sent = Clock::now();
    return client_.send(std::move(http), {.on_head = [&answer](int status, const net::Headers&) { answer.status = status; },
                                          .on_data = [&listener](std::string_view piece) { listener.on_data(piece); },
                                          .on_done = [this, &listener](Status status) {
                                            listener.on_done(status);
                                            std::lock_guard lock(mutex_);
                                            --running_;
                                            ++done_;
                                            changed_.notify_all();
                                          }});
  }

  net::HttpClient& client_;
  std::string url_, model_;
  const LoadOptions& options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int running_ = 0;
  std::size_t done_ = 0;
};

struct Percentiles {
  double p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};

Percentiles percentiles(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const auto at = [&](double share) { return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)]; };
  return {at(0.5), at(0.9), at(0.95), at(0.99), values.back()};
}

struct Report {
  std::size_t requests = 0, errors = 0;
  double seconds = 0;
  std::int64_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0;
  Percentiles ttft, itl, e2e;
  std::map<std::string, int> reasons;
};

Report summarize(const std::vector<Answer>& answers) {
  Report report{.requests = answers.size()};
  std::vector<double> ttft, itl, e2e;
  auto begin = Clock::time_point::max(), end = Clock::time_point::min();
  for (const Answer& answer : answers) {
    begin = std::min(begin, answer.sent);
    end = std::max(end, answer.last);
    if (!answer.error.empty()) {
      ++report.errors;
      ++report.reasons[answer.error];
      continue;
    }
    report.prompt_tokens += answer.prompt_tokens;
    report.cached_tokens += answer.cached_tokens;
    report.answer_tokens += answer.answer_tokens;
    if (!answer.any) continue;
    ttft.push_back(Seconds(answer.first - answer.sent).count());
    e2e.push_back(Seconds(answer.last - answer.sent).count());
    itl.insert(itl.end(), answer.gaps.begin(), answer.gaps.end());
  }
  report.seconds = Seconds(end - begin).count();
  report.ttft = percentiles(std::move(ttft));
  report.itl = percentiles(std::move(itl));
  report.e2e = percentiles(std::move(e2e));
  return report;
}

Json as_json(const Percentiles& p) {
  return {{"p50", p.p50}, {"p90", p.p90}, {"p95", p.p95}, {"p99", p.p99}, {"max", p.max}};
}

void print_report(const Report& report, bool json) {
  const double seconds = std::max(report.seconds, 1e-9);
  if (json) {
    Json reasons = Json::object();
    for (const auto& [reason, count] : report.reasons) reasons[reason] = count;
    fmt::print("{}\n", dump_json({{"requests", report.requests}, {"errors", report.errors}, {"error_reasons", reasons}, {"seconds", report.seconds},
                                  {"prompt_tokens", report.prompt_tokens}, {"cached_tokens", report.cached_tokens},
                                  {"completion_tokens", report.answer_tokens},
                                  {"output_tokens_per_second", static_cast<double>(report.answer_tokens) / seconds},
                                  {"total_tokens_per_second", static_cast<double>(report.answer_tokens + report.prompt_tokens) / seconds},
                                  {"requests_per_second", static_cast<double>(report.requests - report.errors) / seconds},
                                  {"ttft_seconds", as_json(report.ttft)}, {"itl_seconds", as_json(report.itl)}, {"e2e_seconds", as_json(report.e2e)}}));
    return;
  }
  const Palette colour = palette(stdout);
  fmt::print("{}{} requests in {:.1f} s{}, {} failed\n", colour.bold, report.requests, report.seconds, colour.plain, report.errors);
  for (const auto& [reason, count] : report.reasons) fmt::print("  {}{} x {}{}\n", colour.red, count, reason, colour.plain);
  fmt::print("  prompts  {} tokens, {} of them cached; answers {} tokens\n", report.prompt_tokens, report.cached_tokens, report.answer_tokens);
  fmt::print("  rate     {:.1f} tokens/s out, {:.1f} in and out, {:.2f} requests/s\n\n", static_cast<double>(report.answer_tokens) / seconds,
             static_cast<double>(report.answer_tokens + report.prompt_tokens) / seconds, static_cast<double>(report.requests - report.errors) / seconds);
  fmt::print("  {:<22} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "milliseconds", "p50", "p90", "p95", "p99", "max");
  const auto row = [](const char* name, const Percentiles& p) {
    fmt::print("  {:<22} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f}\n", name, p.p50 * 1e3, p.p90 * 1e3, p.p95 * 1e3, p.p99 * 1e3, p.max * 1e3);
  };
  row("time to first token", report.ttft);
  row("between tokens", report.itl);
  row("end to end", report.e2e);
}

Result<std::string> first_model(net::HttpClient& client, const std::string& url, const LoadOptions& options) {
  net::ClientRequest request{.url = url + "/v1/models", .timeout = std::chrono::seconds(30)};
  if (!options.api_key.empty()) request.headers.emplace_back("authorization", "Bearer " + options.api_key);
  const auto answer = TRY(net::fetch(client, std::move(request)));
  if (answer.status != 200) return Error{Code::invalid, fmt::format("{}/v1/models answers HTTP {}", url, answer.status)};
  const auto json = TRY(parse_json(answer.body));
  const Json data = json.is_object() ? json.value("data", Json::array()) : Json::array();
  if (!data.is_array() || data.empty() || !data[0].is_object() || !data[0].contains("id") || !data[0]["id"].is_string())
    return Error{Code::invalid, fmt::format("{}/v1/models lists no model; name one with --model", url)};
  return data[0]["id"].get<std::string>();
}

Status load_server(std::string url, const LoadOptions& options) {
  if (options.clients < 1 || options.requests < 0 || !(options.speed > 0))
    return Error{Code::invalid, "--clients is at least 1, --requests at least 0, --speed above 0"};
  if (url.find("://") == url.npos) url = "http://" + url;
  while (url.ends_with('/')) url.pop_back();
  if (url.ends_with("/v1")) url.resize(url.size() - 3);
  net::ClientOptions client_options{.max_idle_per_host = options.clients, .tls_ca = options.tls_ca, .tls_verify = !options.insecure};
  auto client = TRY(net::HttpClient::create(client_options));
  const std::string model = options.model.empty() ? TRY(first_model(*client, url, options)) : options.model;
  std::vector<PlannedRequest> plan;
  if (!options.trace.empty()) plan = TRY(read_trace(options.trace, static_cast<std::size_t>(options.requests)));
  else
    plan.assign(static_cast<std::size_t>(options.requests > 0 ? options.requests : 4 * options.clients),
                PlannedRequest{.prompt_tokens = options.prompt_tokens, .answer_tokens = options.max_tokens});
  Generator generator(*client, url, model, options);
  const Report report = summarize(generator.run(plan));
  print_report(report, options.json);
  if (report.errors == report.requests) return Error{Code::unavailable, "every request failed"};
  return {};
}

}  // namespace

int load(const Words& words) {
  std::string url;
  LoadOptions options;
  CommandLine line{.name = "load",
                   .summary = "Load any OpenAI-compatible server with streamed requests, and time its answers.",
                   .examples = "Examples:\n  ashlar load http://127.0.0.1:8080 --clients 32\n"
                               "  ashlar load http://127.0.0.1:8080 --trace trace.csv --requests 500 --speed 4",
                   .positionals = {{.name = "URL", .help = "Where the server listens.", .value = &url, .required = true}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = load_server(url, options); !done) return fail("load", done.error());
  return 0;
}

}  // namespace ashlar::cli
