#include "gateway/identity/policy.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/identity/identity.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;

// Friday 2026-11-20, 00:00 UTC.
constexpr std::int64_t kFriday = 1'795'132'800;

Policy policy(const char* text) {
  auto made = parse_identity_config(fmt::format("policy: {}", text));
  EXPECT_TRUE(made) << made.error().message;
  return std::move(made->policy);
}

bool allows(const Policy& by, const Principal& who, Action action = {.models = {"gpt-4"}}) {
  return by.decide(who, action).allowed;
}

TEST(Patterns, StarsStandForAnyText) {
  const auto star = [](const char* pattern, const char* text) {
    std::string out = "-";
    return matches_pattern(pattern, text, &out) ? out : std::string("no");
  };
  EXPECT_EQ(star("a*", "abc"), "bc");
  EXPECT_EQ(star("*c", "abc"), "ab");
  EXPECT_EQ(star("a*c", "abcbc"), "bcb");
  EXPECT_EQ(star("ns/*/sa/*", "ns/search/sa/app/sa/x"), "search");
  EXPECT_EQ(star("a*", "a"), "");
  EXPECT_EQ(star("abc", "abc"), "-");
  EXPECT_EQ(star("a*b*c", "axxbyyc"), "xx");
  EXPECT_EQ(star("a*", "b"), "no");
  EXPECT_EQ(star("", "a"), "no");
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_TRUE(matches_pattern("**a**", "xay"));
  EXPECT_FALSE(matches_pattern("*a*b*", "ba"));
  EXPECT_FALSE(matches_pattern(std::string(100, '*') + "x", std::string(10'000, 'a'))) << "and it comes back";
}

TEST(Network, HoldsItsAddresses) {
  const auto in = [](const char* network, const char* address) {
    return Network::parse(network)->contains(*parse_address(address));
  };
  EXPECT_TRUE(in("10.0.0.0/8", "10.255.255.255"));
  EXPECT_FALSE(in("10.0.0.0/8", "11.0.0.0"));
  EXPECT_TRUE(in("192.0.2.7", "192.0.2.7"));
  EXPECT_FALSE(in("192.0.2.7", "192.0.2.6"));
  EXPECT_TRUE(in("0.0.0.0/0", "255.1.2.3"));
  EXPECT_FALSE(in("0.0.0.0/0", "2001:db8::1"));
  EXPECT_TRUE(in("::/0", "2001:db8::1"));
  EXPECT_TRUE(in("2001:db8::/33", "2001:db8:7fff::"));
  EXPECT_FALSE(in("2001:db8::/33", "2001:db8:8000::"));
  for (const char* wrong : {"", "10", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.0/8x", "10.0.0.1/8", "::1/64",
                            "host", "10.0.0.0/8/8", "0x7f.1", "1.2.3"})
    EXPECT_FALSE(Network::parse(wrong)) << wrong;
  EXPECT_EQ(address_of_peer("127.0.0.1:40312"), parse_address("127.0.0.1"));
  EXPECT_EQ(address_of_peer("[::1]:40312"), parse_address("::1"));
  EXPECT_FALSE(address_of_peer("nonsense"));
  EXPECT_FALSE(address_of_peer(""));
}

TEST(Policy, RolesAloneDecideWhatTheyAreFor) {
  const Policy none;
  const auto scopes = [&](Role role) {
    std::string out;
    for (const Scope scope : {Scope::use, Scope::audit, Scope::operate, Scope::admin})
      if (allows(none, {.roles = {role}}, {.scope = scope})) out += std::string(name(scope)) + " ";
    return out;
  };
  EXPECT_EQ(scopes(Role::admin), "use audit operate admin ");
  EXPECT_EQ(scopes(Role::operator_), "use audit operate ");
  EXPECT_EQ(scopes(Role::auditor), "audit ");
  EXPECT_EQ(scopes(Role::developer), "use ");
  EXPECT_EQ(scopes(Role::app), "use ");
  EXPECT_THAT(none.decide({.roles = {Role::app}}, {.scope = Scope::admin}).why,
              HasSubstr("needs one of the roles admin; this identity has app"));
  EXPECT_FALSE(allows(none, {}, {}));
}

TEST(Policy, DenyWinsWhateverTheOrder) {
  const Principal who{.tenant = "acme", .roles = {Role::admin}};
  for (const char* text :
       {R"([{"name":"no","effect":"deny","when":{"tenant":"acme"}},{"name":"yes","effect":"allow"}])",
        R"([{"name":"yes","effect":"allow"},{"name":"no","effect":"deny","when":{"tenant":"ac*"}}])"}) {
    const auto decision = policy(text).decide(who, {.models = {"m"}});
    EXPECT_FALSE(decision.allowed);
    EXPECT_EQ(decision.rule, "no");
    EXPECT_THAT(decision.why, HasSubstr("'no' denies"));
  }
}

TEST(Policy, AllowGivesWhatARoleDoesNot) {
  const Principal auditor{.team = "red", .roles = {Role::auditor}};
  const Policy by = policy(R"([{"name":"red team","effect":"allow","when":{"team":"red","model":"safe-*"}}])");
  EXPECT_TRUE(allows(by, auditor, {.models = {"safe-1"}}));
  EXPECT_FALSE(allows(by, auditor, {.models = {"gpt-4"}}));
  EXPECT_TRUE(allows(by, auditor, {})) << "not read yet: it may become right";
  EXPECT_FALSE(allows(by, auditor, {.scope = Scope::admin})) << "a rule without scope is about use";
  EXPECT_TRUE(allows(policy(R"([{"effect":"allow","when":{"team":"red","scope":"admin"}}])"), auditor,
                     {.scope = Scope::admin}));
}

TEST(Policy, AModelThatIsNotReadYetDeniesNobody) {
  const Principal app{.roles = {Role::app}};
  const Policy by = policy(
      R"([{"effect":"deny","when":{"model":"big-*"}}, {"effect":"deny","unless":{"model":["small-*","big-*"]}}])");
  EXPECT_TRUE(allows(by, app, {}));
  EXPECT_FALSE(allows(by, app, {.models = {"big-1"}}));
  EXPECT_TRUE(allows(by, app, {.models = {"small-1"}}));
  EXPECT_FALSE(allows(by, app, {.models = {"other"}}));
}

TEST(Policy, EveryConditionMustHold) {
  const Policy by =
      policy(R"([{"effect":"deny","when":{"tenant":["a","b"],"role":"app","tags":{"env":"prod","tier":["x","y*"]},
                                "data_class":"secret","source":"10.0.0.0/8","proof":"jwt","user":"u*","key":"k*"}}])");
  const Principal who{.key_id = "k1",
                      .user = "u1",
                      .tenant = "b",
                      .roles = {Role::app, Role::developer},
                      .tags = {{"env", "prod"}, {"tier", "yy"}},
                      .proof = Proof::jwt};
  const Action action{.models = {"m"}, .source = parse_address("10.1.1.1"), .data_classes = {"secret"}};
  EXPECT_FALSE(allows(by, who, action));
  const auto without = [&](auto&& change) {
    Principal other = who;
    Action another = action;
    change(other, another);
    return allows(by, other, another);
  };
  EXPECT_TRUE(without([](Principal& p, Action&) { p.tenant = "c"; }));
  EXPECT_TRUE(without([](Principal& p, Action&) { p.roles = {Role::developer}; }));
  EXPECT_TRUE(without([](Principal& p, Action&) { p.tags.pop_back(); }));
  EXPECT_TRUE(without([](Principal& p, Action&) { p.tags[0].second = "test"; }));
  EXPECT_TRUE(without([](Principal& p, Action&) { p.proof = Proof::key; }));
  EXPECT_TRUE(without([](Principal& p, Action&) { p.user = "v"; }));
  EXPECT_TRUE(without([](Principal& p, Action&) { p.key_id = "x"; }));
  EXPECT_TRUE(without([](Principal&, Action& a) { a.data_classes = {}; }));
  EXPECT_TRUE(without([](Principal&, Action& a) { a.source = parse_address("11.1.1.1"); }));
  EXPECT_TRUE(without([](Principal&, Action& a) { a.source.reset(); }));
}

