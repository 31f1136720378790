#include "gateway/identity/jwt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json_full.h"
#include "gateway/identity/fakes_for_test.h"
#include "gateway/identity/vectors_for_test.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kNow = 1'700'000'000;

IssuerRules rules(std::vector<std::string> algorithms = {"RS256", "PS256", "ES256", "EdDSA", "Ed25519"}) {
  IssuerRules out;
  out.issuer = "https://login.example";
  out.audiences = {"ashlar"};
  out.algorithms = std::move(algorithms);
  return out;
}

Json claims(Json more = Json::object()) {
  Json out = {{"iss", "https://login.example"}, {"aud", "ashlar"}, {"sub", "ann"}, {"exp", kNow + 300}};
  if (more.is_object()) out.update(more);
  return out;
}

Result<Principal> judge(const std::string& token, const std::vector<Jwk>& keys, const IssuerRules& by,
                        std::int64_t now = kNow) {
  const Jws jws = TRY(parse_jws(token));
  TRY(check_signature(jws, keys, by));
  return check_claims(jws, by, now);
}

const Signer& signer() {
  static const Signer one("ES256");
  return one;
}
const std::vector<Jwk>& keys() {
  static const auto set = *parse_jwks(signer().jwks());
  return set;
}
std::string refusal(const Json& of, const IssuerRules& by = rules(), std::int64_t now = kNow) {
  const auto who = judge(signer().token(of), keys(), by, now);
  return who ? "accepted" : who.error().message;
}

TEST(Base64Url, RoundTripsAndIsStrict) {
  for (const std::string& text :
       {std::string(), std::string("f"), std::string("fo"), std::string("foo"), std::string("\xff\xfe\0\x01", 4)})
    EXPECT_EQ(decode_base64url(encode_base64url(text)).value(), text);
  EXPECT_EQ(encode_base64url("\xfb\xff"), "-_8");
  for (const char* wrong : {"Zg==", "Zh", "A", "+/", "Z g", "Zm9vA", "Zm9\n"})
    EXPECT_FALSE(decode_base64url(wrong)) << wrong;
}

TEST(Jws, ReadsThePublishedExamples) {
  for (const Vector& vector : kVectors) {
    const auto jws = parse_jws(vector.token);
    ASSERT_TRUE(jws) << vector.name << ": " << jws.error().message;
    EXPECT_EQ(jws->algorithm, vector.algorithm);
    const Algorithm* algorithm = find_algorithm(vector.algorithm);
    ASSERT_NE(algorithm, nullptr);
    Result<Jwk> key = Error{Code::internal, ""};
    if (algorithm->kind == Algorithm::Kind::hmac) {
      key = Jwk::of_secret(*decode_base64url(vector.key));
    } else {
      auto set = parse_jwks(R"({"keys":[)" + std::string(vector.key) + "]}");
      ASSERT_TRUE(set && set->size() == 1) << vector.name;
      key = set->front();
    }
    ASSERT_TRUE(key) << vector.name;
    EXPECT_TRUE(key->verifies(*algorithm, jws->signed_part, jws->signature)) << vector.name;
    for (std::size_t at : {std::size_t{0}, jws->signature.size() / 2, jws->signature.size() - 1}) {
      std::string broken = jws->signature;
      broken[at] ^= 1;
      EXPECT_FALSE(key->verifies(*algorithm, jws->signed_part, broken)) << vector.name;
    }
    EXPECT_FALSE(key->verifies(*algorithm, std::string(jws->signed_part) + "x", jws->signature)) << vector.name;
    EXPECT_FALSE(key->verifies(*algorithm, jws->signed_part, "")) << vector.name;
    EXPECT_FALSE(key->verifies(*algorithm, jws->signed_part, jws->signature + '\0')) << vector.name;
  }
}

