#include "net/proxy.h"

#include <gmock/gmock.h>

#include <cstdlib>

#include "net/http_client.h"
#include "net/test_peer.h"

namespace ashlar::net {
namespace {

using testing::HasSubstr;
using testing::Not;

Url url_of(const std::string& text) { return parse_url(text).value(); }

TEST(Proxy, IsReadAsInAUrl) {
  const auto plain = parse_proxy("proxy.example", "p");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->shown(), "http://proxy.example:1080");
  EXPECT_EQ(plain->authorization, "");
  EXPECT_EQ(parse_proxy("proxy.example:80", "p")->port, 80);
  const auto full = parse_proxy("HTTP://me:se%20cret@[::1]:3128/", "p");
  ASSERT_TRUE(full);
  EXPECT_EQ(full->shown(), "http://[::1]:3128");
  EXPECT_EQ(full->authorization, "Basic bWU6c2UgY3JldA==");
  EXPECT_EQ(parse_proxy("http://[::1]", "p")->port, 1080);
  EXPECT_EQ(parse_proxy("me@h:1", "p")->authorization, "Basic bWU6");
  for (const std::string bad : {"", "http://", "socks5://secret@h:1", "https://h:1", "secret%zz@h", "a:secret@h:x",
                                "@h", "a%3Asecret@h", "me:secret@", "me:secret@ h"}) {
    const auto proxy = parse_proxy(bad, "https_proxy");
    ASSERT_FALSE(proxy) << bad;
    EXPECT_EQ(proxy.error().code, Code::invalid);
    EXPECT_THAT(proxy.error().message, HasSubstr("https_proxy: "));
    EXPECT_THAT(proxy.error().message, Not(HasSubstr("secret")));
  }
}

TEST(Proxy, IsLeftOutForThoseListed) {
  const struct {
    const char *none, *url;
    bool listed;
  } cases[] = {
      {"", "http://a.org", false},
      {"*", "http://a.org", true},
      {"a.org", "http://a.org", true},
      {"a.org", "http://www.a.org:8080", true},
      {".a.org", "http://a.org", true},
      {".a.org", "http://x.a.org", true},
      {"*.a.org", "http://x.a.org", true},
      {"A.ORG.", "https://X.a.org./", true},
      {"a.org", "http://ba.org", false},
      {"x.a.org", "http://a.org", false},
      {"b.org, a.org", "http://a.org", true},
      {"b.org a.org", "http://a.org", true},
      {",,", "http://a.org", false},
      {"a.org:443", "https://a.org", true},
      {"a.org:443", "http://a.org", false},
      {"10.1.2.3", "http://10.1.2.3", true},
      {"10.1.2.3", "http://10.1.2.30", false},
      {"10.0.0.0/8", "http://10.200.0.1", true},
      {"10.0.0.0/8", "http://11.0.0.1", false},
      {"192.168.1.128/25", "http://192.168.1.200", true},
      {"192.168.1.128/25", "http://192.168.1.100", false},
      {"0.0.0.0/0", "http://1.2.3.4", true},
      {"0.0.0.0/0", "http://a.org", false},
      {"10.0.0.0/33", "http://10.0.0.0", false},
      {"10.0.0.0/x", "http://10.0.0.0", false},
      {"fd00::/8", "http://[fdab::1]", true},
      {"fd00::/8", "http://[fe00::1]", false},
      {"::/0", "http://1.2.3.4", false},
      {"[fd00::1]:80", "http://[fd00::1]", true},
      {"[fd00::1]", "http://[FD00:0::1]:81", true},
      {"[fd00::1]:80", "http://[fd00::1]:81", false},
      {"[fd00", "http://[fd00::1]", false},
      {".", "http://a.org", false},
  };
  for (const auto& each : cases)
    EXPECT_EQ(is_listed(each.none, url_of(each.url)), each.listed) << each.none << " " << each.url;
}

TEST(Proxy, IsNotAskedForThisMachine) {
  const ProxyRules rules({.http = "plain:1", .https = "tls:2", .none = "b.org"});
  EXPECT_EQ((*rules.find(url_of("http://a.org")))->host, "plain");
  EXPECT_EQ((*rules.find(url_of("https://a.org")))->port, 2);
  for (const char* direct : {"https://b.org", "http://localhost:80", "http://x.localhost.", "http://127.9.9.9",
                             "http://[::1]", "http://[::ffff:127.0.0.1]"})
    EXPECT_FALSE(*rules.find(url_of(direct))) << direct;
  for (const char* other : {"http://127.evil.org", "http://localhost.org", "http://[::2]"})
    EXPECT_TRUE(*rules.find(url_of(other))) << other;
  const ProxyRules broken({.https = "socks5://h"});
  EXPECT_FALSE(*broken.find(url_of("http://a.org")));
  EXPECT_THAT(broken.find(url_of("https://a.org")).error().message, HasSubstr("https_proxy"));
}

TEST(Proxy, IsNamedByTheEnvironment) {
  const char* const names[] = {"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY",
                               "all_proxy",  "ALL_PROXY",  "no_proxy",    "NO_PROXY"};
  std::vector<std::optional<std::string>> before;
  for (const char* name : names) {
    const char* value = std::getenv(name);
    before.push_back(value == nullptr ? std::nullopt : std::optional<std::string>(value));
    ::unsetenv(name);
  }
  EXPECT_EQ(proxy_settings_from_environment(), ProxySettings());
  ::setenv("HTTP_PROXY", "never", 1);
  ::setenv("HTTPS_PROXY", "capital", 1);
  ::setenv("NO_PROXY", "x", 1);
  EXPECT_EQ(proxy_settings_from_environment(), (ProxySettings{.https = "capital", .none = "x"}));
  ::setenv("ALL_PROXY", "all", 1);
  ::setenv("https_proxy", "small", 1);
  ::setenv("no_proxy", "y", 1);
  EXPECT_EQ(proxy_settings_from_environment(), (ProxySettings{.http = "all", .https = "small", .none = "y"}));
  for (std::size_t i = 0; i < before.size(); ++i)
    if (before[i])
      ::setenv(names[i], before[i]->c_str(), 1);
    else
      ::unsetenv(names[i]);
}

TEST(Proxy, IsHandedWholeAddressesOfPlainHttp) {
  const auto server = serve(echo);
  FakeProxy proxy("Basic bWU6eA==");
  const auto client = std::move(*HttpClient::create({.proxies = ProxyRules({.http = proxy.url("me:x@")})}));
  const std::string to = "hub.test:" + std::to_string(server->port());
  for (int i = 0; i < 3; ++i) {
    const auto reply = fetch(*client, {.method = "POST", .url = "http://" + to + "/a?b", .body = "hi"});
    ASSERT_TRUE(reply) << reply.error().message;
    EXPECT_EQ(reply->body, "POST /a?b hi");
  }
  ASSERT_EQ(proxy.heads().size(), 1u) << "the connection is kept";
  EXPECT_THAT(proxy.heads()[0], testing::StartsWith("POST http://" + to + "/a?b HTTP/1.1\r\nhost: " + to +
                                                    "\r\nproxy-authorization: Basic bWU6eA==\r\n"));
}

TEST(Proxy, IsNamedInWhatGoesWrong) {
  const auto server = serve(echo);
  const std::string port = std::to_string(server->port());
  const auto error = [&](const std::string& scheme, const std::string& proxy) {
    const auto client = std::move(*HttpClient::create({.proxies = ProxyRules({.http = proxy, .https = proxy})}));
    const auto reply = fetch(*client, {.url = scheme + "://hub.test:" + port + "/"});
    EXPECT_FALSE(reply);
    return reply ? Error{} : reply.error();
  };
  FakeProxy strict("Basic bWU6eA==");
  for (const char* scheme : {"http", "https"}) {
    const Error none = error(scheme, strict.url());
    EXPECT_EQ(none.code, Code::unauthorized);
    EXPECT_THAT(none.message, HasSubstr("The proxy " + strict.url() + " wants a user name and a password: "));
    const Error wrong = error(scheme, strict.url("me:secret@"));
    EXPECT_THAT(wrong.message, HasSubstr("and not these"));
    EXPECT_THAT(wrong.message, Not(HasSubstr("secret")));
    const Error nobody = error(scheme, "127.0.0.1:1");
    EXPECT_EQ(nobody.code, Code::unavailable);
    EXPECT_THAT(nobody.message, HasSubstr("Cannot connect to the proxy http://127.0.0.1:1"));
    EXPECT_EQ(error(scheme, "socks5://a").code, Code::invalid);
  }
  const struct {
    int status;
    Code code;
    const char* says;
  } refusals[] = {{403, Code::forbidden, "does not connect to hub.test:"},
                  {502, Code::unavailable, "502 Bad Gateway"},
                  {302, Code::unavailable, "does not connect"},
                  {0, Code::unavailable, "closed the connection before it answered"}};
  for (const auto& each : refusals) {
    FakeProxy proxy("", each.status);
    const Error said = error("https", proxy.url());
    EXPECT_EQ(said.code, each.code) << each.status;
    EXPECT_THAT(said.message, HasSubstr("The proxy " + proxy.url())) << each.status;
    EXPECT_THAT(said.message, HasSubstr(each.says)) << each.status;
  }
}

}  // namespace
}  // namespace ashlar::net
