// The file of --identity: YAML or JSON to IdentityConfig.
#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/contains.h"
#include "base/nearest.h"
#include "gateway/identity/identity.h"
#include "gateway/identity/policy_rule.h"
#include "gateway/identity/read_policy.h"
#include "gateway/section.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostText = 1 << 20, kMostIssuers = 100, kMostCertificates = 10'000, kMostRoles = 1000;
constexpr Bytes kMostKeys = 256_KiB, kMostSecret = 4_KiB;

Result<std::vector<Jwk>> read_key_set(const std::string& path) {
  const std::string text = TRY(read_text_file(path, "key set", kMostKeys));
  auto keys = TRY(parse_jwks(text));
  if (keys.empty()) return Error{Code::invalid, fmt::format("{}: it holds no public key for signatures", path)};
  return keys;
}

Result<std::vector<Jwk>> read_shared_secret(const std::string& path) {
  std::string secret = TRY(read_text_file(path, "secret", kMostSecret));
  while (secret.ends_with('\n') || secret.ends_with('\r')) secret.pop_back();
  std::vector<Jwk> out;
  out.push_back(TRY(Jwk::of_secret(std::move(secret))));
  return out;
}

class IdentityReader {
 public:
  explicit IdentityReader(Section& section) : section_(section) {}

  void read(const YAML::Node& root) {
    const auto list = [&](const char* name, std::size_t most, auto one) {
      return [this, name, most, one](const YAML::Node& node) { section_.items(node, name, most, one); };
    };
    section_.each(root,
                  {{"issuers", list("issuers", kMostIssuers, [this](const YAML::Node& item) { issuer(item); })},
                   {"certificates",
                    list("certificates", kMostCertificates, [this](const YAML::Node& item) { certificate(item); })},
                   {"policy", [this](const YAML::Node& node) { config.policy = Policy(read_policy(section_, node)); }}},
                  "an identity file");
  }

  IdentityConfig config;
  std::vector<std::string> files;

 private:
  // A member of the map `node`, or the map itself where it has none of this name: where a fault is shown.
  static YAML::Node place(const YAML::Node& node, const std::string& member) {
    if (!node.IsMap() || member.empty()) return node;
    const YAML::Node found = node[member];
    return found.IsDefined() ? found : node;
  }

  Section::Read seconds(std::string name, std::chrono::seconds& out, std::chrono::seconds least) {
    return [this, name = std::move(name), &out, least](const YAML::Node& node) {
      std::chrono::milliseconds read = out;
      section_.duration(name, read)(node);
      if (read < least) section_.fail(node, fmt::format("'{}' should be {}s at least", name, least.count()));
      out = std::chrono::duration_cast<std::chrono::seconds>(read);
    };
  }

  std::optional<Role> role(const YAML::Node& node) {
    const auto read = parse_role(node.IsScalar() ? node.Scalar() : "");
    if (read) return *read;
    const auto known = names({Role::admin, Role::operator_, Role::auditor, Role::developer, Role::app});
    section_.fail(node, fmt::format("{}, not {}{}", read.error().message, shape_of(node),
                                    node.IsScalar() ? did_you_mean(node.Scalar(), known) : ""));
    return std::nullopt;
  }

  // One, or a list of some.
  Section::Read roles(std::string name, Roles& out) {
    return [this, name = std::move(name), &out](const YAML::Node& node) {
      out = {};
      const auto add = [&](const YAML::Node& item) {
        if (const auto one = role(item)) out.add(*one);
      };
      if (node.IsScalar()) return add(node);
      if (node.IsNull() || node.size() == 0) return section_.wrong(node, name, "a role, or a list of some");
      section_.items(node, name, kMostRoles, add);
    };
  }

  void issuer(const YAML::Node& node) {
    using std::chrono::seconds;
    IssuerOptions out;
    IssuerRules& rules = out.rules;
    std::string jwks_file, secret_file;
    section_.each(node,
                  {{"issuer", section_.text("issuer", rules.issuer)},
                   {"audience", section_.some_texts("audience", rules.audiences)},
                   {"jwks_url", section_.text("jwks_url", out.jwks_url)},
                   {"jwks_file", section_.text("jwks_file", jwks_file)},
                   {"secret_file", section_.text("secret_file", secret_file)},
                   {"algorithms", section_.some_texts("algorithms", rules.algorithms)},
                   {"tenant", section_.text("tenant", rules.tenant)},
                   {"tenants", section_.some_texts("tenants", rules.tenants)},
                   {"models", section_.some_texts("models", rules.models)},
                   {"skew", this->seconds("skew", rules.skew, seconds(0))},
                   {"allow_private", section_.flag("allow_private", out.allow_private)},
                   {"tls_ca", section_.text("tls_ca", out.tls_ca)},
                   {"refresh", this->seconds("refresh", out.refresh, seconds(1))},
                   {"min_interval", this->seconds("min_interval", out.min_interval, seconds(1))},
                   {"stale_for", this->seconds("stale_for", out.stale_for, seconds(0))},
                   {"claims", [&](const YAML::Node& map) { claims(map, rules.claims); }},
                   {"roles", [&](const YAML::Node& map) { role_names(map, rules); }},
                   {"default_roles", roles("default_roles", rules.default_roles)},
                   {"min_priority", section_.whole("min_priority", rules.min_priority, kMostUrgent, 0)},
                   {"priorities", [&](const YAML::Node& map) { priorities(map, rules); }}},
                  "an issuer");
    if (!node.IsMap()) return;
    if (rules.algorithms.empty() && !node["algorithms"].IsDefined())
      rules.algorithms = secret_file.empty() ? std::vector<std::string>{"RS256", "ES256", "EdDSA", "Ed25519"}
                                             : std::vector<std::string>{"HS256"};
    read_keys(node, jwks_file, secret_file, out);
    check(node, out);
    config.issuers.push_back(std::move(out));
  }

