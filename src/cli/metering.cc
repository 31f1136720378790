#include "cli/metering.h"

#include <fmt/format.h>

#include <chrono>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "base/log.h"
#include "gateway/limits/accounts.h"
#include "gateway/limits/limits.h"
#include "gateway/limits/metered_generator.h"
#include "gateway/limits/metered_readers.h"
#include "gateway/limits/past.h"
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
  return gateway::read_limits(text, limits);
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
  ~MeteringImpl() override {
    if (budgets_) budgets_->end();  // before what it changes
  }

  Status open(const MeteringOptions& options, const MeteringState& state, const MeteredParts& inner,
              gateway::EventLog* events) {
    events_ = events;
    store::Database* const database = state.database;
    auto limits = TRY(read_limits_of(options.limits));
    budgets_ = TRY(KeptBudgets::open(database, std::move(limits)));
    if (database != nullptr) {
      TRY(store::migrate(*database, std::span(&store::usage_schema(), 1)));
      accounts_ = gateway::Accounts::open(*database, {.folder = state.folder});
    }
    // What was spent as the budgets are now, whenever it is asked.
    const auto spent = [this, database]() -> Result<std::vector<store::Spent>> {
      return spent_of(database, budgets_->all());
    };
    counters_ = TRY(open_counters(options, spent));
    if (accounts_) accounts_->settle_with(*counters_);
    if (const auto restored = counters_->restore(TRY(spent())); !restored)
      log::warn("budgets_not_restored", {{"why", restored.error().message}});
    if (database != nullptr && options.counters.empty()) replay(*database);
    if (!options.budget_webhook.empty()) {
      client_ = TRY(net::HttpClient::create({.proxies = net::ProxyRules(net::proxy_settings_from_environment())}));
      webhook_.emplace(*client_, gateway::WebhookOptions{.url = options.budget_webhook});
    }
    limits_ = TRY(
        gateway::Limits::create(budgets_->all(), *counters_, {.on_alert = [this](const auto& alert) { tell(alert); }}));
    gateway::UsageLedger& ledger = accounts_ ? static_cast<gateway::UsageLedger&>(*accounts_) : no_ledger_;
    metered_.emplace(inner.generator, *limits_, ledger,
                     gateway::MeteredOptions{.subject_of = subject_of, .admit = inner.admit, .instead = inner.instead});
    const gateway::ReadersMeter readers{.tokens = inner.generator, .limits = *limits_, .ledger = ledger};
    embedder_.emplace(inner.embedder, readers);
    if (inner.reranker != nullptr) reranker_.emplace(*inner.reranker, readers);
    budgets_->begin([this, database](const gateway::LimitsConfig& all) {
      return limits_->apply(all, [&](const auto& fresh, std::int64_t before_ms, const auto& running) {
        return spent_without(database, fresh, before_ms, running);
      });
    });
    warn_of_aliases(budgets_->all());
    watch_.emplace(std::chrono::milliseconds(250), [this] { look(); });
    return {};
  }

  engine::Generator& generator() override { return *metered_; }
  engine::Embedder& embedder() override { return *embedder_; }
  engine::Reranker* reranker() override { return reranker_ ? &*reranker_ : nullptr; }
  net::Headers rates(const gateway::Subject& who) override {
    const auto numbers = limits_->numbers(who, "");
    return numbers ? gateway::rate_headers(*numbers) : net::Headers();
  }
  std::vector<std::string> troubles() const override {
    std::vector<std::string> all = accounts_ ? accounts_->troubles() : std::vector<std::string>();
    if (const auto health = counters_->health(); !health) all.push_back("the shared counts: " + health.error().message);
    return all;
  }
  Status apply(gateway::LimitsConfig config) override {
    warn_of_aliases(config);
    return budgets_->set_file(std::move(config));
  }
  KeptBudgets& budgets() override { return *budgets_; }
  Result<Json> standings() override { return budgets_->standings(*counters_); }

 private:
  // By the rows that are written and those that wait, each once: what was written while the rows were summed may be in
  // the sum, so they are summed again without it.
  Result<std::vector<store::Spent>> spent_of(store::Database* database, const gateway::LimitsConfig& config) const {
    if (database == nullptr) return std::vector<store::Spent>();
    std::vector<gateway::UsageRecord> waiting = TRY(accounts_->unwritten());
    while (true) {
      auto spent = TRY(gateway::budgets_spent(config, *database, store::machine_instant().utc_ms, {.unwritten = waiting}));
      std::set<std::string> left;
      for (const gateway::UsageRecord& each : TRY(accounts_->unwritten())) left.insert(each.reservation);
      if (std::erase_if(waiting, [&](const auto& each) { return !left.contains(each.reservation); }) == 0) return spent;
    }
  }

  // What is asked for by an alias counts as what that stands for, so a rule that names the alias holds for nobody.
  void warn_of_aliases(const gateway::LimitsConfig& config) const {
    const auto look = [&](const std::string& limit, const std::string& model) {
      const auto card = model.empty() ? std::nullopt : metered_->card(model);
      if (card && !card->alias_of.empty())
        log::warn("limit_names_an_alias", {{"limit", limit}, {"alias", model}, {"name_this", card->alias_of}});
    };
    for (const gateway::Rule& rule : config.rules) {
      look(rule.name, rule.model);
      if (rule.scope == gateway::LimitScope::model) look(rule.name, rule.who);
    }
  }

  // Rates go on where they were, if they are counted here.
  void replay(store::Database& database) {
    const auto done = [&]() -> Status {
      const auto waiting = TRY(accounts_->unwritten());
      return counters_->replay(
          TRY(gateway::rates_used(budgets_->all(), database, store::machine_instant().utc_ms, waiting)));
    }();
    if (!done) log::warn("rates_not_restored", {{"why", done.error().message}});
  }

  // As Limits::Ledger.
  Result<std::vector<store::Spent>> spent_without(store::Database* database, const gateway::LimitsConfig& fresh,
                                                  std::int64_t before_ms,
                                                  const std::function<std::vector<std::string>()>& running) const {
    if (database == nullptr) return std::vector<store::Spent>();
    std::vector<gateway::UsageRecord> waiting = TRY(accounts_->unwritten());
    std::vector<std::string> except = running();
    const std::set<std::string> known(except.begin(), except.end());
    std::erase_if(waiting, [&](const auto& each) { return known.contains(each.reservation); });
    for (const gateway::UsageRecord& each : waiting) except.push_back(each.reservation);
    return gateway::budgets_spent(fresh, *database, store::machine_instant().utc_ms,
                                  {.unwritten = waiting, .except = std::move(except), .until_ms = before_ms});
  }

  static Result<std::unique_ptr<store::Counters>> open_counters(
      const MeteringOptions& options, std::function<Result<std::vector<store::Spent>>()> spent) {
    const bool files = !(options.counters_ca + options.counters_cert + options.counters_key).empty();
    auto server = options.counters.empty() ? store::RedisOptions() : TRY(store::parse_redis_url(options.counters));
    if (files && !server.tls)
      return Error{Code::invalid, "--counters-ca, --counters-cert and --counters-key are for --counters rediss://..."};
    if (options.counters_cert.empty() != options.counters_key.empty())
      return Error{Code::invalid, "--counters-cert and --counters-key belong together"};
    if (options.counters.empty()) return store::memory_counters();
    server.tls_ca = options.counters_ca;
    server.tls_cert = options.counters_cert;
    server.tls_key = options.counters_key;
    return store::with_fallback(TRY(store::redis_counters(server, {.ledger = std::move(spent)})));
  }

  void tell(const gateway::BudgetAlert& alert) {
    write(
        {.kind = "budget.alert",
         .subject = alert.who,
         .severity = gateway::Severity::warning,
         .message = fmt::format("{} percent of the budget '{}' of {} are spent", alert.percent, alert.limit, alert.who),
         .details = {{"limit", alert.limit},
                     {"percent", alert.percent},
                     {"used_nano_usd", alert.used},
                     {"capacity_nano_usd", alert.capacity}}});
    if (webhook_ && !webhook_->post(gateway::alert_json(alert))) log::warn("budget_webhook_full", {});
  }

  // Whether the counters can be reached; and that we live is said.
  void look() {
    if (const auto now = std::chrono::steady_clock::now(); now >= tend_at_) {
      counters_->tend();
      tend_at_ = now + kTend;
    }
    const Status health = counters_->health();
    if (health.has_value() == reached_) return;
    reached_ = health.has_value();
    if (reached_)
      write({.kind = "counters.back", .subject = "counters", .message = "the shared counters can be reached again"});
    else
      write(
          {.kind = "counters.unavailable",
           .subject = "counters",
           .severity = gateway::Severity::error,
           .message = fmt::format("the shared counters cannot be reached ({}): rates are counted here alone, and what "
                                  "costs money under a budget is refused",
                                  health.error().message)});
  }

  void write(gateway::OperatorEvent event) {
    if (events_ != nullptr) events_->write(std::move(event));
  }

  static constexpr std::chrono::seconds kTend{10};  // well within the lease of who is taken for dead
  gateway::EventLog* events_ = nullptr;
  // The watch's thread only:
  bool reached_ = true;
  std::chrono::steady_clock::time_point tend_at_{};

  // Each outlives those after it.
  std::unique_ptr<KeptBudgets> budgets_;
  NoLedger no_ledger_;
  std::unique_ptr<store::Counters> counters_;
  std::unique_ptr<gateway::Accounts> accounts_;  // null: no state is kept
  std::unique_ptr<net::HttpClient> client_;
  std::optional<gateway::Webhook> webhook_;
  std::unique_ptr<gateway::Limits> limits_;
  std::optional<gateway::MeteredGenerator> metered_;
  std::optional<gateway::MeteredEmbedder> embedder_;
  std::optional<gateway::MeteredReranker> reranker_;
  std::optional<Watch> watch_;
};

}  // namespace

Result<std::unique_ptr<Metering>> Metering::open(const MeteringOptions& options, const MeteringState& state,
                                                 const MeteredParts& inner, gateway::EventLog* events) {
  auto out = std::make_unique<MeteringImpl>();
  TRY(out->open(options, state, inner, events));
  return out;
}

}  // namespace ashlar::cli
