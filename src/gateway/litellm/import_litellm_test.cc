#include "gateway/litellm/import_litellm.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <map>
#include <random>

#include "gateway/limits/rules.h"
#include "gateway/routing/read_routes.h"
#include "gateway/upstreams/options.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kUsual = R"(model_list:
  - model_name: gpt-4o
    litellm_params: &azure
      model: azure/gpt-4o-eu
      api_base: https://eu.openai.azure.com/
      api_key: "os.environ/AZURE_API_KEY_EU"
      api_version: "2024-02-01"
      rpm: 6
      order: 1
    model_info: {input_cost_per_token: 0.0000025, output_cost_per_token: 1.0e-05, base_model: gpt-4o}
  - model_name: gpt-4o
    litellm_params:
      <<: *azure
      model: azure/gpt-4o-ca
      rpm: 12
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY, rpm: 5, order: 2, mock_response: hi}
  - model_name: local
    litellm_params: {model: hosted_vllm/facebook/opt-125m, api_base: "http://vllm:8000/v1", api_key: none, weight: 3}
  - model_name: local
    litellm_params: {model: hosted_vllm/facebook/opt-125m, api_base: "http://10.0.0.7:8000/v1", timeout: 30}
  - model_name: claude
    litellm_params: {model: claude-sonnet-4-0, api_key: sk-ant-secret}
  - model_name: nova
    litellm_params: {model: bedrock/converse/amazon.nova-lite-v1:0, aws_region_name: eu-west-1}
  - model_name: groq/*
    litellm_params: {model: groq/*}
  - model_name: "two words"
    litellm_params: {model: openai/x}
  - model_name: odd
    litellm_params: {model: nowhere/x}
router_settings:
  routing_strategy: simple-shuffle
  num_retries: 2
  timeout: 45
  allowed_fails: 3
  model_group_alias: {fast: local, hidden: {model: local, hidden: true}, gone: none}
  fallbacks: [{gpt-4o: [claude, missing]}]
  redis_host: 10.0.0.5
litellm_settings:
  drop_params: true
  context_window_fallbacks: [{local: [gpt-4o]}]
  default_fallbacks: [nova]
  json_logs: true
general_settings:
  master_key: sk-1234
  database_url: postgresql://u:p@h/db
)";

std::string notes_of(const LitellmImport& made) {
  std::string out;
  for (const auto& note : made.notes) out += std::to_string(note.line) + " " + note.key + ": " + note.why + "\n";
  return out;
}

TEST(ImportLitellm, SaysTheSameInOurWords) {
  const auto made = import_litellm(kUsual, "limits.yaml");
  ASSERT_TRUE(made) << made.error().message;
  const auto upstreams = gateway::parse_upstreams(made->config, "made");
  ASSERT_TRUE(upstreams) << upstreams.error().message << made->config;
  const auto routes = gateway::parse_routes(made->config, "made");
  ASSERT_TRUE(routes) << routes.error().message << made->config;
  ASSERT_TRUE(gateway::check_table(*routes)) << made->config;
  const auto limits = gateway::read_limits(made->limits);
  ASSERT_TRUE(limits) << limits.error().message << made->limits;

  const auto upstream = [&](std::string_view name) -> const gateway::UpstreamOptions& {
    static const gateway::UpstreamOptions kNone;
    const auto found = std::ranges::find(*upstreams, name, &gateway::UpstreamOptions::name);
    EXPECT_NE(found, upstreams->end()) << name << made->config;
    return found == upstreams->end() ? kNone : *found;
  };
  EXPECT_EQ(upstreams->size(), 7) << made->config;
  EXPECT_EQ(upstream("azure").kind, "azure");
  EXPECT_EQ(upstream("azure").api_key, "env:AZURE_API_KEY_EU");
  EXPECT_EQ(upstream("azure").models.size(), 2);
  EXPECT_EQ(upstream("azure").max_attempts, 3);
  EXPECT_EQ(upstream("azure").total_timeout, std::chrono::seconds(45));
  EXPECT_EQ(upstream("openai").url, "https://api.openai.com/v1");
  EXPECT_TRUE(upstream("hosted_vllm").allow_private);
  EXPECT_EQ(upstream("hosted_vllm").api_key, "");
  EXPECT_EQ(upstream("hosted_vllm-2").total_timeout, std::chrono::seconds(30));
  EXPECT_EQ(upstream("anthropic").api_key, "env:ANTHROPIC_API_KEY_1");
  EXPECT_EQ(upstream("bedrock").region, "eu-west-1");
  EXPECT_EQ(upstream("bedrock").models.front().model, "amazon.nova-lite-v1:0");
  EXPECT_TRUE(upstream("groq").models.empty());

  EXPECT_THAT(made->config, HasSubstr(R"(- name: "gpt-4o@order-2")"));
  EXPECT_THAT(made->config, HasSubstr(R"(error: ["gpt-4o@order-2", "claude"])"));
  EXPECT_THAT(made->config, HasSubstr("weight: 12"));
  EXPECT_THAT(made->config, HasSubstr("input_price: 2.5, output_price: 10"));
  EXPECT_THAT(made->config, HasSubstr(R"(counters: "redis://10.0.0.5:6379")"));
  EXPECT_THAT(made->config, HasSubstr(R"(limits: "limits.yaml")"));
  EXPECT_THAT(made->config, Not(HasSubstr("sk-ant-secret")));
  EXPECT_EQ(routes->aliases.at("fast"), "local");
  EXPECT_EQ(limits->rules.size(), 1);
  EXPECT_EQ(limits->rules.front().capacity, 23);
  EXPECT_FALSE(limits->prices.empty());

  const std::string notes = notes_of(*made);
  for (const auto* each :
       {"17 litellm_params.mock_response: not supported", "10 model_info.base_model: not supported",
        "22 litellm_params.api_key: a secret", "28 model_name: left out",
        "30 litellm_params.model: left out: 'nowhere/x'", "36 router_settings.allowed_fails",
        "37 model_group_alias.gone: left out: no such model", "38 fallbacks.gpt-4o: 'missing' left out",
        "litellm_settings.drop_params", "general_settings.database_url"})
    EXPECT_THAT(notes, HasSubstr(each));
}

TEST(ImportLitellm, AddressesOfTheEnvironmentPatternsAndTheCacheAreTaken) {
  ::setenv("ASHLAR_TEST_AZURE_BASE", "https://ca.openai.azure.com", 1);
  const auto made = import_litellm(R"(model_list:
  - {model_name: gpt, litellm_params: {model: openai/gpt-4o, api_key: os.environ/A}}
  - {model_name: "openai/*", litellm_params: {model: openai/*, api_key: os.environ/B}}
  - {model_name: emb, litellm_params: {model: text-embedding-3-small, api_key: os.environ/C}}
  - {model_name: ca, litellm_params: {model: azure/gpt-4o-ca, api_base: os.environ/ASHLAR_TEST_AZURE_BASE}}
  - {model_name: gone, litellm_params: {model: azure/gpt-4o-eu, api_base: os.environ/ASHLAR_TEST_NOT_SET}}
litellm_settings: {cache: true, cache_params: {type: redis, ttl: 600}}
)",
                                   "");
  ASSERT_TRUE(made) << made.error().message;
  const auto upstreams = gateway::parse_upstreams(made->config, "made");
  const auto routes = gateway::parse_routes(made->config, "made");
  ASSERT_TRUE(upstreams && routes) << made->config;
  std::map<std::string, std::string> keys;
  for (const auto& each : *upstreams) keys[each.name] = each.api_key;
  EXPECT_EQ(keys["openai"], "env:B") << "who asks for openai/gpt-4.1 gets it\n" << made->config;
  EXPECT_EQ(keys["openai-2"], "env:A");
  EXPECT_EQ(keys["openai-3"], "env:C");
  EXPECT_EQ(routes->deployments.at(0).model, "openai-2/gpt-4o");
  EXPECT_EQ(upstreams->at(2).models.at(0).name, "emb") << "vectors have no routes";
  EXPECT_EQ(upstreams->at(2).models.at(0).model, "text-embedding-3-small");
  EXPECT_EQ(routes->groups.back().name, "ca");
  EXPECT_THAT(made->config, HasSubstr("url: \"https://ca.openai.azure.com\""));
  EXPECT_THAT(made->config, HasSubstr("response_cache: 256MiB"));
  EXPECT_THAT(made->config, HasSubstr("response_cache_ttl: 600000"));
  EXPECT_THAT(notes_of(*made),
              HasSubstr("6 litellm_params.api_base: left out: set ASHLAR_TEST_NOT_SET and import again"));
  EXPECT_THAT(notes_of(*made), HasSubstr("7 litellm_settings.cache_params.type: not supported"));
}

TEST(ImportLitellm, WhatOurOwnFileCannotSayIsLeftOut) {
  ::setenv("ASHLAR_TEST_LINES", "2024\n-02-01", 1);
  const auto made = import_litellm(R"(model_list:
  - {model_name: a, litellm_params: {model: azure/a, api_base: "https://a.openai.azure.com", api_version: "2024\r-02"}}
  - {model_name: b, litellm_params: {model: azure/b, api_base: "https://b.openai.azure.com", api_version: "20\x0124"}}
  - {model_name: c, litellm_params: {model: azure/c, api_base: "https://c.openai.azure.com",
                                     api_version: os.environ/ASHLAR_TEST_LINES}}
  - {model_name: d, litellm_params: {model: bedrock/d, aws_region_name: "eu-west-1/x"}}
router_settings: {redis_host: "10.0.0.5/0 or so"}
)",
                                   "");
  ASSERT_TRUE(made);
  const auto upstreams = gateway::parse_upstreams(made->config, "made");
  ASSERT_TRUE(upstreams) << upstreams.error().message;
  ASSERT_EQ(upstreams->size(), 3);
  for (const auto& each : *upstreams) EXPECT_EQ(each.api_version, "");
  EXPECT_THAT(made->config, Not(HasSubstr("counters")));
  const std::string notes = notes_of(*made);
  for (const auto* each : {"2 litellm_params.api_version: should be a text of one line",
                           "3 litellm_params.api_version: should be a text of one line",
                           "5 litellm_params.api_version: left out: ASHLAR_TEST_LINES says more than a line",
                           "6 litellm_params.aws_region_name: left out", "7 router_settings.redis_host: left out"})
    EXPECT_THAT(notes, HasSubstr(each));
}

TEST(ImportLitellm, ReferencesToTheEnvironmentAreFollowedWhereverTheyStand) {
  ::setenv("ASHLAR_TEST_MODEL", "azure/gpt-4o-eu", 1);
  ::setenv("ASHLAR_TEST_VERSION", "2025-01-01", 1);
  ::setenv("ASHLAR_TEST_RPM", "60", 1);
  ::setenv("ASHLAR_TEST_AZURE_BASE", "https://ca.openai.azure.com", 1);
  const auto made = import_litellm(R"(model_list:
  - model_name: gpt
    litellm_params:
      model: os.environ/ASHLAR_TEST_MODEL
      api_base: os.environ/ASHLAR_TEST_AZURE_BASE
      api_version: os.environ/ASHLAR_TEST_VERSION
      rpm: os.environ/ASHLAR_TEST_RPM
      timeout: os.environ/ASHLAR_TEST_NOT_SET
  - {model_name: gone, litellm_params: {model: os.environ/ASHLAR_TEST_NOT_SET}}
)",
                                   "limits.yaml");
  ASSERT_TRUE(made);
  const auto upstreams = gateway::parse_upstreams(made->config, "made");
  ASSERT_TRUE(upstreams) << made->config;
  ASSERT_EQ(upstreams->size(), 1);
  EXPECT_EQ(upstreams->at(0).kind, "azure");
  EXPECT_EQ(upstreams->at(0).api_version, "2025-01-01");
  EXPECT_EQ(upstreams->at(0).models.at(0).name, "gpt-4o-eu");
  EXPECT_THAT(made->limits, HasSubstr("capacity: 60"));
  const std::string notes = notes_of(*made);
  EXPECT_THAT(notes, HasSubstr("4 litellm_params.model: what ASHLAR_TEST_MODEL says now was written"));
  EXPECT_THAT(notes, HasSubstr("8 litellm_params.timeout: left out: set ASHLAR_TEST_NOT_SET and import again"));
  EXPECT_THAT(notes, HasSubstr("9 litellm_params.model: left out: set ASHLAR_TEST_NOT_SET and import again"));
  EXPECT_THAT(made->config, testing::Not(HasSubstr("os.environ")));
}

TEST(ImportLitellm, CredentialsThatAreNamedAndCatchAllsAreTaken) {
  const auto made = import_litellm(R"(credential_list:
  - credential_name: east
    credential_values: {api_key: os.environ/EAST_KEY, api_base: "https://east.openai.azure.com", api_version: "1"}
    credential_info: {description: ours}
model_list:
  - {model_name: gpt, litellm_params: {model: azure/gpt-4o, litellm_credential_name: east, api_version: "2"}}
  - {model_name: other, litellm_params: {model: azure/gpt-4o, litellm_credential_name: west}}
  - {model_name: "*", litellm_params: {model: openai/*, api_key: os.environ/OPENAI_API_KEY}}
)",
                                   "");
  ASSERT_TRUE(made);
  const auto upstreams = gateway::parse_upstreams(made->config, "made");
  ASSERT_TRUE(upstreams) << made->config;
  ASSERT_EQ(upstreams->size(), 2);
  EXPECT_EQ(upstreams->at(0).api_key, "env:EAST_KEY");
  EXPECT_EQ(upstreams->at(0).url, "https://east.openai.azure.com");
  EXPECT_EQ(upstreams->at(0).api_version, "2") << "what the model says itself comes first";
  EXPECT_EQ(upstreams->at(1).name, "openai");
  EXPECT_TRUE(upstreams->at(1).models.empty()) << "all that it lists";
  EXPECT_THAT(notes_of(*made), HasSubstr("7 litellm_params.litellm_credential_name: no credential"));
}

TEST(ImportLitellm, VectorsComeFromOnePlaceByTheNameThatClientsKnow) {
  const auto made = import_litellm(R"(model_list:
  - {model_name: vectors, litellm_params: {model: openai/ada, input_cost_per_token: 0.0000001}, model_info: {mode: embedding}}
  - {model_name: vectors, litellm_params: {model: azure/ada, api_base: "https://a.example"}, model_info: {mode: embedding}}
  - {model_name: gpt, litellm_params: {model: openai/gpt-4o}}
router_settings: {model_group_alias: {ada: vectors}, fallbacks: [{gpt: [vectors]}], default_fallbacks: [vectors]}
)",
                                   "limits.yaml");
  ASSERT_TRUE(made);
  const auto upstreams = gateway::parse_upstreams(made->config, "made");
  const auto routes = gateway::parse_routes(made->config, "made");
  ASSERT_TRUE(upstreams && routes) << made->config;
  std::vector<std::string> names;
  for (const auto& model : upstreams->at(0).models) names.push_back(model.name + " " + model.model);
  EXPECT_THAT(names, testing::ElementsAre("gpt-4o gpt-4o", "vectors ada", "ada ada"));
  ASSERT_EQ(routes->groups.size(), 1);
  EXPECT_THAT(made->limits, HasSubstr("{model: \"vectors\", input: \"0.1\""));
  EXPECT_THAT(notes_of(*made), HasSubstr("3 model_name: left out: 'vectors' makes vectors"));
  EXPECT_THAT(notes_of(*made), HasSubstr("fallbacks.gpt: 'vectors' left out: it makes vectors"));
}

TEST(ImportLitellm, WhatStandsTwiceIsSaid) {
  const auto made = import_litellm(
      "model_list:\n  - model_name: a\n    model_name: b\n    litellm_params: {model: openai/gpt-4o}\n", "");
  ASSERT_TRUE(made);
  EXPECT_THAT(made->config, HasSubstr("name: \"b\""));
  EXPECT_THAT(notes_of(*made), HasSubstr("3 model_list: 'model_name' stands twice: the last is taken"));
}

TEST(ImportLitellm, WhatIsEmptyOrNoConfigurationIsToldSo) {
  EXPECT_TRUE(import_litellm("model_list: []", ""));
  EXPECT_EQ(import_litellm("", "").error().code, Code::invalid);
  EXPECT_EQ(import_litellm("[1, 2]", "").error().code, Code::invalid);
  EXPECT_THAT(import_litellm("a: b\nc: [", "").error().message, HasSubstr("line "));
  EXPECT_EQ(import_litellm(std::string(5 << 20, ' '), "").error().code, Code::too_large);
}

TEST(ImportLitellm, AliasesOfAliasesAndDeepNestingEnd) {
  std::string bomb = "a0: &a0 {model_name: x, litellm_params: {model: openai/y}}\n";
  for (int i = 1; i < 30; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " {<<: [";
    for (int j = 0; j < 20; ++j) bomb += (j > 0 ? ", *a" : "*a") + std::to_string(i - 1);
    bomb += "]}\n";
  }
  (void)import_litellm(bomb + "model_list: [*a29]\n", "");
  std::string list = "l: &l [";
  for (int i = 0; i < 5000; ++i) list += "n" + std::to_string(i) + ",";
  list += "]\nrouter_settings:\n  fallbacks:\n";
  for (int i = 0; i < 5000; ++i) list += "    - {m" + std::to_string(i) + ": *l}\n";
  (void)import_litellm(list, "");
  EXPECT_EQ(import_litellm("a: " + std::string(100'000, '['), "").error().code, Code::invalid);
}

// Whatever becomes of the text: an error, or a configuration that reads well.
TEST(ImportLitellm, SpoiltTextsGiveErrorsOrSoundConfigurations) {
  std::mt19937 random(7);
  const std::string usual = kUsual;
  const std::string_view pieces[] = {"[",      "{",  "}",  ": ",   "null",  "-1",          "1e999", ".nan", "\"",
                                     "*azure", "\n", "  ", "true", "[[1]]", "os.environ/", "''",    "\xff", "&a"};
  int read = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string text = usual;
    for (int i = 0; i < 1 + round % 4; ++i) {
      const std::size_t at = random() % text.size(), length = random() % 12;
      text.replace(at, std::min(length, text.size() - at), pieces[random() % std::size(pieces)]);
    }
    const auto made = import_litellm(text, "limits.yaml");
    if (!made) continue;
    ++read;
    const auto upstreams = gateway::parse_upstreams(made->config, "made");
    ASSERT_TRUE(upstreams) << upstreams.error().message << "\n" << made->config << "\n" << text;
    const auto routes = gateway::parse_routes(made->config, "made");
    ASSERT_TRUE(routes) << routes.error().message << "\n" << made->config << "\n" << text;
    ASSERT_TRUE(gateway::check_table(*routes)) << made->config;
    const auto limits = gateway::read_limits(made->limits);
    ASSERT_TRUE(limits) << limits.error().message << "\n" << made->limits;
  }
  EXPECT_GT(read, 300);
}

}  // namespace
}  // namespace ashlar::gateway