TEST(Jws, RefusesWhatIsNoSignedToken) {
  const std::string good = signer().token(claims());
  const auto part = [&](const std::string& header) { return encode_base64url(header) + ".e30.AAAA"; };
  EXPECT_TRUE(parse_jws(good));
  for (const std::string& wrong : {std::string(),
                                   std::string("."),
                                   std::string(".."),
                                   good + ".",
                                   "." + good,
                                   good.substr(0, good.rfind('.')),
                                   good + "=",
                                   good.substr(0, good.rfind('.') + 1),
                                   good + " ",
                                   part("[]"),
                                   part("{"),
                                   part(R"({"alg":1})"),
                                   part(R"({"alg":"RS256","alg":"none"})"),
                                   part(R"({"alg":"ES256","crit":["b64"],"b64":false})"),
                                   part(R"({"alg":"ES256","crit":[]})"),
                                   part(R"({"alg":"ES256","zip":"DEF"})"),
                                   part(R"({"alg":"ES256","cty":"JWT"})"),
                                   part(R"({"alg":"ES256","kid":{"a":1}})"),
                                   part("{\"alg\":\"ES256\",\"kid\":\"a\\u000ab\"}"),
                                   part(R"({"alg":"ES256","kid":")" + std::string(300, 'k') + "\"}"),
                                   std::string(kMaxToken + 1, 'a')})
    EXPECT_FALSE(parse_jws(wrong)) << wrong;
}

TEST(Jwt, IsTakenUnderEveryAlgorithm) {
  for (const char* algorithm : {"RS256", "PS256", "ES256", "EdDSA", "Ed25519"}) {
    const Signer one(algorithm), other(algorithm);
    const auto set = *parse_jwks(one.jwks());
    const auto who = judge(one.token(claims()), set, rules());
    ASSERT_TRUE(who) << algorithm << who.error().message;
    EXPECT_EQ(who->user, "ann");
    EXPECT_EQ(who->proof, Proof::jwt);
    EXPECT_FALSE(judge(other.token(claims()), set, rules())) << algorithm;
    EXPECT_FALSE(judge(one.token(claims()), set, rules({"HS256"}))) << "the algorithm is pinned";
  }
}

TEST(Jwt, AlgorithmsCannotBeConfused) {
  const Signer rsa("RS256");
  const auto set = *parse_jwks(rsa.jwks());
  const std::string body = dump_json(claims());
  const Json key = Json::parse(rsa.jwk());
  // The public key, in any of its forms, as the secret of an HMAC.
  for (const std::string& secret :
       {rsa.jwk(), key["n"].get<std::string>(), *decode_base64url(key["n"].get<std::string>())})
    for (const auto& pinned : {rules(), rules({"RS256", "HS256"})})
      EXPECT_FALSE(judge(hmac_token(secret, R"({"alg":"HS256","kid":"one"})", body), set, pinned));
  const std::string good = rsa.token(claims());
  const std::string rest = good.substr(good.find('.'));
  for (const char* none : {R"({"alg":"none"})", R"({"alg":"nOnE","kid":"one"})", R"({"alg":"NONE"})", R"({"alg":""})",
                           R"({})", R"({"alg":"rs256","kid":"one"})", R"({"alg":"RS512","kid":"one"})",
                           R"({"alg":"PS256","kid":"one"})", R"({"alg":"ES256","kid":"one"})"}) {
    EXPECT_FALSE(judge(encode_base64url(none) + rest, set, rules())) << none;
    EXPECT_FALSE(judge(rsa.of_texts(none, body), set, rules()))
        << none << ": the signature is over this header, and still it is refused";
    EXPECT_FALSE(parse_jws(encode_base64url(none) + "." + encode_base64url(body) + ".")) << none;
  }
  // The key says RS256: the same key is not for PS256, even where the issuer may use both.
  const Signer pss("PS256");
  Json relabelled = Json::parse(pss.jwk());
  relabelled["alg"] = "RS256";
  EXPECT_FALSE(judge(pss.token(claims()), *parse_jwks(R"({"keys":[)" + relabelled.dump() + "]}"), rules()));
}

