// ashlar serve: models over HTTP.
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/api.h"
#include "api/keys.h"
#include "base/log.h"
#include "base/memory_reserve.h"
#include "base/threads.h"
#include "cli/admin/admin.h"
#include "cli/answerers.h"
#include "cli/certificate.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/kept_keys.h"
#include "cli/metering.h"
#include "cli/reload.h"
#include "cli/serve_options.h"
#include "cli/serve_plan.h"
#include "cli/terminal.h"
#include "gateway/events/kept_events.h"
#include "gateway/identity/identity.h"
#include "gateway/quarantine/quarantine.h"
#include "gateway/rollout/memory_alarm.h"
#include "net/http_server.h"

namespace ashlar::cli {
namespace {

// The signals that end a server or have it read its configuration, taken by sigwait on
// the main thread; blocked before any other thread begins.
sigset_t block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// What to send to the first model: a conversation, or texts for one that only reads.
std::string example_of(const engine::ModelCard& model, const std::string& url, bool keyed) {
  const std::string_view key = keyed ? " -H 'authorization: Bearer KEY'" : "";
  const auto call = [&](std::string_view path, std::string_view members) {
    return fmt::format("  curl {}{} -H 'content-type: application/json'{} \\\n    -d '{{\"model\": \"{}\", {}}}'\n", url, path,
                       key, model.id, members);
  };
  if (model.generates)
    return fmt::format("  open {}/ in a browser, to chat\n{}  ashlar load {}\n", url,
                       call("/v1/chat/completions", R"("messages": [{"role": "user", "content": "Hello"}])"), url);
  if (model.ranks) return call("/v1/rerank", R"("query": "What is an ashlar?", "documents": ["A stone.", "A tree."])");
  return call("/v1/embeddings", R"("input": ["Hello", "Good day"])");
}

void print_welcome(const std::string& url, const std::vector<engine::ModelCard>& models, bool keyed) {
  const Palette colour = palette(stdout);
  fmt::print("{}listening on {}{}\n", colour.bold, url, colour.plain);
  std::string names;
  for (const engine::ModelCard& model : models) names += (names.empty() ? "" : ", ") + model.id;
  if (models.empty())
    fmt::print("serving no model yet: no upstream has answered\n\nCtrl-C ends it.\n");
  else
    fmt::print("serving {}\n\nTry:\n{}\nCtrl-C ends it.\n", names, example_of(models.front(), url, keyed));
  std::fflush(stdout);
}

// A server under way, and how it comes to be another.
class Serving {
 public:
  static Result<std::unique_ptr<Serving>> open(const Words& words, ReadServePlan read);
  ~Serving() {
    if (api_) api_->end_admin();  // which may ask the reloader
    reloader_.reset();
    certificate_.reset();
    server_.reset();
    api_.reset();
    if (answerers_) answerers_->rollouts().graders().use(nullptr);  // who asks through the metering
  }

  void welcome() const {
    print_welcome(url(), metering_->generator().models(), keyed_);
    events_->write({.kind = "server.started", .subject = url(), .message = "requests are served"});
  }

  Reloader& reloader() { return *reloader_; }

  // True: all answers ended in time.
  bool drain() {
    const auto limit = reloader_->drain_timeout();
    api_->drain();
    const bool all = server_->drain(limit);
    events_->write({.kind = "server.stopped",
                    .subject = url(),
                    .severity = all ? gateway::Severity::info : gateway::Severity::warning,
                    .message = all ? "all answers had ended" : "answers were cut off: they did not end in time"});
    return all;
  }

 private:
  std::string url() const {
    const ServeOptions& options = started_;
    const bool v6 = options.server.host.find(':') != std::string::npos;
    return fmt::format("{}://{}{}{}:{}", options.server.tls_cert.empty() ? "http" : "https", v6 ? "[" : "",
                       options.server.host, v6 ? "]" : "", server_->port());
  }
  Result<Reloader::Outcome> apply(const ServePlan& before, ServePlan& next);

