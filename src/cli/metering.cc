#include "cli/metering.h"

#include <fmt/format.h>

#include <functional>
#include <optional>
#include <span>
#include <utility>

#include "base/log.h"
#include "gateway/limits/limits.h"
#include "gateway/limits/metered_generator.h"
#include "gateway/limits/rules.h"
#include "gateway/limits/spent.h"
#include "gateway/limits/webhook.h"
#include "gateway/section.h"
#include "net/http_client.h"
#include "net/proxy.h"
#include "store/counters.h"
#include "store/migrations.h"
#include "store/redis/client.h"
#include "store/usage.h"

namespace ashlar::cli {
namespace {

Result<gateway::LimitsConfig> read_limits_of(const std::string& limits) {
  if (auto profile = gateway::limits_profile(limits)) {
    gateway::LimitsConfig config;
    config.rules = std::move(*profile);
    gateway::sort_rules(config);
    return config;
  }
  const std::string text = TRY(gateway::read_config_text(limits));
  auto config = gateway::read_limits(text);
  if (!config) return Error{config.error().code, fmt::format("{}: {}", limits, config.error().message)};
  return config;
}

// As HTTP would have it.
int status_of(gateway::UsageRecord::End end) {
  switch (end) {
    case gateway::UsageRecord::End::finished:
      return 200;
    case gateway::UsageRecord::End::failed:
      return 500;
    case gateway::UsageRecord::End::dropped:
      return 499;
  }
  return 500;
}

// Rows that cannot be written are lost to the bill, and said to be.
class Ledger final : public gateway::UsageLedger {
 public:
  explicit Ledger(store::Database* database) : database_(database) {}

  void record(const gateway::UsageRecord& record) override {
    if (database_ == nullptr) return;
    store::UsageRow row{.id = record.reservation,
                        .at_ms = record.begun_utc_ms,
                        .tenant = record.subject.tenant,
                        .team = record.subject.team,
                        .user = record.subject.user,
                        .key = record.subject.key,
                        .model = record.model,
                        .tags = record.subject.tags,
                        .prompt_tokens = record.use.prompt,
                        .cached_tokens = record.use.cached,
                        .completion_tokens = record.use.completion,
                        .reasoning_tokens = record.use.reasoning,
                        .cost_nano = record.cost,
                        .status = status_of(record.end),
                        .duration_ms = static_cast<std::int64_t>(record.seconds * 1000)};
    const auto tell = [id = row.id](const Status& done) {
      if (!done) log::error("usage_lost", {{"id", id}, {"why", done.error().message}});
    };
    if (const auto taken = store::record_usage(*database_, row, tell); !taken) tell(taken);
  }

 private:
  store::Database* const database_;
};

gateway::Subject subject_of(const engine::Request& request) {
  return {.key = request.sender.key,
          .user = request.sender.user,
          .team = request.sender.team,
          .tenant = request.tenant,
          .tags = request.sender.tags};
}

class MeteringImpl final : public Metering {
 public:
  Status open(const MeteringOptions& options, store::Database* database, engine::Generator& inner, Admit admit) {
    gateway::LimitsConfig config = TRY(read_limits_of(options.limits));
    if (database != nullptr) TRY(store::migrate(*database, std::span(&store::usage_schema(), 1)));
    ledger_ = std::make_unique<Ledger>(database);
    // What was spent as the budgets are now, whenever it is asked.
    const auto spent = [config, database]() -> Result<std::vector<store::Spent>> {
      if (database == nullptr) return std::vector<store::Spent>();
      return gateway::budgets_spent(config, *database, store::machine_instant().utc_ms);
    };
    counters_ = TRY(open_counters(options.counters, spent));
    if (const auto restored = counters_->restore(TRY(spent())); !restored)
      log::warn("budgets_not_restored", {{"why", restored.error().message}});
    if (!options.budget_webhook.empty()) {
      client_ = TRY(net::HttpClient::create({.proxies = net::ProxyRules(net::proxy_settings_from_environment())}));
      webhook_.emplace(*client_, gateway::WebhookOptions{.url = options.budget_webhook});
    }
    limits_ = TRY(gateway::Limits::create(std::move(config), *counters_,
                                          {.on_alert = [this](const auto& alert) { tell(alert); }}));
    metered_.emplace(inner, *limits_, *ledger_,
                     gateway::MeteredOptions{.subject_of = subject_of, .admit = std::move(admit)});
    return {};
  }

  engine::Generator& generator() override { return *metered_; }

 private:
  static Result<std::unique_ptr<store::Counters>> open_counters(
      const std::string& url, std::function<Result<std::vector<store::Spent>>()> spent) {
    if (url.empty()) return store::memory_counters();
    const auto server = TRY(store::parse_redis_url(url));
    return store::with_fallback(TRY(store::redis_counters(server, {.ledger = std::move(spent)})));
  }

  void tell(const gateway::BudgetAlert& alert) {
    log::warn("budget_alert", {{"limit", alert.limit}, {"who", alert.who}, {"percent", alert.percent}});
    if (webhook_ && !webhook_->post(gateway::alert_json(alert))) log::warn("budget_webhook_full", {});
  }

  // Each outlives those after it.
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<store::Counters> counters_;
  std::unique_ptr<net::HttpClient> client_;
  std::optional<gateway::Webhook> webhook_;
  std::unique_ptr<gateway::Limits> limits_;
  std::optional<gateway::MeteredGenerator> metered_;
};

}  // namespace

Result<std::unique_ptr<Metering>> Metering::open(const MeteringOptions& options, store::Database* database,
                                                 engine::Generator& inner, Admit admit) {
  auto out = std::make_unique<MeteringImpl>();
  TRY(out->open(options, database, inner, std::move(admit)));
  return out;
}

Status check_limits(const std::string& limits) {
  TRY(read_limits_of(limits));
  return {};
}

}  // namespace ashlar::cli