TEST(Jwt, HeadersNameNoKeysOfTheirOwn) {
  const Signer thief("ES256", "one");
  for (const char* member : {"jwk", "jku", "x5u", "x5c"}) {
    Json header = {{"alg", "ES256"}, {"kid", "one"}, {member, "https://thief.example/jwks.json"}};
    if (std::string_view(member) == "jwk") header[member] = Json::parse(thief.jwk());
    if (std::string_view(member) == "x5c") header[member] = Json::array({"MIIB"});
    EXPECT_FALSE(judge(thief.token(header, claims()), keys(), rules())) << member;
    EXPECT_TRUE(judge(signer().token(header, claims()), keys(), rules())) << member << " is not looked at";
  }
  for (const char* id : {"../../dev/null", "one' OR '1'='1", "/etc/passwd", "one\\u0000", "", "ONE", "one "})
    EXPECT_FALSE(judge(thief.of_texts(R"({"alg":"ES256","kid":")" + std::string(id) + "\"}", dump_json(claims())),
                       keys(), rules()))
        << id;
  EXPECT_TRUE(judge(signer().of_texts(R"({"alg":"ES256"})", dump_json(claims())), keys(), rules()))
      << "without kid each key is tried";
}

TEST(Jwt, TimesHoldWithinTheSkew) {
  const auto at = [&](std::int64_t now, Json more) { return refusal(claims(more), rules(), now); };
  EXPECT_EQ(at(kNow + 359, {}), "accepted");
  EXPECT_THAT(at(kNow + 360, {}), HasSubstr("expired"));
  EXPECT_EQ(at(kNow, {{"nbf", kNow + 60}, {"iat", kNow + 60}}), "accepted");
  EXPECT_THAT(at(kNow, {{"nbf", kNow + 61}}), HasSubstr("not valid yet"));
  EXPECT_THAT(at(kNow, {{"iat", kNow + 61}}), HasSubstr("in the future"));
  EXPECT_EQ(at(kNow, {{"exp", kNow + 0.5}}), "accepted");
  for (const Json& odd : {Json("never"), Json(nullptr), Json(true), Json(1e300), Json(-1e300), Json::array({kNow + 5}),
                          Json(0), Json(-1)})
    EXPECT_NE(at(kNow, {{"exp", odd}}), "accepted") << odd;
  Json eternal = claims();
  eternal.erase("exp");
  EXPECT_THAT(refusal(eternal), HasSubstr("no 'exp'"));
  // A clock that jumps: what had expired has, when it jumps on; nothing lives longer than its `exp` says.
  EXPECT_THAT(at(kNow + 3600, {}), HasSubstr("expired"));
  EXPECT_THAT(at(kNow - 3600, {{"nbf", kNow}}), HasSubstr("not valid yet"));
}