  void claims(const YAML::Node& node, ClaimPaths& out) {
    section_.each(node,
                  {{"user", section_.text("user", out.user)},
                   {"team", section_.text("team", out.team)},
                   {"tenant", section_.text("tenant", out.tenant)},
                   {"roles", section_.text("roles", out.roles)},
                   {"priority", section_.text("priority", out.priority)}},
                  "'claims'");
  }

  void priorities(const YAML::Node& node, IssuerRules& rules) {
    section_.pairs(node, "priorities", kMostRoles, [&](const std::string& theirs, const YAML::Node& ours) {
      int priority = 0;
      section_.whole("priorities", priority, kMostUrgent, 0)(ours);
      rules.priorities[theirs] = priority;
    });
  }

  void role_names(const YAML::Node& node, IssuerRules& rules) {
    section_.pairs(node, "roles", kMostRoles, [&](const std::string& theirs, const YAML::Node& ours) {
      if (const auto one = role(ours)) rules.role_names[theirs] = *one;
    });
  }

  void read_keys(const YAML::Node& node, const std::string& jwks_file, const std::string& secret_file,
                 IssuerOptions& out) {
    if ((!out.jwks_url.empty()) + (!jwks_file.empty()) + (!secret_file.empty()) > 1)
      return section_.fail(node, "'jwks_url', 'jwks_file' and 'secret_file' exclude one another: keep one");
    const auto take = [&](const char* member, Result<std::vector<Jwk>> keys) {
      if (keys)
        out.keys = std::move(*keys);
      else
        section_.fail(place(node, member), fmt::format("'{}': {}", member, keys.error().message));
    };
    for (const std::string& file : {jwks_file, secret_file})
      if (!file.empty()) files.push_back(file);
    if (!jwks_file.empty()) take("jwks_file", read_key_set(jwks_file));
    if (!secret_file.empty()) take("secret_file", read_shared_secret(secret_file));
  }

  void check(const YAML::Node& node, const IssuerOptions& out) {
    for (const IssuerFault& fault : check_issuer(out))
      if (!fault.absent || !node[fault.member].IsDefined())  // else it is told why nothing was read
        section_.fail(place(node, fault.member), fault.why);
    pair(node, "roles", !out.rules.role_names.empty(), "roles", !out.rules.claims.roles.empty());
    pair(node, "priorities", !out.rules.priorities.empty(), "priority", !out.rules.claims.priority.empty());
    if (!out.rules.tenant.empty())
      if (const Status good = check_tenant(out.rules.tenant, "'tenant'"); !good)
        section_.fail(place(node, "tenant"), good.error().message);
    const auto same = [&](const IssuerOptions& each) { return each.rules.issuer == out.rules.issuer; };
    if (!out.rules.issuer.empty() && std::ranges::any_of(config.issuers, same))
      section_.fail(place(node, "issuer"), fmt::format("the issuer '{}' stands twice", out.rules.issuer));
  }

  // What a claim's words mean here, and which claim: one is of no use without the other.
  void pair(const YAML::Node& node, const char* meaning, bool means, const char* claim, bool claims) {
    if (means == claims) return;
    section_.fail(place(node, means ? meaning : "claims"),
                  fmt::format("'{}' says what the words of a claim are here, and '{}' of 'claims' which claim that is: "
                              "write both, or neither",
                              meaning, claim));
  }

  void certificate(const YAML::Node& node) {
    CertificateRule out;
    section_.each(node,
                  {{"match", section_.text("match", out.match)},
                   {"tenant", section_.text("tenant", out.tenant)},
                   {"team", section_.text("team", out.team)},
                   {"user", section_.text("user", out.user)},
                   {"models", section_.some_texts("models", out.models)},
                   {"roles", roles("roles", out.roles)},
                   {"min_priority", section_.whole("min_priority", out.min_priority, kMostUrgent, 0)}},
                  "a rule for certificates");
    if (!node.IsMap()) return;
    if (!out.match.starts_with("URI:") && !out.match.starts_with("DNS:") && !out.match.starts_with("email:"))
      section_.fail(place(node, "match"),
                    "a rule for certificates needs a 'match', a pattern that begins with URI:, DNS: or email:");
    for (const auto& [member, text] : {std::pair("tenant", out.tenant), {"team", out.team}, {"user", out.user}}) {
      const bool filled = text.find("$1") != text.npos;
      const auto good = text.empty() || filled                 ? Status()
                        : std::string_view(member) == "tenant" ? check_tenant(text, "'tenant'")
                                                               : check_name(text, fmt::format("'{}'", member));
      if (!good) section_.fail(place(node, member), good.error().message);
      if (filled && out.match.find('*') == out.match.npos)
        section_.fail(place(node, member),
                      fmt::format("'{}' has $1, which stands for the first * of 'match': there is none", member));
    }
    config.certificates.push_back(std::move(out));
  }

  Section& section_;
};

}  // namespace

Result<IdentityConfig> parse_identity_config(const std::string& text, const std::string& path,
                                             std::vector<std::string>* beside) {
  if (text.size() > kMostText) return Error{Code::too_large, fmt::format("{}: it is larger than 1 MiB", path)};
  IdentityConfig out;
  TRY(read_whole(text, path, [&](Section& section, const YAML::Node& root) {
    IdentityReader reader(section);
    reader.read(root);
    out = std::move(reader.config);
    if (beside != nullptr) *beside = std::move(reader.files);
  }));
  return out;
}

}  // namespace ashlar::gateway
