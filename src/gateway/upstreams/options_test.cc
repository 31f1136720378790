#include "gateway/upstreams/options.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "gateway/upstreams/addresses.h"
#include "gateway/upstreams/proxied.h"
#include "gateway/upstreams/retries.h"
#include "gateway/upstreams/secrets.h"

namespace ashlar::gateway {
namespace {

using std::chrono::milliseconds;

TEST(UpstreamOptions, AWholeSectionIsRead) {
  const auto read = parse_upstreams(R"(
port: 8080
upstreams:
  - name: fast
    kind: openai
    url: http://127.0.0.1:8001/v1
    api_key: env:FAST_KEY
    models: [qwen2.5-7b, {name: small, model: Qwen/Qwen2.5-0.5B-Instruct}]
    first_token_timeout: 1m
    retry_base: 250ms
    retry_budget: 0.5
    hedge_after: 2s
    max_answer: 1MiB
    headers: {X-Team: a}
    http2: always
    proxy: 10.1.2.3:3128
  - {name: cloud, kind: anthropic, api_key: "file:/run/key"}
  - {name: old, url: "https://a", http2: false}
)",
                                    "a.yaml");
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), 3u);
  const UpstreamOptions& fast = (*read)[0];
  EXPECT_EQ(fast.models.at(0).model, "qwen2.5-7b");
  EXPECT_EQ(fast.models.at(1).name, "small");
  EXPECT_EQ(fast.models.at(1).model, "Qwen/Qwen2.5-0.5B-Instruct");
  EXPECT_EQ(fast.first_token_timeout, milliseconds(60'000));
  EXPECT_EQ(fast.retry_base, milliseconds(250));
  EXPECT_EQ(fast.connect_timeout, milliseconds(5'000));
  EXPECT_EQ(fast.max_answer, 1_MiB);
  EXPECT_EQ(fast.headers.at(0).first, "x-team");
  EXPECT_EQ(fast.http2, net::Http2::always);
  EXPECT_EQ(fast.proxy, "10.1.2.3:3128");
  EXPECT_EQ((*read)[1].proxy, "");
  EXPECT_EQ((*read)[1].http2, net::Http2::tls);
  EXPECT_EQ((*read)[2].http2, net::Http2::off);
}

TEST(UpstreamOptions, EveryFaultIsToldWithItsLine) {
  const auto read = parse_upstreams(R"(upstreams:
  - name: a/b
    url: http://x
  - name: c
    kind: olama
    url: gopher://x
    modles: []
    api_key: sk-secret
    retry_budget: 7
    connect_timeout: never
    models: [x, x, {nam: y}]
    headers: {host: x, Authorization: Bearer sk-secret}
  - name: c
    url: http://x
    stream: perhaps
    http2: often
    proxy: http://me:sk-secret@hub
  - 5
  - {name: d, kind: azure, url: "http://x", continuous_usage: true, region: "eu/x"}
)",
                                    "a.yaml");
  ASSERT_FALSE(read);
  const std::string& text = read.error().message;
  for (const char* part :
       {"a.yaml:2: an upstream needs a 'name'",
        "a.yaml:5: no kind of upstream is called 'olama'; did you mean 'ollama'?", "a.yaml:6: 'gopher://x'",
        "a.yaml:7: an upstream has no 'modles'; did you mean 'models'?", "a.yaml:8: 'api_key'",
        "a.yaml:9: 'retry_budget'", "a.yaml:10: 'connect_timeout'", "a.yaml:11: the model 'x' stands twice",
        "a.yaml:11: a model has no 'nam'", "a.yaml:12: 'host' is no header that may be sent", "a.yaml:12: 'authorization'",
        "a.yaml:13: two upstreams are called 'c'", "a.yaml:15: 'stream'", "a.yaml:16: 'http2' should be true", "a.yaml:17: 'proxy': a password", "a.yaml:18: an upstream should be a map",
        "a.yaml:19: an upstream of kind azure", "a.yaml:19: 'continuous_usage' is for streams", "a.yaml:19: 'region' should be"})
    EXPECT_NE(text.find(part), text.npos) << part << "\nin\n" << text;
  EXPECT_EQ(text.find("sk-secret"), text.npos);
  EXPECT_FALSE(parse_upstreams("a: [", "b.yaml"));
  EXPECT_FALSE(parse_upstreams("[1]", "b.yaml"));
  EXPECT_TRUE(parse_upstreams("", "b.yaml")->empty());
  EXPECT_TRUE(parse_upstreams("upstreams:\n", "b.yaml")->empty());
}

TEST(UpstreamOptions, TheFlagNamesAServerAndPerhapsItsKey) {
  ::setenv("ASHLAR_MY_FAST_KEY", "x", 1);
  const auto one = parse_upstream_flag("my-fast=http://10.0.0.1:8000/v1");
  ASSERT_TRUE(one);
  EXPECT_EQ(one->api_key, "env:ASHLAR_MY_FAST_KEY");
  EXPECT_TRUE(one->allow_private);
  for (const char* text : {"", "x", "=http://a", "a=", "a=ftp://x", "a/b=http://x", "a b=http://x"})
    EXPECT_FALSE(parse_upstream_flag(text)) << text;
}

TEST(UpstreamProxy, IsNoneTheEnvironmentsOrItsOwn) {
  for (const char* text : {"", "none", "env", "http://hub:3128", "hub", "[::1]:8080", "env:HUB", "file:/hub"})
    EXPECT_TRUE(check_proxy(text)) << text;
  for (const char* text : {"socks5://hub", "http://me:secret@hub", "a b", "https://hub"}) {
    const auto wrong = check_proxy(text);
    ASSERT_FALSE(wrong) << text;
    EXPECT_EQ(wrong.error().message.find("secret@"), std::string::npos);
  }
  const auto shown = [](const std::string& proxy, const std::string& url, bool allow_private = false) {
    const auto rules = read_proxy({.name = "up", .url = url, .allow_private = allow_private, .proxy = proxy});
    if (!rules) return std::string(rules.error().code == Code::forbidden ? "forbidden" : "wrong");
    const auto found = rules->find(*net::parse_url(url));
    return !found ? "wrong" : *found ? (*found)->shown() + " " + (*found)->authorization : "none";
  };
  EXPECT_EQ(shown("", "https://up.test/v1"), "none");
  EXPECT_EQ(shown("hub:3128", "https://up.test/v1"), "http://hub:3128 ");
  EXPECT_EQ(shown("hub:3128", "http://localhost/v1"), "none") << "what is here needs nobody between";
  ::setenv("ASHLAR_TEST_HUB", "http://me:x@hub:3128", 1);
  EXPECT_EQ(shown("env:ASHLAR_TEST_HUB", "https://up.test/v1"), "http://hub:3128 Basic bWU6eA==");
  ::setenv("ASHLAR_TEST_HUB", "socks5://hub", 1);
  EXPECT_EQ(shown("env:ASHLAR_TEST_HUB", "https://up.test/v1"), "wrong");
  EXPECT_EQ(shown("hub", "http://10.0.0.1/v1"), "forbidden") << "the proxy would go there for us";
  EXPECT_EQ(shown("hub", "http://10.0.0.1/v1", true), "http://hub:1080 ");
  EXPECT_EQ(shown("hub", "http://169.254.169.254/v1", true), "forbidden");
}

TEST(Secrets, AreReadFromWhereTheyAre) {
  const std::string folder = std::filesystem::temp_directory_path() / ("ashlar-secrets-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/key") << "  from-file\n";
  ::setenv("ASHLAR_TEST_SECRET", "from-env", 1);
  EXPECT_EQ(*read_secret("env:ASHLAR_TEST_SECRET"), "from-env");
  EXPECT_EQ(*read_secret("file:" + folder + "/key"), "from-file");
  ::setenv("ASHLAR_SEAL_KEY_FILE", (folder + "/deep/seal.key").c_str(), 1);
  ::unsetenv("ASHLAR_SEAL_KEY");
  EXPECT_FALSE(SealKey::find(false));
  const auto key = SealKey::find(true);
  ASSERT_TRUE(key) << key.error().message;
  struct stat about{};
  ASSERT_EQ(::stat((folder + "/deep/seal.key").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u);
  const std::string sealed = key->seal("hidden");
  EXPECT_NE(sealed, key->seal("hidden")) << "each has a nonce of its own";
  EXPECT_EQ(sealed.find("hidden"), sealed.npos);
  EXPECT_EQ(*read_secret(sealed), "hidden");
  std::string changed = sealed;
  changed[changed.size() - 6] ^= 1;
  for (const std::string& text :
       {changed, std::string("sealed:v1:AAAA"), std::string("sealed:v1:!"), sealed.substr(0, 40)})
    EXPECT_EQ(read_secret(text).error().code, Code::corrupt) << text;
  EXPECT_FALSE(SealKey(std::string(32, 'x')).open(sealed)) << "another key";
  ::chmod((folder + "/deep/seal.key").c_str(), 0644);
  EXPECT_EQ(SealKey::find(true).error().code, Code::forbidden);
  ::setenv("ASHLAR_SEAL_KEY", std::string(64, 'a').c_str(), 1);
  EXPECT_EQ(*SealKey::find(false)->open(SealKey(std::string(32, '\xaa')).seal("s")), "s");
  for (const char* text : {"", "sk-plain", "env:", "file:", "env:ASHLAR_NOT_SET", "file:/none", "sealed:v2:x"})
    EXPECT_FALSE(read_secret(text)) << text;
  EXPECT_EQ(read_secret("sk-plain").error().message.find("sk-plain"), std::string::npos);
  ::unsetenv("ASHLAR_SEAL_KEY");
  ::unsetenv("ASHLAR_SEAL_KEY_FILE");
  std::filesystem::remove_all(folder);
}

TEST(Addresses, PrivateOnesNeedLeaveAndSomeNeverGetIt) {
  for (const char* open : {"8.8.8.8", "2606:4700::1111", "172.32.0.1", "100.128.0.1"})
    EXPECT_TRUE(check_address(open, false, false)) << open;
  for (const char* closed : {"10.1.2.3", "192.168.0.1", "172.16.0.1", "172.31.255.255", "100.64.0.1", "fd00::1",
                             "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"}) {
    EXPECT_FALSE(check_address(closed, false, false)) << closed;
    EXPECT_TRUE(check_address(closed, false, true)) << closed;
  }
  for (const char* local : {"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"}) {
    EXPECT_TRUE(check_address(local, true, false)) << local;
    EXPECT_FALSE(check_address(local, false, false)) << local << ": a name of the outside that leads here";
  }
  for (const char* never : {"169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1", "::", "ff02::1",
                            "::ffff:169.254.169.254", "::7f00:1", "x", ""})
    EXPECT_FALSE(check_address(never, true, true)) << never;
}

TEST(Retries, BackoffIsAnythingBelowADoublingLimit) {
  std::mt19937_64 random(1);
  milliseconds most{0};
  for (int i = 0; i < 2000; ++i) {
    EXPECT_LE(backoff(1, milliseconds(100), milliseconds(5000), random), milliseconds(100));
    EXPECT_LE(backoff(60, milliseconds(100), milliseconds(5000), random), milliseconds(5000));
    most = std::max(most, backoff(3, milliseconds(100), milliseconds(5000), random));
  }
  EXPECT_LE(most, milliseconds(400));
  EXPECT_GT(most, milliseconds(350));
  EXPECT_EQ(backoff(2, milliseconds(0), milliseconds(0), random), milliseconds(0));
}

TEST(Retries, TheBudgetIsAShareOfWhatRunsAndAFloor) {
  RetryBudget budget(0.2, 3);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(budget.take());
  EXPECT_FALSE(budget.take());
  for (int i = 0; i < 20; ++i) budget.began();
  EXPECT_TRUE(budget.take()) << "a fifth of twenty";
  EXPECT_FALSE(budget.take());
  budget.give_back();
  EXPECT_TRUE(budget.take());
}

}  // namespace
}  // namespace ashlar::gateway