  ServeOptions started_;
  bool keyed_ = false;
  KeptKeys keys_;
  std::unique_ptr<gateway::KeptEvents> events_;
  gateway::Identity* identity_ = nullptr;  // the api's
  std::unique_ptr<api::Api> api_;
  std::unique_ptr<gateway::Quarantine> quarantine_;  // null: no state is kept
  std::unique_ptr<Answerers> answerers_;  // outlives the server and the api, which are reset first
  std::unique_ptr<gateway::MemoryAlarm> alarm_;
  std::unique_ptr<Metering> metering_;
  std::unique_ptr<net::HttpServer> server_;
  std::unique_ptr<Certificate> certificate_;
  std::unique_ptr<Reloader> reloader_;
};

Result<std::unique_ptr<Serving>> Serving::open(const Words& words, ReadServePlan read) {
  ServePlan plan = TRY(std::move(read.plan));
  auto out = std::make_unique<Serving>();
  out->started_ = plan.options;
  const ServeOptions& options = out->started_;
  out->keys_ = TRY(open_keys_to_serve(options.state));
  out->events_ = TRY(gateway::KeptEvents::open(out->keys_.database.get()));
  auto identity = TRY(gateway::Identity::create(std::move(plan.identity), out->keys_.ring.get()));
  out->identity_ = identity.get();
  out->keyed_ = !options.api.api_key.empty() || !options.api.api_key_file.empty() || identity->required();
  out->api_ = TRY(api::Api::create(options.api, options.server.host, std::move(identity)));
  net::ServerOptions server = options.server;
  // No model here computes: a gateway's work is the network's.
  const bool computes = !plan.models.empty() || !options.repository.model_repository.empty();
  if (server.http_threads == 0 && !computes) server.http_threads = available_cores();
  server.pin_http_threads = !computes;
  out->server_ = TRY(net::HttpServer::listen(server, out->api_->handler()));
  out->certificate_ = std::make_unique<Certificate>(*out->server_, options.server, *out->events_);
  const auto folder = store::state_folder(options.state);
  if (computes && folder) {
    if (auto opened = gateway::Quarantine::open(*folder + "/quarantine", out->events_.get()))
      out->quarantine_ = std::move(*opened);
    else
      log::warn("no_quarantine", {{"why", opened.error().message}});
  }
  out->answerers_ = TRY(Answerers::open(plan.models,
                                        {.host = options.host,
                                         .repository = options.repository,
                                         .routing = options.routing,
                                         .events = out->events_.get(),
                                         .database = out->keys_.database.get(),
                                         .quarantine = out->quarantine_.get()},
                                        std::move(plan.gateway)));
  Serving* const self = out.get();
  out->alarm_ = std::make_unique<gateway::MemoryAlarm>(
      gateway::MemoryAlarmOptions{.running = [self] { return self->answerers_->generator().load().running; },
                                  .unload_idle = [self] { self->answerers_->unload_idle(); },
                                  .events = out->events_.get()});
  out->metering_ = TRY(Metering::open(options.metering,
                                      {.database = out->keys_.database.get(), .folder = folder ? *folder + "/journal" : ""},
                                      {.generator = out->answerers_->generator(),
                                       .embedder = out->answerers_->embedder(),
                                       .reranker = &out->answerers_->reranker(),
                                       .admit = [self](const engine::Request& request) { return self->alarm_->admit(request); },
                                       .instead = [self](const std::string& model) { return self->answerers_->within_budget(model); }},
                                      out->events_.get()));
  out->reloader_ = std::make_unique<Reloader>(
      Reloader::Parts{.read = [words, config = plan.config](const std::string* text) { return read_serve_plan(words, config, text); },
                      .apply = [self](const ServePlan& before, ServePlan& next) { return self->apply(before, next); },
                      .turn =
                          [self] {
                            keep_memory_reserve();
                            self->answerers_->turn();
                            self->identity_->turn();
                            self->certificate_->turn();
                          },
                      .events = out->events_.get()},
      std::move(plan), std::move(read.files));
  AdminParts parts = admin_parts(out->keys_, *out->events_, *out->answerers_, *out->metering_);
  parts.reloader = out->reloader_.get();
  out->api_->set_admin(admin_operations(parts), out->events_.get());
  out->answerers_->rollouts().graders().use(&out->metering_->generator());
  out->api_->set_feedback([self](const std::string& answer, double score, const std::string& tenant, const engine::Sender& who) {
    return self->answerers_->rollouts().feedback(answer, score, tenant, who);
  });
  out->api_->set_rates([self](const gateway::Principal& who, const std::string& tenant) {
    return self->metering_->rates(
        {.key = who.key_id, .user = who.user, .team = who.team, .tenant = tenant, .tags = who.tags});
  });
  out->api_->serve(out->metering_->generator(), &out->metering_->embedder(), out->metering_->reranker(),
                   [self] {
                     std::vector<std::string> troubles = self->metering_->troubles();
                     if (std::string own = self->certificate_->trouble(); !own.empty()) troubles.push_back(std::move(own));
                     return troubles;
                   });
  return out;
}

// All that can fail comes first.
Result<Reloader::Outcome> Serving::apply(const ServePlan& before, ServePlan& next) {
  const bool keys_differ = next.keys_stamp != before.keys_stamp;
  const bool identity_differs = next.identity_stamp != before.identity_stamp;
  api::Keys keys = TRY(api::Keys::create(next.options.api.api_key, next.options.api.api_key_file));
  std::shared_ptr<gateway::Identity::Rules> rules;
  if (identity_differs) rules = TRY(identity_->prepare(std::move(next.identity)));
  const bool required = rules != nullptr ? identity_->required(*rules) : identity_->required();
  TRY(api::check_exposure(started_.server.host, !keys.empty() || required));
  auto prepared = TRY(answerers_->prepare(next.models, std::move(next.gateway)));
  TRY(configure_log(next.options));

  Reloader::Outcome out;
  auto [made, refused] = answerers_->commit(std::move(prepared));
  out.made = std::move(made);
  out.refused = std::move(refused);
  const auto note = [&](bool differs, const char* what) {
    if (differs) out.made.emplace_back(what);
  };
  if (next.limits_stamp != before.limits_stamp) {
    if (const Status done = metering_->apply(next.limits); !done)
      out.refused.push_back("the limits stay as they were: " + done.error().message);
    else
      out.made.emplace_back("~limits");
  }
  certificate_->renew();
  if (rules != nullptr) identity_->set(std::move(rules));
  note(identity_differs, "~identity");
  if (keys_differ) api_->set_keys(std::move(keys));
  note(keys_differ, "~api keys");
  note(next.options.log_level != before.options.log_level || next.options.log_format != before.options.log_format, "~log");
  note(next.options.drain_timeout != before.options.drain_timeout, "~drain_timeout");
  return out;
}

Status serve_until_signalled(const Words& words, ReadServePlan read) {
  if (read.plan) TRY(configure_log(read.plan->options));
  const sigset_t signals = block_signals();
  keep_memory_reserve();
  auto serving = TRY(Serving::open(words, std::move(read)));
  serving->welcome();

  // SIGHUP says that files have changed, or that the terminal has gone of which this server was a part.
  const bool of_terminal = isatty(STDIN_FILENO) != 0;
  int signal = 0;
  while (sigwait(&signals, &signal) == 0 && signal == SIGHUP && (!of_terminal || isatty(STDIN_FILENO) != 0))
    serving->reloader().request();
  log::info("draining", {{"signal", signal == SIGTERM ? "SIGTERM" : signal == SIGHUP ? "SIGHUP" : "SIGINT"},
                         {"limit_ms", serving->reloader().drain_timeout().count()}});
  // A second signal ends at once; there is nothing to read anew any more.
  std::signal(SIGHUP, SIG_IGN);
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  const bool all = serving->drain();
  log::info("stopped", {{"all_answers_ended", all}});
  return {};
}

}  // namespace

int serve(const Words& words) {
  std::string model;
  ServeOptions options;
  CommandLine line = serve_line(options, model);
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = serve_until_signalled(words, read_serve_plan(words, line.config)); !done)
    return fail("serve", done.error());
  return 0;
}

}  // namespace ashlar::cli
