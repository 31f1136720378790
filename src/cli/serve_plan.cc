#include "cli/serve_plan.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include "api/keys.h"
#include "base/log.h"
#include "base/yaml.h"
#include "cli/serve_check.h"
#include "gateway/routing/read_routes.h"
#include "gateway/section.h"
#include "net/proxy.h"
#include "store/digest.h"

namespace ashlar::cli {
namespace {

// Lines that say what is wrong, none twice: a text that is no YAML is found so by each of its readers.
class Faults {
 public:
  void add(const Error& error) {
    std::string line;
    for (std::istringstream lines(error.message); std::getline(lines, line);) {
      if (!seen_.insert(line).second) continue;
      all_ += (all_.empty() ? "" : "\n") + line;
    }
  }
  template <class T>
  T take(Result<T> result) {
    if (result) return std::move(*result);
    add(result.error());
    return {};
  }
  void take(const Status& done) {
    if (!done) add(done.error());
  }
  Status all() const {
    if (all_.empty()) return {};
    return Error{Code::invalid, all_};
  }

 private:
  std::set<std::string> seen_;
  std::string all_;
};

// Also of a file that is not there.
std::string stamp_of_file(const std::string& path) {
  const auto text = path.empty() ? Result<std::string>("") : gateway::read_config_text(path);
  return path + '\n' + (text ? store::sha256(*text) : "");
}

// nullopt: some are not known, and it is told why.
std::optional<std::vector<gateway::UpstreamOptions>> read_all_upstreams(const ServeOptions& options,
                                                                        const std::string& text,
                                                                        const std::string& path, Faults& faults) {
  std::vector<gateway::UpstreamOptions> out;
  bool all = true;
  const auto add = [&](gateway::UpstreamOptions one) {
    if (std::ranges::find(out, one.name, &gateway::UpstreamOptions::name) != out.end())
      faults.add({Code::invalid, fmt::format("two upstreams are called '{}'", one.name)});
    out.push_back(std::move(one));
  };
  for (const std::string& flag : options.upstream) {
    auto one = gateway::parse_upstream_flag(flag);
    all = all && one;
    one ? add(std::move(*one)) : faults.add(one.error());
  }
  auto written = gateway::parse_upstreams(text, path);
  if (!written) {
    faults.add(written.error());
    return std::nullopt;
  }
  for (gateway::UpstreamOptions& each : *written) add(std::move(each));
  return all ? std::optional(std::move(out)) : std::nullopt;
}

// Whether somebody may serve a model of this name. What lists itself, a folder of versions and files without a name say
// only when they are asked: then somebody may. An upstream that names its models has no others, ever.
bool may_be_served(const ServeOptions& options, const std::vector<gateway::UpstreamOptions>& upstreams,
                   const std::string& positional, Known are, const std::string& name) {
  bool unknown = !positional.empty() || !options.repository.model_repository.empty() || !options.host.adapter.empty();
  if (!unknown && options.model.empty() && upstreams.empty()) return are == Known::some || name == kDefaultModel;
  for (const std::string& model : options.model) {
    const auto equals = model.find('=');
    unknown = unknown || equals == model.npos;
    if (equals != model.npos && model.substr(0, equals) == name) return true;
  }
  for (const gateway::UpstreamOptions& each : upstreams) {
    unknown = unknown || each.models.empty();
    for (const gateway::UpstreamModel& model : each.models)
      if (name == model.name || name == each.name + "/" + model.name) return true;
  }
  for (const gateway::UpstreamOptions& each : upstreams)
    if (name.starts_with(each.name + "/")) return each.models.empty();
  return unknown;
}

Result<gateway::IdentityConfig> read_identity_of(const ServeOptions& options, std::vector<std::string>& beside) {
  gateway::IdentityConfig config;
  if (options.identity.empty()) return config;
  const std::string text = TRY(gateway::read_config_text(options.identity));
  config = TRY(gateway::parse_identity_config(text, options.identity, &beside));
  if (!config.certificates.empty() && options.server.tls_client_ca.empty())
    TRY(gateway::read_section(text, options.identity, "certificates", [](gateway::Section& section, const YAML::Node& at) {
      section.fail(at, "rules for certificates need --tls-client-ca, who signs them");
    }));
  const net::ProxyRules proxies(net::proxy_settings_from_environment());
  for (gateway::IssuerOptions& issuer : config.issuers) issuer.proxies = proxies;
  return config;
}

Result<std::pair<log::Level, log::Format>> log_of(const ServeOptions& options) {
  using log::Level;
  constexpr std::pair<std::string_view, Level> kLevels[] = {{"debug", Level::debug},
                                                            {"info", Level::info},
                                                            {"warn", Level::warn},
                                                            {"error", Level::error},
                                                            {"off", Level::off}};
  for (const auto& [name, level] : kLevels)
    if (name == options.log_level) {
      if (options.log_format != "text" && options.log_format != "json")
        return Error{Code::invalid, "--log-format is text or json"};
      return std::pair(level, options.log_format == "json" ? log::Format::json : log::Format::text);
    }
  return Error{Code::invalid, "--log-level is debug, info, warn, error or off"};
}

// Those that are applied while the server runs.
const std::set<std::string>& live_options() {
  static const std::set<std::string> kLive = {"model",        "upstream",  "identity",   "limits",       "api_key",
                                              "api_key_file", "log_level", "log_format", "drain_timeout"};
  return kLive;
}

}  // namespace

CommandLine serve_line(ServeOptions& options, std::string& model) {
  return {.name = "serve",
          .summary = "Serve models over the OpenAI API, with a page to chat and metrics.",
          .examples =
              "Examples:\n  ashlar serve\n  ashlar serve model.gguf --port 9000\n"
              "  ashlar serve --model small=a.gguf --model large=b.gguf\n"
              "  ashlar serve --upstream fast=http://127.0.0.1:8001/v1\n"
              "  ashlar serve --config ashlar.yaml   (read again when it changes, and on SIGHUP)\n"
              "  ashlar pull hf:Qwen/Qwen3-0.6B-GGUF:Q8_0 && ashlar serve Qwen3-0.6B-Q8_0\n"
              "  ashlar serve model.gguf --host 0.0.0.0 --api-key-file keys.txt --tls-cert cert.pem --tls-key key.pem",
          .positionals = {{.name = "MODEL",
                           .help = "A GGUF file, a Hugging Face folder or a pulled model's name; left out, with no "
                                   "--model: the embedded model.",
                           .value = &model}},
          .options = list_options(options),
          .reads_environment = true,
          .sections = kConfigSections};
}

namespace {

std::vector<std::string> files_of(const ServeOptions& options, const std::string& config) {
  std::vector<std::string> out;
  const bool named = gateway::limits_profile(options.metering.limits).has_value();
  for (const std::string& file :
       {config, named ? "" : options.metering.limits, options.identity, options.api.api_key_file})
    if (!file.empty()) out.push_back(file);
  return out;
}

// The sections of `text` and the files that the options name. `files` gets those that these name in turn.
Result<ServePlan> plan_of(ServeOptions options, const std::string& model, const std::string& config,
                          const std::string& text, Known are, std::vector<std::string>& files) {
  Faults faults;
  ServePlan plan;
  gateway::ServedModels served;
  if (auto upstreams = read_all_upstreams(options, text, config, faults)) {
    plan.gateway.upstreams = std::move(*upstreams);
    served = [&](const std::string& name) { return may_be_served(options, plan.gateway.upstreams, model, are, name); };
  }
  plan.gateway.routes = faults.take(gateway::parse_routes(text, config, served));
  const auto of_options = [&](const std::string& wrong) {
    std::string line;
    for (std::istringstream lines(wrong); std::getline(lines, line);)
      faults.add({Code::invalid, with_line(line, options, text, config)});
  };
  // Where the file itself cannot be read, the line is that of its name.
  const auto is_there = [&](const char* option, const std::string& file) {
    const auto read = gateway::read_config_text(file);
    if (!read) of_options(fmt::format("{}: {}", option, read.error().message));
    return read.has_value();
  };
  std::vector<std::string> beside;  // what the identity file names
  const std::string& limits = options.metering.limits;
  if (gateway::limits_profile(limits) || is_there("limits", limits)) plan.limits = faults.take(read_limits_of(limits));
  if (options.identity.empty() || is_there("identity", options.identity))
    plan.identity = faults.take(read_identity_of(options, beside));
  files.insert(files.end(), beside.begin(), beside.end());
  if (const auto keys = api::Keys::create(options.api.api_key, options.api.api_key_file); !keys)
    of_options(keys.error().message);
  for (const std::string& wrong : wrong_options(options)) of_options(wrong);
  if (const auto level = log_of(options); !level) of_options(level.error().message);
  TRY(faults.all());

  plan.models = options.model;
  if (!model.empty()) plan.models.insert(plan.models.begin(), model);
  // Whoever names upstreams alone wants a gateway alone.
  if (plan.models.empty() && plan.gateway.upstreams.empty() && options.repository.model_repository.empty())
    plan.models.emplace_back(kDefaultModel);
  plan.config = config;
  const auto values = option_values(options);
  plan.limits_stamp = stamp_of_file(options.metering.limits);
  plan.identity_stamp = stamp_of_file(options.identity);
  for (const std::string& file : beside) plan.identity_stamp += '\n' + stamp_of_file(file);
  plan.keys_stamp = values.at("api_key") + '\n' + stamp_of_file(options.api.api_key_file);
  std::string all = text + plan.limits_stamp + plan.identity_stamp + plan.keys_stamp;
  for (const auto& [name, value] : values) all += fmt::format("\n{}={}", name, value);
  plan.stamp = store::to_hex(store::sha256(all));
  plan.options = std::move(options);
  return plan;
}

}  // namespace

ReadServePlan read_serve_plan(const std::vector<std::string>& words, const std::string& config,
                              const std::string* text, Known are) {
  Faults faults;
  std::string read;
  if (text != nullptr)
    read = *text;
  else if (!config.empty())
    read = faults.take(gateway::read_config_text(config));
  // What is no YAML, or too much of it, is so for each of its readers.
  FileFaults form(config);
  if (const auto root = load_yaml(read, config, form); !root)
    return {.files = {config}, .plan = std::unexpected(root.error())};
  ServeOptions options;
  std::string model;
  CommandLine line = serve_line(options, model);
  faults.take(parse_again(line, words, &read));
  std::vector<std::string> files = files_of(options, config);
  auto plan = plan_of(std::move(options), model, config, read, are, files);
  if (!plan) faults.add(plan.error());
  if (const Status fine = faults.all(); !fine) plan = std::unexpected(fine.error());
  return {.files = std::move(files), .plan = std::move(plan)};
}

std::vector<std::string> waits_for_restart(ServeOptions at_start, ServeOptions now) {
  std::vector<std::string> out;
  const auto before = option_values(at_start);
  for (const auto& [name, value] : option_values(now))
    if (!live_options().contains(name) && before.at(name) != value) out.push_back(name);
  return out;
}

Status configure_log(const ServeOptions& options) {
  const auto [level, format] = TRY(log_of(options));
  log::configure(level, format);
  return {};
}

}  // namespace ashlar::cli
