#include "cli/metering.h"

#include <fmt/format.h>

#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <utility>

#include "base/log.h"
#include "gateway/limits/accounts.h"
#include "gateway/limits/limits.h"
#include "gateway/limits/metered_generator.h"
#include "gateway/limits/metered_readers.h"
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

Result<gateway::LimitsConfig> read_limits_of(const std::string& limits) {
  if (auto profile = gateway::limits_profile(limits)) {
    gateway::LimitsConfig config;
    config.rules = std::move(*profile);
    gateway::sort_rules(config);
    return config;
  }
  const std::string text = TRY(gateway::read_config_text(limits));
  auto config = gateway::read_limits(text);
  if (config) return config;
  std::string faults, line;
  for (std::istringstream lines(config.error().message); std::getline(lines, line);)
    faults += fmt::format("{}{}: {}", faults.empty() ? "" : "\n", limits, line);
  return Error{config.error().code, std::move(faults)};
}

namespace {

// Where no state is kept, nobody accounts.
class NoLedger final : public gateway::UsageLedger {
 public:
  void record(const gateway::UsageRecord&) override {}
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
  Status open(const MeteringOptions& options, const MeteringState& state, const MeteredParts& inner) {
    config_ = TRY(read_limits_of(options.limits));
    store::Database* const database = state.database;
    if (database != nullptr) {
      TRY(store::migrate(*database, std::span(&store::usage_schema(), 1)));
      accounts_ = gateway::Accounts::open(*database, {.folder = state.folder});
    }
    // What was spent as the budgets are now, whenever it is asked.
    spent_ = [this, database]() -> Result<std::vector<store::Spent>> {
      if (database == nullptr) return std::vector<store::Spent>();
      return gateway::budgets_spent(config(), *database, store::machine_instant().utc_ms, accounts_->unwritten());
    };
    counters_ = TRY(open_counters(options.counters, spent_));
    if (accounts_) accounts_->settle_with(*counters_);
    TRY(restore());
    if (!options.budget_webhook.empty()) {
      client_ = TRY(net::HttpClient::create({.proxies = net::ProxyRules(net::proxy_settings_from_environment())}));
      webhook_.emplace(*client_, gateway::WebhookOptions{.url = options.budget_webhook});
    }
    limits_ = TRY(gateway::Limits::create(config(), *counters_,
                                          {.on_alert = [this](const auto& alert) { tell(alert); }}));
    gateway::UsageLedger& ledger = accounts_ ? static_cast<gateway::UsageLedger&>(*accounts_) : no_ledger_;
    metered_.emplace(inner.generator, *limits_, ledger,
                     gateway::MeteredOptions{.subject_of = subject_of, .admit = inner.admit});
    const gateway::ReadersMeter readers{.tokens = inner.generator, .limits = *limits_, .ledger = ledger};
    embedder_.emplace(inner.embedder, readers);
    if (inner.reranker != nullptr) reranker_.emplace(*inner.reranker, readers);
    return {};
  }

  engine::Generator& generator() override { return *metered_; }
  engine::Embedder& embedder() override { return *embedder_; }
  engine::Reranker* reranker() override { return reranker_ ? &*reranker_ : nullptr; }
  std::vector<std::string> troubles() const override {
    std::vector<std::string> all = accounts_ ? accounts_->troubles() : std::vector<std::string>();
    if (const auto health = counters_->health(); !health) all.push_back("the shared counts: " + health.error().message);
    return all;
  }

  Status apply(gateway::LimitsConfig config) override {
    TRY(limits_->apply(config));
    {
      const std::lock_guard lock(mutex_);
      config_ = std::move(config);
    }
    // A budget that is new begins where its window's rows of usage say that it stands.
    if (const Status done = restore(); !done) log::warn("budgets_not_restored", {{"why", done.error().message}});
    return {};
  }

 private:
  gateway::LimitsConfig config() const {
    const std::lock_guard lock(mutex_);
    return config_;
  }

  Status restore() {
    if (const auto restored = counters_->restore(TRY(spent_())); !restored)
      log::warn("budgets_not_restored", {{"why", restored.error().message}});
    return {};
  }

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
  mutable std::mutex mutex_;
  gateway::LimitsConfig config_;  // GUARDED_BY(mutex_)
  std::function<Result<std::vector<store::Spent>>()> spent_;
  NoLedger no_ledger_;
  std::unique_ptr<store::Counters> counters_;
  std::unique_ptr<gateway::Accounts> accounts_;  // null: no state is kept
  std::unique_ptr<net::HttpClient> client_;
  std::optional<gateway::Webhook> webhook_;
  std::unique_ptr<gateway::Limits> limits_;
  std::optional<gateway::MeteredGenerator> metered_;
  std::optional<gateway::MeteredEmbedder> embedder_;
  std::optional<gateway::MeteredReranker> reranker_;
};

}  // namespace

Result<std::unique_ptr<Metering>> Metering::open(const MeteringOptions& options, const MeteringState& state,
                                                 const MeteredParts& inner) {
  auto out = std::make_unique<MeteringImpl>();
  TRY(out->open(options, state, inner));
  return out;
}

}  // namespace ashlar::cli