TEST(Policy, OneOfSeveralClassesDeniesAndEachMustBeAllowed) {
  const Policy by = policy(R"([
      {"effect": "deny", "when": {"data_class": "Secret", "team": "red"}},
      {"effect": "deny", "when": {"team": "blue"}, "unless": {"data_class": "public"}}])");
  const Principal red{.team = "red", .roles = {Role::app}}, blue{.team = "blue", .roles = {Role::app}};
  EXPECT_TRUE(allows(by, red, {.models = {"m"}, .data_classes = {"public"}}));
  EXPECT_FALSE(allows(by, red, {.models = {"m"}, .data_classes = {"public", "secret"}}));
  EXPECT_TRUE(allows(by, blue, {.models = {"m"}, .data_classes = {"public"}}));
  EXPECT_FALSE(allows(by, blue, {.models = {"m"}, .data_classes = {"public", "other"}}));
  EXPECT_FALSE(allows(by, blue, {.models = {"m"}})) << "nothing was declared";
}

TEST(Policy, AModelIsDeniedByAnyOfItsNames) {
  const Policy by = policy(R"([
      {"effect": "deny", "when": {"model": "chat", "role": "app"}},
      {"effect": "deny", "when": {"role": "developer"}, "unless": {"model": "small-*"}}])");
  EXPECT_FALSE(allows(by, {.roles = {Role::app}}, {.models = {"gpt-4o-mini", "chat"}}));
  EXPECT_TRUE(allows(by, {.roles = {Role::app}}, {.models = {"gpt-4o-mini", "other"}}));
  EXPECT_FALSE(allows(by, {.roles = {Role::developer}}, {.models = {"small-chat", "chat"}}));
  EXPECT_TRUE(allows(by, {.roles = {Role::developer}}, {.models = {"small-chat", "small-1"}}));
}

