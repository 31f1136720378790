#include "gateway/identity/identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <span>
#include <utility>

#include "gateway/identity/api_key.h"

namespace ashlar::gateway {
namespace {

// "$1" in `text` becomes `star`.
std::string filled(std::string_view text, std::string_view star) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const auto next = std::min(text.find("$1", at), text.size());
    out.append(text.substr(at, next - at));
    if (next < text.size()) out.append(star);
    at = next + 2;
  }
  return out;
}

std::string certificate_id(std::string_view name) {
  const KeyHash hash = hash_key(name);
  return fmt::format("mtls_{:02x}", fmt::join(std::span(hash).first(8), ""));
}

Result<Who> with_team(const KeyRing* keys, Result<Who> who) {
  if (!who || keys == nullptr) return who;
  return keys->with_team(std::move(*who));
}

}  // namespace

Result<Who> identify_certificate(const std::vector<CertificateRule>& rules, const std::vector<std::string>& names) {
  const Error refused{Code::unauthorized, "the client's certificate stands for nobody who may use this server"};
  for (const CertificateRule& rule : rules)
    for (const std::string& name : names) {
      std::string star;
      if (!matches_pattern(rule.match, name, &star) || !check_name(name, "its name")) continue;
      Principal who{.key_id = certificate_id(name),
                    .name = name,
                    .user = filled(rule.user, star),
                    .team = filled(rule.team, star),
                    .tenant = filled(rule.tenant, star),
                    .roles = rule.roles,
                    .models = rule.models,
                    .min_priority = rule.min_priority,
                    .proof = Proof::mtls};
      if (who.tenant.empty())
        who.tenant = who.key_id;
      else if (!check_tenant(who.tenant, "its tenant"))
        return refused;
      return std::make_shared<const Principal>(std::move(who));
    }
  return refused;
}

struct Identity::Rules {
  std::vector<CertificateRule> certificates;
  Policy policy;
  // Requests that wait for its issuers, whose threads may not be the last to hold this.
  mutable std::atomic<int> waiting = 0;
  std::unique_ptr<Issuers> issuers;  // null: none. First to die
};

namespace {

Result<std::shared_ptr<Identity::Rules>> make_rules(IdentityConfig config, const IssuerClocks& clocks) {
  auto rules = std::make_shared<Identity::Rules>();
  rules->certificates = std::move(config.certificates);
  rules->policy = std::move(config.policy);
  if (!config.issuers.empty()) rules->issuers = TRY(Issuers::create(std::move(config.issuers), clocks));
  return rules;
}

}  // namespace

Identity::Identity(std::shared_ptr<Rules> rules, KeyRing* keys, IssuerClocks clocks)
    : keys_(keys), clocks_(std::move(clocks)), rules_(std::move(rules)) {
  if (rules_->issuers != nullptr) rules_->issuers->start_fetching();
}

Identity::~Identity() = default;

Result<std::unique_ptr<Identity>> Identity::create(IdentityConfig config, KeyRing* keys, IssuerClocks clocks) {
  auto rules = TRY(make_rules(std::move(config), clocks));
  return std::unique_ptr<Identity>(new Identity(std::move(rules), keys, std::move(clocks)));
}

Result<std::shared_ptr<Identity::Rules>> Identity::prepare(IdentityConfig config) const {
  return make_rules(std::move(config), clocks_);
}

void Identity::set(std::shared_ptr<Rules> rules) {
  if (rules->issuers != nullptr) rules->issuers->start_fetching();
  const std::lock_guard lock(mutex_);
  retired_.push_back(std::exchange(rules_, std::move(rules)));
}

void Identity::turn() {
  std::vector<std::shared_ptr<Rules>> ended;  // after the lock: their threads are waited for
  const std::lock_guard lock(mutex_);
  std::erase_if(retired_, [&](std::shared_ptr<Rules>& each) {
    const bool over = each.use_count() == 1 && each->waiting == 0;
    if (over) ended.push_back(std::move(each));
    return over;
  });
}

std::shared_ptr<const Identity::Rules> Identity::rules() const {
  const std::lock_guard lock(mutex_);
  return rules_;
}

bool Identity::required() const { return required(*rules()); }

bool Identity::required(const Rules& rules) const {
  return rules.issuers != nullptr || !rules.certificates.empty() || (keys_ != nullptr && keys_->used());
}

Decision Identity::decide(const Principal& who, const Action& action) const {
  return rules()->policy.decide(who, action);
}

void Identity::identify(std::string_view credential, const net::HttpRequest& request, Identified done) const {
  const auto rules = this->rules();
  if (credential.empty()) {
    if (!rules->certificates.empty() && request.peer_names != nullptr)
      return done(with_team(keys_, identify_certificate(rules->certificates, *request.peer_names)));
    return done(Error{Code::unauthorized,
                      "this server needs an API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"});
  }
  if (rules->issuers != nullptr && looks_like_token(credential)) {
    ++rules->waiting;
    return rules->issuers->verify(
        std::string(credential), [rules = rules.get(), keys = keys_, done = std::move(done)](Result<Principal> who) {
          if (who)
            done(with_team(keys, std::make_shared<const Principal>(std::move(*who))));
          else
            done(std::unexpected(std::move(who).error()));
          --rules->waiting;
        });
  }
  if (keys_ == nullptr) return done(Error{Code::unauthorized, "the API key is not valid"});
  done(keys_->find(credential, address_of_peer(request.peer)));
}

std::vector<std::string> Identity::troubles() const {
  const auto rules = this->rules();
  std::vector<std::string> out;
  if (rules->issuers != nullptr) out = rules->issuers->troubles();
  if (keys_ != nullptr)
    if (std::string trouble = keys_->trouble(); !trouble.empty()) out.push_back(std::move(trouble));
  return out;
}

}  // namespace ashlar::gateway
