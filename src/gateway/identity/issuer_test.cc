// Issuers over real HTTP: a server of ours plays the identity provider.
#include "gateway/identity/issuer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "base/json_full.h"
#include "gateway/identity/fakes_for_test.h"
#include "gateway/identity/identity.h"
#include "gateway/identity/network.h"
#include "net/http_server.h"
#include "store/databases_for_test.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;

// A certificate of 127.0.0.1, signed by itself, in files that live as long as this.
class Certificate {
 public:
  Certificate() {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* made = X509_new();
    X509_set_version(made, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made), 1);
    X509_gmtime_adj(X509_getm_notBefore(made), -3600);
    X509_gmtime_adj(X509_getm_notAfter(made), 3600);
    X509_set_pubkey(made, key);
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, made, made, nullptr, nullptr, 0);
    for (const auto& [what, value] :
         {std::pair(NID_subject_alt_name, "IP:127.0.0.1"), std::pair(NID_basic_constraints, "critical,CA:TRUE")}) {
      X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, what, value);
      X509_add_ext(made, extension, -1);
      X509_EXTENSION_free(extension);
    }
    X509_sign(made, key, EVP_sha256());
    FILE* out = std::fopen(file().c_str(), "w");
    PEM_write_X509(out, made);
    std::fclose(out);
    out = std::fopen(key_file().c_str(), "w");
    PEM_write_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(out);
    X509_free(made);
    EVP_PKEY_free(key);
  }
  std::string file() const { return folder_.path() + "/cert.pem"; }
  std::string key_file() const { return folder_.path() + "/key.pem"; }

 private:
  const store::FolderForTest folder_;
};

// Answers each path with what the test put there, and counts who asked.
class Provider {
 public:
  struct Page {
    int status = 200;
    std::string body;
    net::Headers headers;
  };

  // `tls`: https, with this certificate.
  explicit Provider(const Certificate* tls = nullptr) {
    net::ServerOptions options;
    if (tls != nullptr) options.tls_cert = tls->file(), options.tls_key = tls->key_file();
    options.port = 0;
    options.http_threads = 1;
    server_ =
        *net::HttpServer::listen(options, [this](const std::shared_ptr<net::Exchange>& exchange) { answer(exchange); });
    url_ = (tls != nullptr ? "https://127.0.0.1:" : "http://127.0.0.1:") + std::to_string(server_->port());
    put("/.well-known/openid-configuration", {.body = dump_json({{"issuer", url_}, {"jwks_uri", url_ + "/keys"}})});
  }

  const std::string& url() const { return url_; }
  void put(const std::string& path, Page page) {
    const std::lock_guard lock(mutex_);
    pages_[path] = std::move(page);
  }
  int asked(const std::string& path) {
    const std::lock_guard lock(mutex_);
    return asked_[path];
  }
  // Nobody gets an answer until release().
  void hold() {
    const std::lock_guard lock(mutex_);
    holding_ = true;
  }
  void release() {
    std::vector<std::shared_ptr<net::Exchange>> held;
    {
      const std::lock_guard lock(mutex_);
      holding_ = false;
      held.swap(held_);
    }
    for (const auto& exchange : held) answer(exchange);
  }
  void wait_asked(const std::string& path, int times) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return asked_[path] >= times; });
  }

 private:
  void answer(const std::shared_ptr<net::Exchange>& exchange) {
    Page page;
    {
      const std::lock_guard lock(mutex_);
      const std::string& path = exchange->request().path;
      ++asked_[path];
      changed_.notify_all();
      if (holding_) return held_.push_back(exchange);
      const auto found = pages_.find(path);
      page = found == pages_.end() ? Page{.status = 404} : found->second;
    }
    exchange->respond(page.status, page.headers, page.body);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Page> pages_;
  std::map<std::string, int> asked_;
  bool holding_ = false;
  std::vector<std::shared_ptr<net::Exchange>> held_;
  std::string url_;
  std::unique_ptr<net::HttpServer> server_;
};