TEST(Jwt, IsMeantForUsByThisIssuer) {
  EXPECT_EQ(refusal(claims({{"aud", {"other", "ashlar"}}})), "accepted");
  for (const Json& audience : {Json("other"), Json("ASHLAR"), Json("ashlar "), Json::array(),
                               Json::array({1, Json::array({"ashlar"})}), Json(nullptr), Json({{"ashlar", 1}})})
    EXPECT_THAT(refusal(claims({{"aud", audience}})), HasSubstr("another audience")) << audience;
  for (const Json& issuer : {Json("https://login.example/"), Json("https://evil.example"), Json(1), Json(nullptr)})
    EXPECT_THAT(refusal(claims({{"iss", issuer}})), HasSubstr("another issuer")) << issuer;
  for (const char* type : {"logout+jwt", "dpop+jwt", "JOSE", "secevent+jwt"})
    EXPECT_FALSE(judge(signer().token({{"alg", "ES256"}, {"typ", type}}, claims()), keys(), rules())) << type;
  for (const char* type : {"JWT", "jwt", "at+jwt", "application/at+JWT"})
    EXPECT_TRUE(judge(signer().token({{"alg", "ES256"}, {"typ", type}}, claims()), keys(), rules())) << type;
  EXPECT_FALSE(judge(
      signer().of_texts(R"({"alg":"ES256"})",
                        R"({"iss":"https://login.example","aud":"other","aud":"ashlar","sub":"a","exp":9999999999})"),
      keys(), rules()));
  EXPECT_FALSE(judge(signer().of_texts(R"({"alg":"ES256"})", "[1]"), keys(), rules()));
}

TEST(Jwt, ClaimsNameUserTeamTenantAndRoles) {
  IssuerRules by = rules();
  by.claims = {
      .user = "email", .team = "org.team", .tenant = "https://example.com/tenant", .roles = "realm_access.roles"};
  by.role_names = {{"ml-admins", Role::admin}, {"ml-devs", Role::developer}, {"read", Role::auditor}};
  const auto who = judge(signer().token(claims({{"email", "ann@example.com"},
                                                {"org", {{"team", "search"}}},
                                                {"https://example.com/tenant", "acme"},
                                                {"realm_access", {{"roles", {"ml-devs", "unknown", 7, "read"}}}}})),
                         keys(), by);
  ASSERT_TRUE(who) << who.error().message;
  EXPECT_EQ(who->user, "ann@example.com");
  EXPECT_EQ(who->team, "search");
  EXPECT_EQ(who->tenant, "acme");
  EXPECT_EQ(names(who->roles), (std::vector<std::string>{"auditor", "developer"}));
  by.tenants = {"beta", "b*"};
  EXPECT_THAT(refusal(claims({{"email", "a"}, {"https://example.com/tenant", "acme"}}), by),
              HasSubstr("may not name this tenant"));
  EXPECT_EQ(refusal(claims({{"email", "a"}, {"https://example.com/tenant", "bravo"}}), by), "accepted");
  by.claims.roles = "scope";
  EXPECT_TRUE(judge(signer().token(claims({{"email", "a"}, {"scope", "openid  ml-admins"}})), keys(), by)
                  ->roles.has(Role::admin));
  EXPECT_EQ(names(judge(signer().token(claims({{"email", "a"}, {"scope", "admin"}})), keys(), by)->roles),
            std::vector<std::string>{"app"})
      << "a role of ours is not taken at its word";
}

TEST(Jwt, NobodyIsMoreUrgentThanTheRulesSay) {
  IssuerRules by = rules();
  const auto least = [&](const Json& tier) {
    const auto who = judge(signer().token(claims({{"org", {{"tier", tier}}}})), keys(), by);
    return who ? who->min_priority : 1;
  };
  EXPECT_EQ(least("gold"), 0) << "no claim is asked";
  by.claims.priority = "org.tier";
  by.priorities = {{"gold", -5}, {"platinum", -10}, {"free", 0}};
  EXPECT_EQ(least("gold"), -5);
  EXPECT_EQ(least({"free", "gold"}), -5);
  EXPECT_EQ(least("gold platinum"), -10);
  for (const Json& odd :
       {Json("-1000"), Json(-1000), Json("GOLD"), Json(""), Json(nullptr), Json({{"gold", -99}}), Json("free")})
    EXPECT_EQ(least(odd), 0) << odd;
  by.min_priority = -2;
  EXPECT_EQ(least("free"), -2) << "what all tokens of the issuer may";
  EXPECT_EQ(least("gold"), -5);
  const auto who = judge(signer().token(claims({{"org", {{"tier", "gold"}}}})), keys(), by);
  ASSERT_TRUE(who);
  EXPECT_EQ(who->priority(-1), -1);
  EXPECT_EQ(who->priority(-1000), -5);
  EXPECT_EQ(who->priority(3), 3);
}

TEST(Jwt, WhoNamesNoTenantIsOneAlone) {
  const auto tenant = [&](const char* subject, const char* issuer) {
    IssuerRules by = rules();
    by.issuer = issuer;
    return judge(signer().token(claims({{"sub", subject}, {"iss", issuer}})), keys(), by)->tenant;
  };
  EXPECT_THAT(tenant("ann", "https://a"), testing::MatchesRegex("jwt_[0-9a-f]{16}"));
  EXPECT_NE(tenant("ann", "https://a"), tenant("bob", "https://a"));
  EXPECT_NE(tenant("ann", "https://a"), tenant("ann", "https://b"));
  IssuerRules by = rules();
  by.claims.tenant = "tenant";
  EXPECT_NE(refusal(claims({{"tenant", tenant("bob", "https://a")}}), by), "accepted")
      << "such a name cannot be claimed";
}

TEST(Jwt, ClaimsCannotWriteIntoLogs) {
  IssuerRules by = rules();
  by.claims.tenant = "tenant";
  for (const char* name : {"a\nlevel=error", "a\rb", "\x1b[31mred", "\u202eevil", "\u2028", "\x7f", ""})
    EXPECT_NE(refusal(claims({{"sub", name}}), by), "accepted") << name;
  EXPECT_NE(refusal(claims({{"tenant", std::string("a\0b", 3)}}), by), "accepted");
  EXPECT_NE(refusal(claims({{"sub", std::string(200, 'a')}}), by), "accepted");
  EXPECT_NE(refusal(claims({{"sub", 7}}), by), "accepted");
  EXPECT_EQ(refusal(claims({{"sub", "安 O'Neil <ann@x>"}}), by), "accepted");
}

TEST(Jwks, LeavesOutWhatItCannotUse) {
  const Json good = Json::parse(signer().jwk());
  const auto count = [&](const Json& key) { return parse_jwks(Json{{"keys", {key, good}}}.dump()).value().size() - 1; };
  EXPECT_EQ(count(good), 1u);
  for (auto [member, value] : std::initializer_list<std::pair<const char*, Json>>{{"use", "enc"},
                                                                                  {"key_ops", Json::array({"sign"})},
                                                                                  {"kty", "oct"},
                                                                                  {"kty", "EC2"},
                                                                                  {"crv", "secp256k1"},
                                                                                  {"x", "AAAA"},
                                                                                  {"x", 1},
                                                                                  {"y", good["x"]}}) {
    Json key = good;
    key[member] = value;
    EXPECT_EQ(count(key), 0u) << member << value;
  }
  EXPECT_EQ(count({{"kty", "oct"}, {"k", encode_base64url(std::string(32, 's'))}}), 0u)
      << "what is published is no secret";
  EXPECT_EQ(count({{"kty", "RSA"}, {"n", encode_base64url(std::string(128, '\xff'))}, {"e", "AQAB"}}), 0u)
      << "1024 bits";
  EXPECT_EQ(count({{"kty", "RSA"}, {"n", encode_base64url(std::string(256, '\xff'))}, {"e", "AQ"}}), 0u)
      << "the exponent 1 signs nothing";
  EXPECT_EQ(count({{"kty", "RSA"}, {"n", encode_base64url(std::string(2000, '\xff'))}, {"e", "AQAB"}}), 0u);
  EXPECT_EQ(count("text"), 0u);
  for (const char* wrong : {"", "[]", "{}", R"({"keys":{}})", R"({"keys":[],"keys":[]})", "nonsense"})
    EXPECT_FALSE(parse_jwks(wrong)) << wrong;
  EXPECT_FALSE(parse_jwks(std::string(300 << 10, ' ')));
  Json many = {{"keys", Json::array()}};
  for (int i = 0; i < 200; ++i) many["keys"].push_back(good);
  EXPECT_FALSE(parse_jwks(many.dump()));
  EXPECT_FALSE(Jwk::of_secret("short"));
}

}  // namespace
}  // namespace ashlar::gateway