TEST(Policy, UnlessIsTheExceptionToARule) {
  const Policy by = policy(R"([{"name":"office","effect":"deny","unless":{"source":["10.0.0.0/8"]}}])");
  const Principal who{.roles = {Role::admin}};
  EXPECT_TRUE(allows(by, who, {.models = {"m"}, .source = parse_address("10.0.0.1")}));
  EXPECT_FALSE(allows(by, who, {.models = {"m"}, .source = parse_address("192.0.2.1")}));
  EXPECT_FALSE(allows(by, who, {.models = {"m"}})) << "from nowhere is from outside";
}

TEST(Policy, TimeWindowsAreUtcAndGoOverMidnight) {
  const auto open = [&](const char* time, std::int64_t at) {
    const Policy by = policy((R"([{"effect":"deny","when":{"time":)" + std::string(time) + "}}]").c_str());
    return allows(by, {.roles = {Role::app}}, {.models = {"m"}, .unix_seconds = at});
  };
  constexpr std::int64_t kHour = 3600;
  const char* day = R"({"from":"08:30","to":"17:00"})";
  EXPECT_TRUE(open(day, kFriday + 8 * kHour + 1799));
  EXPECT_FALSE(open(day, kFriday + 8 * kHour + 1800));
  EXPECT_FALSE(open(day, kFriday + 17 * kHour - 1));
  EXPECT_TRUE(open(day, kFriday + 17 * kHour));
  const char* night = R"({"days":["fri"],"from":"22:00","to":"06:00"})";
  EXPECT_TRUE(open(night, kFriday + 5 * kHour)) << "Thursday's night";
  EXPECT_FALSE(open(night, kFriday + 23 * kHour));
  EXPECT_FALSE(open(night, kFriday + 29 * kHour)) << "Saturday morning belongs to Friday's night";
  EXPECT_TRUE(open(night, kFriday + 30 * kHour));
  EXPECT_TRUE(open(night, kFriday + 47 * kHour));
  EXPECT_FALSE(open(R"({"days":["sat","sun"]})", kFriday + 24 * kHour));
  EXPECT_TRUE(open(R"({"days":["sat","sun"]})", kFriday));
  EXPECT_FALSE(open(R"({"days":["thu"]})", 0)) << "1970 began on a Thursday";
  EXPECT_FALSE(open(R"({"days":["wed"]})", -1));
}

TEST(Certificates, StandForTenantsByTheirNames) {
  const std::vector<CertificateRule> rules = {
      {.match = "URI:spiffe://prod/ns/*/sa/*", .tenant = "$1", .team = "t-$1", .roles = {Role::app}},
      {.match = "email:*@acme.com", .tenant = "acme", .user = "$1", .roles = {Role::developer}, .models = {"small"}},
      {.match = "DNS:*.ops.example", .roles = {Role::operator_}, .min_priority = -3}};
  const auto who = identify_certificate(rules, {"DNS:other", "URI:spiffe://prod/ns/search/sa/app"});
  ASSERT_TRUE(who);
  EXPECT_EQ((*who)->tenant, "search");
  EXPECT_EQ((*who)->team, "t-search");
  EXPECT_EQ((*who)->proof, Proof::mtls);
  const auto ann = identify_certificate(rules, {"email:ann@acme.com"});
  EXPECT_EQ((*ann)->user, "ann");
  EXPECT_EQ((*ann)->models, std::vector<std::string>{"small"});
  const auto ops = identify_certificate(rules, {"DNS:a.ops.example"});
  EXPECT_EQ((*ops)->min_priority, -3);
  EXPECT_EQ((*ann)->min_priority, 0);
  EXPECT_EQ((*ops)->tenant, (*ops)->key_id);
  EXPECT_THAT((*ops)->key_id, testing::MatchesRegex("mtls_[0-9a-f]{16}"));
  EXPECT_FALSE(identify_certificate(rules, {}));
  EXPECT_FALSE(
      identify_certificate(rules, {"DNS:ann@acme.com", "URI:spiffe://test/ns/a/sa/b", "email:ann@acme.com.evil"}));
  EXPECT_FALSE(identify_certificate(rules, {"URI:spiffe://prod/ns/key_stolen/sa/app"})) << "the tenant of a key";
}

}  // namespace
}  // namespace ashlar::gateway
