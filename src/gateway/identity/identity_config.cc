// The file of --identity: YAML or JSON to IdentityConfig.
#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "base/duration.h"
#include "base/json_full.h"
#include "gateway/identity/identity.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMaxFile = 1 << 20, kMaxNodes = 100'000, kMaxKeyFile = 256 << 10;
constexpr int kMaxDepth = 32;

// YAML as JSON. An alias stands for a copy, so that the number of nodes is bounded rather than the text alone.
struct YamlReader {
  std::size_t nodes = 0;

  Result<Json> read(const YAML::Node& node, int depth = 0) {
    const auto bad = [&](std::string_view why) {
      return Error{Code::invalid, fmt::format("line {}: {}", node.Mark().line + 1, why)};
    };
    if (++nodes > kMaxNodes || depth > kMaxDepth) return bad("too many or too deeply nested values");
    if (node.IsSequence()) {
      Json out = Json::array();
      for (const auto& each : node) out.push_back(TRY(read(each, depth + 1)));
      return out;
    }
    if (node.IsMap()) {
      std::set<std::string> seen;
      Json out = Json::object();
      for (const auto& each : node) {
        if (!each.first.IsScalar()) return bad("a name is no plain text");
        if (!seen.insert(each.first.Scalar()).second) return bad(fmt::format("'{}' stands twice", each.first.Scalar()));
        out[each.first.Scalar()] = TRY(read(each.second, depth + 1));
      }
      return out;
    }
    if (!node.IsScalar()) return Json();
    const std::string& text = node.Scalar();
    if (node.Tag() == "!") return Json(text);  // in quotes
    if (text == "true" || text == "false") return Json(text == "true");
    if (text == "null" || text == "~") return Json();
    std::int64_t number = 0;
    if (YAML::convert<std::int64_t>::decode(node, number)) return Json(number);
    return Json(text);
  }
};

// An object whose members are taken one after another; what nobody took is a slip of the writer.
class Section {
 public:
  Section(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) fail("is an object");
  }

  const Json* take(const std::string& name) {
    taken_.insert(name);
    if (!json_.is_object()) return nullptr;
    const auto found = json_.find(name);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  std::string text(const std::string& name, std::string otherwise = "") {
    const Json* found = take(name);
    if (found == nullptr) return otherwise;
    if (!found->is_string()) {
      fail(name + " is a text");
      return otherwise;
    }
    return found->get<std::string>();
  }
  // One text, or a list of them.
  std::vector<std::string> texts(const std::string& name, std::vector<std::string> otherwise = {}) {
    const Json* found = take(name);
    if (found == nullptr) return otherwise;
    std::vector<std::string> out;
    if (found->is_string()) out.push_back(found->get<std::string>());
    if (found->is_array())
      for (const Json& each : *found)
        if (each.is_string()) out.push_back(each.get<std::string>());
    if (out.empty() || (found->is_array() && out.size() != found->size())) fail(name + " is a text or a list of texts");
    return out;
  }
  bool flag(const std::string& name) {
    const Json* found = take(name);
    if (found != nullptr && !found->is_boolean()) fail(name + " is true or false");
    return found != nullptr && *found == true;
  }
  std::chrono::seconds time(const std::string& name, std::chrono::seconds otherwise) {
    const Json* found = take(name);
    if (found == nullptr) return otherwise;
    const auto parsed = found->is_number_integer()
                            ? Result<std::chrono::milliseconds>(std::chrono::seconds(
                                  std::clamp<std::int64_t>(found->get<std::int64_t>(), -1, 1 << 30)))
                        : found->is_string() ? parse_duration(found->get<std::string>())
                                             : Error{Code::invalid, ""};
    if (!parsed || parsed->count() < 0) {
      fail(name + " is a time such as 30s, 5m or 24h");
      return otherwise;
    }
    return std::chrono::duration_cast<std::chrono::seconds>(*parsed);
  }
  void fail(std::string_view what) {
    if (status_) status_ = Error{Code::invalid, fmt::format("{}: {}", where_, what)};
  }
  Status done() {
    if (json_.is_object())
      for (const auto& [name, value] : json_.items())
        if (!taken_.contains(name)) fail(fmt::format("there is no '{}' here", name));
    return status_;
  }

 private:
  const Json& json_;
  const std::string where_;
  std::set<std::string> taken_;
  Status status_;
};

