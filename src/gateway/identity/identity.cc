#include "gateway/identity/identity.h"

#include <fmt/format.h>

#include <algorithm>
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
                    .proof = Proof::mtls};
      if (who.tenant.empty())
        who.tenant = who.key_id;
      else if (!check_tenant(who.tenant, "its tenant"))
        return refused;
      return std::make_shared<const Principal>(std::move(who));
    }
  return refused;
}

Result<std::unique_ptr<Identity>> Identity::create(IdentityConfig config, KeyRing* keys, IssuerClocks clocks) {
  std::unique_ptr<Issuers> issuers;
  if (!config.issuers.empty()) {
    issuers = TRY(Issuers::create(std::move(config.issuers), clocks));
    issuers->start_fetching();
  }
  return std::unique_ptr<Identity>(new Identity(std::move(config.certificates), std::move(config.policy),
                                                std::move(issuers), keys, std::move(clocks)));
}

bool Identity::required() const {
  return issuers_ != nullptr || !certificates_.empty() || (keys_ != nullptr && keys_->used());
}

void Identity::identify(std::string_view credential, const net::HttpRequest& request, Identified done) const {
  if (credential.empty()) {
    if (!certificates_.empty() && request.peer_names != nullptr)
      return done(with_team(keys_, identify_certificate(certificates_, *request.peer_names)));
    return done(Error{Code::unauthorized,
                      "this server needs an API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"});
  }
  if (issuers_ != nullptr && looks_like_token(credential))
    return issuers_->verify(std::string(credential), [keys = keys_, done = std::move(done)](Result<Principal> who) {
      if (!who) return done(std::unexpected(std::move(who).error()));
      done(with_team(keys, std::make_shared<const Principal>(std::move(*who))));
    });
  if (keys_ == nullptr) return done(Error{Code::unauthorized, "the API key is not valid"});
  done(keys_->find(credential, address_of_peer(request.peer)));
}

std::vector<std::string> Identity::troubles() const {
  std::vector<std::string> out;
  if (issuers_ != nullptr) out = issuers_->troubles();
  if (keys_ != nullptr)
    if (std::string trouble = keys_->trouble(); !trouble.empty()) out.push_back(std::move(trouble));
  return out;
}

}  // namespace ashlar::gateway