bool is_open(const char* address) { return is_public(*parse_address(address)); }

class IssuersTest : public testing::Test {
 protected:
  IssuerOptions options() {
    IssuerOptions out;
    out.rules.issuer = provider.url();
    out.rules.audiences = {"ashlar"};
    out.rules.algorithms = {"ES256"};
    out.allow_private = true;
    return out;
  }
  void open(IssuerOptions with) { issuers = *Issuers::create({std::move(with)}, clocks.clocks()); }
  void open() { open(options()); }
  void publish(const Signer& signer) { provider.put("/keys", {.body = signer.jwks()}); }

  Json claims() const {
    return {{"iss", provider.url()}, {"aud", "ashlar"}, {"sub", "ann"}, {"exp", clocks.unix_seconds + 86'400 * 365}};
  }
  // Waits for the answer: "ann", or the error's sentence.
  std::string ask(const std::string& token) {
    std::mutex mutex;
    std::condition_variable changed;
    std::string said;
    issuers->verify(token, [&](Result<Principal> who) {
      const std::lock_guard lock(mutex);
      said = who ? who->user : std::string(name(who.error().code)) + ": " + who.error().message;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !said.empty(); });
    return said;
  }
  std::string ask(const Signer& signer) { return ask(signer.token(claims())); }

  Provider provider;
  TurnedClocks clocks;
  Signer one{"ES256", "one"}, two{"ES256", "two"};
  std::unique_ptr<Issuers> issuers;
};

TEST_F(IssuersTest, KeysAreFoundByDiscoveryAndKept) {
  publish(one);
  open();
  EXPECT_EQ(provider.asked("/keys"), 0) << "nothing is fetched before it is needed";
  EXPECT_EQ(ask(one), "ann");
  EXPECT_EQ(ask(one), "ann");
  EXPECT_EQ(provider.asked("/keys"), 1);
  EXPECT_EQ(provider.asked("/.well-known/openid-configuration"), 1);
  EXPECT_TRUE(issuers->troubles().empty());
}

TEST_F(IssuersTest, AnUnknownKeyIsFetchedOnceInAWhile) {
  publish(one);
  open();
  EXPECT_EQ(ask(one), "ann");
  publish(two);  // rotated
  EXPECT_EQ(ask(two), "unauthorized: the token is not valid") << "asked a moment ago";
  EXPECT_EQ(provider.asked("/keys"), 1);
  clocks.steady_seconds += 10;
  EXPECT_EQ(ask(two), "ann");
  EXPECT_EQ(provider.asked("/keys"), 2);
  EXPECT_EQ(ask(one), "unauthorized: the token is not valid") << "the old key is gone";
  // A flood of unknown keys costs the issuer nothing.
  for (int i = 0; i < 200; ++i) EXPECT_THAT(ask(Signer("EdDSA", "made-up").token(claims())), HasSubstr("unauthorized"));
  EXPECT_LE(provider.asked("/keys"), 2);
}

TEST_F(IssuersTest, WhoWaitsForOneFetchSharesIt) {
  publish(one);
  open();
  provider.hold();
  std::atomic<int> good = 0;
  for (int i = 0; i < 50; ++i)
    issuers->verify(one.token(claims()), [&](const Result<Principal>& who) { good += who.has_value(); });
  provider.wait_asked("/.well-known/openid-configuration", 1);
  provider.release();
  EXPECT_EQ(ask(one), "ann");
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (good < 50 && std::chrono::steady_clock::now() < until) std::this_thread::yield();  // they are told one by one
  EXPECT_EQ(good, 50);
  EXPECT_EQ(provider.asked("/keys"), 1);
}

TEST_F(IssuersTest, WhoWaitsIsAnsweredByTheRulesHeCameWith) {
  publish(one);
  IdentityConfig config;
  config.issuers.push_back(options());
  provider.hold();
  auto identity = *Identity::create(std::move(config), nullptr, clocks.clocks());
  EXPECT_TRUE(identity->required());
  const net::HttpRequest request;
  std::promise<std::string> said;
  identity->identify(one.token(claims()), request,
                     [&](Result<Who> who) { said.set_value(who ? (*who)->user : who.error().message); });
  provider.wait_asked("/.well-known/openid-configuration", 1);
  // Nobody who comes from now on is taken.
  identity->set(*identity->prepare({}));
  EXPECT_FALSE(identity->required());
  identity->turn();
  bool refused = false;
  identity->identify(one.token(claims()), request, [&](Result<Who> who) { refused = !who; });
  EXPECT_TRUE(refused);
  provider.release();
  EXPECT_EQ(said.get_future().get(), "ann");
  identity->turn();
  IdentityConfig wrong;
  wrong.issuers.push_back(options());
  wrong.issuers.front().rules.audiences.clear();
  EXPECT_FALSE(identity->prepare(std::move(wrong)));
}

TEST_F(IssuersTest, KeysOutliveTheirIssuerForAWhile) {
  publish(one);
  auto with = options();
  with.stale_for = std::chrono::hours(1);
  open(with);
  EXPECT_EQ(ask(one), "ann");
  provider.put("/keys", {.status = 503});
  provider.put("/.well-known/openid-configuration", {.status = 503});
  clocks.steady_seconds += 3600;
  EXPECT_EQ(ask(one), "ann");
  clocks.steady_seconds += 1;
  EXPECT_THAT(ask(one), HasSubstr("unavailable: the keys of the token's issuer cannot be had"));
  EXPECT_THAT(issuers->troubles(), testing::ElementsAre(HasSubstr("could not be fetched")));
  publish(one);
  provider.put("/.well-known/openid-configuration",
               {.body = dump_json({{"issuer", provider.url()}, {"jwks_uri", provider.url() + "/keys"}})});
  clocks.steady_seconds += 60;
  EXPECT_EQ(ask(one), "ann");
  EXPECT_TRUE(issuers->troubles().empty());
}

TEST_F(IssuersTest, AClockThatJumpsChangesNoPace) {
  publish(one);
  open();
  EXPECT_EQ(ask(one), "ann");
  for (const std::int64_t jump : {-86'400, 2 * 86'400, -86'400}) {
    clocks.unix_seconds += jump;
    EXPECT_EQ(ask(one), "ann");
  }
  EXPECT_EQ(provider.asked("/keys"), 1);
}

TEST_F(IssuersTest, ADocumentOfAnotherIssuerIsRefused) {
  publish(one);
  open();
  for (const std::string& body :
       {dump_json({{"issuer", "https://other.example"}, {"jwks_uri", provider.url() + "/keys"}}),
        dump_json({{"issuer", provider.url()}}), std::string("<html>"), std::string("[]"),
        std::string(300 << 10, ' ')}) {
    provider.put("/.well-known/openid-configuration", {.body = body});
    EXPECT_THAT(ask(one), HasSubstr("unavailable")) << body.substr(0, 60);
    clocks.steady_seconds += 60;
  }
  EXPECT_EQ(provider.asked("/keys"), 0);
}

TEST_F(IssuersTest, GarbageInPlaceOfKeysLeavesTheOldOnes) {
  publish(one);
  open();
  EXPECT_EQ(ask(one), "ann");
  for (const char* body : {"", "{}", R"({"keys":[]})", "<html>", R"({"keys":[{"kty":"oct","k":"AAAA"}]})"}) {
    provider.put("/keys", {.body = body});
    clocks.steady_seconds += 60;
    EXPECT_THAT(ask(two), HasSubstr("unauthorized")) << body;
    EXPECT_EQ(ask(one), "ann") << body;
  }
}

TEST_F(IssuersTest, RedirectsAreFollowedAFewTimes) {
  publish(one);
  auto with = options();
  with.jwks_url = provider.url() + "/a";
  open(with);
  provider.put("/a", {.status = 302, .headers = {{"location", "/b"}}});
  provider.put("/b", {.status = 307, .headers = {{"location", provider.url() + "/keys"}}});
  EXPECT_EQ(ask(one), "ann");
  provider.put("/b", {.status = 307, .headers = {{"location", "/a"}}});
  clocks.steady_seconds += 60;
  EXPECT_THAT(ask(two), HasSubstr("unauthorized"));
  EXPECT_THAT(issuers->troubles(), testing::ElementsAre(HasSubstr("redirects more than")));
  EXPECT_LE(provider.asked("/a"), 5);
}

// Where nobody allowed private networks: the administrator's own address may be private, what it leads to may not.
TEST_F(IssuersTest, LeadsNowhereElseThanItsOwnServerAndThePublicNet) {
  const Certificate certificate;
  Provider secure(&certificate), neighbour(&certificate);
  auto with = options();
  with.allow_private = false;
  with.rules.issuer = secure.url();
  with.tls_ca = certificate.file();
  with.stale_for = std::chrono::seconds(0);
  open(with);
  const auto claims_of = [&](const Signer& signer) {
    Json out = claims();
    out["iss"] = secure.url();
    return signer.token(out);
  };
  const auto lead_to = [&](const std::string& where) {
    secure.put("/.well-known/openid-configuration",
               {.body = dump_json({{"issuer", secure.url()}, {"jwks_uri", where}})});
    clocks.steady_seconds += 60;
    return ask(claims_of(one));
  };
  secure.put("/keys", {.body = one.jwks()});
  neighbour.put("/keys", {.body = one.jwks()});
  publish(one);
  EXPECT_EQ(lead_to(secure.url() + "/keys"), "ann");
  secure.put("/keys", {.status = 302, .headers = {{"location", neighbour.url() + "/keys"}}});
  EXPECT_THAT(lead_to(secure.url() + "/keys"), HasSubstr("unavailable"));
  EXPECT_THAT(issuers->troubles(), testing::ElementsAre(HasSubstr("127.0.0.1, which is no public address")));
  const std::string port = neighbour.url().substr(neighbour.url().rfind(':'));
  for (const std::string& host :
       {std::string("https://127.0.0.1"), std::string("https://localhost"), std::string("https://2130706433"),
        std::string("https://0x7f.1"), std::string("https://[::ffff:127.0.0.1]")})
    EXPECT_THAT(lead_to(host + port + "/keys"), HasSubstr("unavailable")) << host;
  EXPECT_THAT(lead_to(provider.url() + "/keys"), HasSubstr("unavailable"));
  EXPECT_THAT(issuers->troubles(), testing::ElementsAre(HasSubstr("which is not https")));
  EXPECT_EQ(neighbour.asked("/keys") + provider.asked("/keys"), 0);
}

TEST_F(IssuersTest, NeverKnocksAtPrivateDoors) {
  auto with = options();
  with.allow_private = false;
  EXPECT_THAT(Issuers::create({with}).error().message, HasSubstr("without TLS"));
  for (const char* address : {"127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "172.16.0.1", "100.64.0.1",
                              "0.0.0.0", "::1", "::ffff:127.0.0.1", "fe80::1", "fd00::1", "::", "64:ff9b::a9fe:a9fe",
                              "2002:7f00:1::", "224.0.0.1", "255.255.255.255", "::127.0.0.1"})
    EXPECT_FALSE(is_open(address)) << address;
  for (const char* address : {"1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1", "::ffff:8.8.8.8"})
    EXPECT_TRUE(is_open(address)) << address;
}

TEST_F(IssuersTest, WhoWaitsAtTheEndIsToldSo) {
  publish(one);
  open();
  provider.hold();
  Code said = Code::internal;
  issuers->verify(one.token(claims()),
                  [&](const Result<Principal>& who) { said = who ? Code::internal : who.error().code; });
  provider.wait_asked("/.well-known/openid-configuration", 1);
  issuers->verify(one.token(claims()), [](const Result<Principal>&) {});
  std::thread ending([&] { issuers.reset(); });
  provider.release();
  ending.join();
  EXPECT_TRUE(said == Code::unavailable || said == Code::internal) << "answered, one way or the other";
}

TEST_F(IssuersTest, RefusesUniformlyWhatItCannotProve) {
  publish(one);
  open();
  EXPECT_EQ(ask(one), "ann");
  const std::string uniform = "unauthorized: the token is not valid";
  Json other = claims();
  other["iss"] = "https://unknown.example";
  const std::string good = one.token(claims());
  EXPECT_EQ(ask(one.token(other)), uniform);
  EXPECT_EQ(ask(Signer("ES256", "one").token(claims())), uniform);
  EXPECT_EQ(ask("ey.ey.ey"), uniform);
  EXPECT_EQ(ask(good + "x"), uniform);
  EXPECT_EQ(ask(one.token({{"alg", "HS256"}, {"kid", "one"}}, claims())), uniform);
  Json old = claims();
  old["exp"] = clocks.unix_seconds - 61;
  EXPECT_EQ(ask(one.token(old)), "unauthorized: the token is not valid: it has expired") << "its owner may know why";
}

TEST(Issuers, RulesThatCannotHoldAreRefused) {
  const auto why = [](auto&& change) {
    IssuerOptions options;
    options.rules.issuer = "https://login.example";
    options.rules.audiences = {"ashlar"};
    options.rules.algorithms = {"RS256"};
    change(options);
    std::vector<IssuerOptions> list;
    list.push_back(std::move(options));
    const auto made = Issuers::create(std::move(list));
    return made ? "made" : made.error().message;
  };
  EXPECT_EQ(why([](IssuerOptions&) {}), "made");
  EXPECT_THAT(why([](IssuerOptions& o) { o.rules.audiences.clear(); }), HasSubstr("audience"));
  EXPECT_THAT(why([](IssuerOptions& o) { o.rules.algorithms = {"none"}; }), HasSubstr("no algorithm 'none'"));
  EXPECT_THAT(why([](IssuerOptions& o) { o.rules.algorithms = {"RS256", "HS256"}; }),
              HasSubstr("may not stand beside"));
  EXPECT_THAT(why([](IssuerOptions& o) { o.rules.algorithms = {"HS256"}; }), HasSubstr("secret_file"));
  EXPECT_THAT(why([](IssuerOptions& o) { o.rules.skew = std::chrono::hours(1); }), HasSubstr("skew"));
  EXPECT_THAT(why([](IssuerOptions& o) { o.rules.issuer = "ftp://x"; }), testing::Ne("made"));
}

TEST(Issuers, ASecretOfTheirOwnSignsHs256) {
  const std::string secret(32, 's');
  TurnedClocks clocks;
  IssuerOptions options;
  options.rules.issuer = "our-backend";
  options.rules.audiences = {"ashlar"};
  options.rules.algorithms = {"HS256"};
  options.keys = {*Jwk::of_secret(secret)};
  const auto issuers = *Issuers::create({options}, clocks.clocks());
  const std::string body = R"({"iss":"our-backend","aud":"ashlar","sub":"job","exp":1700000300})";
  bool good = false, wrong = true;
  issuers->verify(hmac_token(secret, R"({"alg":"HS256"})", body), [&](const auto& who) { good = who.has_value(); });
  issuers->verify(hmac_token(std::string(32, 't'), R"({"alg":"HS256"})", body),
                  [&](const auto& who) { wrong = who.has_value(); });
  EXPECT_TRUE(good);
  EXPECT_FALSE(wrong);
}

}  // namespace
}  // namespace ashlar::gateway