Result<std::string> read_file(const std::string& path, std::size_t most) {
  std::ifstream in(path, std::ios::binary);
  if (!in || std::filesystem::is_directory(path))
    return Error{Code::not_found, fmt::format("'{}' cannot be read", path)};
  std::string text(most + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  if (text.size() > most) return Error{Code::too_large, fmt::format("'{}' is larger than {} bytes", path, most)};
  return text;
}

Result<std::vector<Jwk>> read_keys(const std::string& jwks_file, const std::string& secret_file) {
  if (!jwks_file.empty()) {
    const std::string text = TRY(read_file(jwks_file, kMaxKeyFile));
    auto keys = TRY(parse_jwks(text));
    if (keys.empty()) return Error{Code::invalid, fmt::format("'{}' holds no public key for signatures", jwks_file)};
    return keys;
  }
  std::string secret = TRY(read_file(secret_file, 4096));
  while (secret.ends_with('\n') || secret.ends_with('\r')) secret.pop_back();
  std::vector<Jwk> out;
  out.push_back(TRY(Jwk::of_secret(std::move(secret))));
  return out;
}

Result<IssuerOptions> read_issuer(const Json& json, const std::string& where) {
  Section section(json, where);
  IssuerOptions out;
  IssuerRules& rules = out.rules;
  rules.issuer = section.text("issuer");
  rules.audiences = section.texts("audience");
  out.jwks_url = section.text("jwks_url");
  const std::string jwks_file = section.text("jwks_file"), secret_file = section.text("secret_file");
  const std::vector<std::string> usual = secret_file.empty()
                                             ? std::vector<std::string>{"RS256", "ES256", "EdDSA", "Ed25519"}
                                             : std::vector<std::string>{"HS256"};
  rules.algorithms = section.texts("algorithms", usual);
  rules.tenant = section.text("tenant");
  rules.tenants = section.texts("tenants");
  rules.models = section.texts("models");
  rules.skew = section.time("skew", rules.skew);
  out.allow_private = section.flag("allow_private");
  out.tls_ca = section.text("tls_ca");
  out.refresh = std::max(section.time("refresh", out.refresh), std::chrono::seconds(1));
  out.min_interval = std::max(section.time("min_interval", out.min_interval), std::chrono::seconds(1));
  out.stale_for = section.time("stale_for", out.stale_for);
  if (const Json* claims = section.take("claims")) {
    Section inner(*claims, where + ".claims");
    rules.claims.user = inner.text("user", rules.claims.user);
    rules.claims.team = inner.text("team");
    rules.claims.tenant = inner.text("tenant");
    rules.claims.roles = inner.text("roles");
    TRY(inner.done());
  }
  if (const Json* roles = section.take("roles")) {
    Section inner(*roles, where + ".roles");
    if (roles->is_object())
      for (const auto& [theirs, ours] : roles->items()) {
        const auto role = parse_role(inner.text(theirs));
        if (!role)
          inner.fail(fmt::format("{}: {}", theirs, role.error().message));
        else
          rules.role_names[theirs] = *role;
      }
    TRY(inner.done());
  }
  if (section.take("default_roles") != nullptr) {
    const auto roles = parse_roles(section.texts("default_roles"));
    if (!roles)
      section.fail("default_roles: " + roles.error().message);
    else
      rules.default_roles = *roles;
  }
  if (!rules.tenant.empty())
    if (const auto good = check_tenant(rules.tenant, "tenant"); !good) section.fail(good.error().message);
  if ((!out.jwks_url.empty()) + (!jwks_file.empty()) + (!secret_file.empty()) > 1)
    section.fail("jwks_url, jwks_file and secret_file exclude one another");
  TRY(section.done());
  if (!jwks_file.empty() || !secret_file.empty()) {
    auto keys = read_keys(jwks_file, secret_file);
    if (!keys) return Error{keys.error().code, fmt::format("{}: {}", where, keys.error().message)};
    out.keys = std::move(*keys);
  }
  return out;
}

Result<CertificateRule> read_certificate(const Json& json, const std::string& where) {
  Section section(json, where);
  CertificateRule out;
  out.match = section.text("match");
  out.tenant = section.text("tenant");
  out.team = section.text("team");
  out.user = section.text("user");
  out.models = section.texts("models");
  const auto roles = parse_roles(section.texts("roles", {"app"}));
  if (!roles)
    section.fail("roles: " + roles.error().message);
  else
    out.roles = *roles;
  const bool kind = out.match.starts_with("URI:") || out.match.starts_with("DNS:") || out.match.starts_with("email:");
  if (!kind) section.fail("match is a pattern that begins with URI:, DNS: or email:");
  TRY(section.done());
  return out;
}

}  // namespace

Result<IdentityConfig> parse_identity_config(const std::string& text) {
  if (text.size() > kMaxFile) return Error{Code::too_large, "it is larger than 1 MiB"};
  Json root;
  try {
    YamlReader reader;
    root = TRY(reader.read(YAML::Load(text)));
  } catch (const YAML::Exception& e) {
    return Error{Code::invalid, fmt::format("line {}: {}", e.mark.line + 1, e.msg)};
  }
  if (root.is_null()) root = Json::object();
  Section section(root, "identity");
  IdentityConfig out;
  const auto list = [&](const char* name) {
    const Json* found = section.take(name);
    if (found != nullptr && !found->is_array()) section.fail(std::string(name) + " is a list");
    return found != nullptr && found->is_array() ? *found : Json::array();
  };
  const Json issuers = list("issuers"), certificates = list("certificates"), policy = list("policy");
  TRY(section.done());
  for (std::size_t i = 0; i < issuers.size(); ++i)
    out.issuers.push_back(TRY(read_issuer(issuers[i], fmt::format("issuers[{}]", i))));
  for (std::size_t i = 0; i < certificates.size(); ++i)
    out.certificates.push_back(TRY(read_certificate(certificates[i], fmt::format("certificates[{}]", i))));
  out.policy = TRY(Policy::parse(policy));
  return out;
}

Result<IdentityConfig> read_identity_config(const std::string& path) {
  const std::string text = TRY(read_file(path, kMaxFile));
  auto config = parse_identity_config(text);
  if (!config) return Error{config.error().code, fmt::format("{}: {}", path, config.error().message)};
  return config;
}

}  // namespace ashlar::gateway
