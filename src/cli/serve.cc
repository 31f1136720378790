// ashlar serve: models over HTTP.
#include <fmt/format.h>

#include <csignal>
#include <ctime>

#include "api/api.h"
#include "base/log.h"
#include "cli/answerers.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/kept_keys.h"
#include "cli/serve_options.h"
#include "cli/terminal.h"
#include "gateway/identity/identity.h"
#include "gateway/rollout/memory_alarm.h"
#include "net/http_server.h"

namespace ashlar::cli {
namespace {

Status configure_log(const ServeOptions& options) {
  using log::Level;
  constexpr std::pair<std::string_view, Level> kLevels[] = {
      {"debug", Level::debug}, {"info", Level::info}, {"warn", Level::warn}, {"error", Level::error}, {"off", Level::off}};
  for (const auto& [name, level] : kLevels)
    if (name == options.log_level) {
      if (options.log_format != "text" && options.log_format != "json") return Error{Code::invalid, "--log-format is text or json"};
      log::configure(level, options.log_format == "json" ? log::Format::json : log::Format::text);
      return {};
    }
  return Error{Code::invalid, "--log-level is debug, info, warn, error or off"};
}

// The signals that end a server, taken by sigwait on the main thread; blocked
// before any other thread begins.
sigset_t block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
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

// Who may ask beside the keys of the command line; `keys` outlives it.
Result<std::unique_ptr<gateway::Identity>> open_identity(const ServeOptions& options, const KeptKeys& keys) {
  gateway::IdentityConfig config;
  if (!options.identity.empty()) config = TRY(gateway::read_identity_config(options.identity));
  if (!config.certificates.empty() && options.server.tls_client_ca.empty())
    return Error{Code::invalid, fmt::format("{}: rules for certificates need --tls-client-ca, who signs them", options.identity)};
  const net::ProxyRules proxies(net::proxy_settings_from_environment());
  for (gateway::IssuerOptions& issuer : config.issuers) issuer.proxies = proxies;
  return gateway::Identity::create(std::move(config), keys.ring.get());
}

Status serve_until_signalled(const ServeOptions& options, const std::vector<std::string>& models,
                             GatewayPlan plan) {
  TRY(configure_log(options));
  const sigset_t signals = block_signals();
  const KeptKeys keys = TRY(open_keys_to_serve(options.state));
  auto identity = TRY(open_identity(options, keys));
  const bool keyed = !options.api.api_key.empty() || !options.api.api_key_file.empty() || identity->required();
  auto api = TRY(api::Api::create(options.api, options.server.host, std::move(identity)));
  std::unique_ptr<Answerers> answerers;  // outlives the server and, through its order below, the api
  std::unique_ptr<gateway::MemoryAlarm> alarm;
  std::unique_ptr<Metering> metering;
  auto server = TRY(net::HttpServer::listen(options.server, api->handler()));
  answerers = TRY(Answerers::open(models, options.host, std::move(plan), keys.database.get()));
  alarm = std::make_unique<gateway::MemoryAlarm>(
      gateway::MemoryAlarmOptions{.running = [&] { return answerers->generator().load().running; },
                                  .unload_idle = [&] { answerers->unload_idle(); }});
  metering = TRY(Metering::open(options.metering, keys.database.get(), answerers->generator(),
                                [&](const engine::Request& request) { return alarm->admit(request); }));
  api->serve(metering->generator(), &answerers->embedder(), answerers->reranker());
  const bool v6 = options.server.host.find(':') != std::string::npos;
  const std::string url = fmt::format("{}://{}{}{}:{}", options.server.tls_cert.empty() ? "http" : "https", v6 ? "[" : "",
                                      options.server.host, v6 ? "]" : "", server->port());
  print_welcome(url, metering->generator().models(), keyed);

  int signal = 0;
  sigwait(&signals, &signal);
  log::info("draining", {{"signal", signal == SIGTERM ? "SIGTERM" : "SIGINT"}, {"limit_ms", options.drain_timeout.count()}});
  // A second signal ends at once.
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  api->drain();
  const bool all = server->drain(options.drain_timeout);
  log::info("stopped", {{"all_answers_ended", all}});
  server.reset();
  api.reset();
  return {};
}

}  // namespace

int serve(const Words& words) {
  std::string model;
  ServeOptions options;
  CommandLine line{.name = "serve",
                   .summary = "Serve models over the OpenAI API, with a page to chat and metrics.",
                   .examples = "Examples:\n  ashlar serve\n  ashlar serve model.gguf --port 9000\n"
                               "  ashlar serve --model small=a.gguf --model large=b.gguf\n"
                               "  ashlar serve --upstream fast=http://127.0.0.1:8001/v1\n"
                               "  ashlar pull hf:Qwen/Qwen3-0.6B-GGUF:Q8_0 && ashlar serve Qwen3-0.6B-Q8_0\n"
                               "  ashlar serve model.gguf --host 0.0.0.0 --api-key-file keys.txt --tls-cert cert.pem --tls-key key.pem",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file, a Hugging Face folder or a pulled model's name; left out, with no --model: the embedded model.", .value = &model}},
                   .options = list_options(options),
                   .reads_environment = true,
                   .sections = kConfigSections};
  if (const auto status = parse(line, words)) return *status;
  std::vector<std::string> models = options.model;
  if (!model.empty()) models.insert(models.begin(), model);
  auto plan = plan_gateway(options, line.config);
  if (!plan) return fail("serve", plan.error());
  if (const auto fine = check_limits(options.metering.limits); !fine) return fail("serve", fine.error());
  // Whoever names upstreams alone wants a gateway alone.
  if (models.empty() && plan->upstreams.empty()) models.emplace_back(kDefaultModel);
  if (const auto done = serve_until_signalled(options, models, std::move(*plan)); !done) return fail("serve", done.error());
  return 0;
}

}  // namespace ashlar::cli
