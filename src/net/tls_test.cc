// TLS through real sockets, with certificates made here.
#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include <filesystem>
#include <fstream>
#include <mutex>

#include "net/http_client.h"
#include "net/http_server.h"
#include "net/identity_for_test.h"
#include "net/test_peer.h"

namespace ashlar::net {
namespace {

namespace fs = std::filesystem;

ServerOptions options_for(const Identity& identity) {
  ServerOptions options;
  options.tls_cert = identity.certificate();
  options.tls_key = identity.key();
  return options;
}

Result<ClientResponse> ask(int port, ClientOptions options, std::string body = "hi",
                           const std::string& host = "127.0.0.1") {
  const auto client = HttpClient::create(std::move(options));
  if (!client) return std::unexpected(client.error());
  return fetch(
      **client,
      {.method = "POST", .url = "https://" + host + ":" + std::to_string(port) + "/", .body = std::move(body)});
}

TEST(Tls, CarriesRequestsOfEverySize) {
  const Identity identity("localhost");
  const auto server = serve(
      [](const std::shared_ptr<Exchange>& exchange) {
        EXPECT_TRUE(exchange->request().tls);
        exchange->respond(200, {}, exchange->request().body);
      },
      options_for(identity));
  for (const std::size_t size : {0, 1, 16'383, 16'384, 16'385, 3'000'000}) {
    const std::string body(size, 'x');
    const auto reply = ask(server->port(), {.tls_ca = identity.certificate()}, body);
    ASSERT_TRUE(reply) << reply.error().message;
    EXPECT_EQ(reply->body, body);
  }
  EXPECT_TRUE(ask(server->port(), {.tls_ca = identity.certificate()}, "x", "localhost"));
  EXPECT_TRUE(ask(server->port(), {.tls_verify = false}));
}

TEST(Tls, IsRefusedByAClientThatDoesNotKnowTheSigner) {
  const Identity identity("localhost"), other("localhost");
  const auto server = serve(echo, options_for(identity));
  const auto reply = ask(server->port(), {.tls_ca = other.certificate()});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Code::unavailable);
  EXPECT_NE(reply.error().message.find("certificate"), std::string::npos) << reply.error().message;
}

TEST(Tls, AsksClientsForTheirCertificate) {
  const Identity identity("localhost"), ca("ca"), client("client", &ca), stranger("stranger");
  ServerOptions options = options_for(identity);
  options.tls_client_ca = ca.certificate();
  const auto server = serve(echo, options);
  const std::string trusted = identity.certificate();
  EXPECT_TRUE(ask(server->port(), {.tls_ca = trusted, .tls_cert = client.certificate(), .tls_key = client.key()}));
  EXPECT_FALSE(ask(server->port(), {.tls_ca = trusted}));
  EXPECT_FALSE(ask(server->port(), {.tls_ca = trusted, .tls_cert = stranger.certificate(), .tls_key = stranger.key()}));
}

TEST(Tls, AClientsCertificateMayBeOptional) {
  const Identity identity("localhost"), ca("ca"), client("client", &ca), stranger("stranger");
  std::mutex mutex;
  std::vector<bool> named;
  const Handler look = [&](const std::shared_ptr<Exchange>& exchange) {
    const std::lock_guard lock(mutex);
    named.push_back(exchange->request().peer_names != nullptr);
    exchange->respond(200, {}, "");
  };
  ServerOptions options = options_for(identity);
  options.tls_client_auth = "optional";
  EXPECT_EQ(HttpServer::listen(options, look).error().code, Code::invalid) << "nobody signs";
  options.tls_client_ca = ca.certificate();
  const auto server = serve(look, options);
  const std::string trusted = identity.certificate();
  EXPECT_TRUE(ask(server->port(), {.tls_ca = trusted}));
  EXPECT_TRUE(ask(server->port(), {.tls_ca = trusted, .tls_cert = client.certificate(), .tls_key = client.key()}));
  EXPECT_FALSE(ask(server->port(), {.tls_ca = trusted, .tls_cert = stranger.certificate(), .tls_key = stranger.key()}))
      << "a wrong one is worse than none";
  options.tls_client_auth = "perhaps";
  EXPECT_EQ(HttpServer::listen(options, look).error().code, Code::invalid);
  const std::lock_guard lock(mutex);
  EXPECT_EQ(named, (std::vector<bool>{false, true}));
}

TEST(Tls, TellsTheNamesInAClientsCertificate) {
  const Identity identity("localhost"), ca("ca"), client("client", &ca);
  std::mutex mutex;
  std::shared_ptr<const std::vector<std::string>> seen;
  const Handler look = [&](const std::shared_ptr<Exchange>& exchange) {
    const std::lock_guard lock(mutex);
    seen = exchange->request().peer_names;
    exchange->respond(200, {}, "");
  };
  const ClientOptions with{.tls_ca = identity.certificate(), .tls_cert = client.certificate(), .tls_key = client.key()};
  const auto open = serve(look, options_for(identity));
  ASSERT_TRUE(ask(open->port(), with));
  EXPECT_EQ(seen, nullptr) << "nobody vouched for it";
  ServerOptions options = options_for(identity);
  options.tls_client_ca = ca.certificate();
  const auto strict = serve(look, options);
  ASSERT_TRUE(ask(strict->port(), with));
  const std::lock_guard lock(mutex);
  ASSERT_NE(seen, nullptr);
  EXPECT_EQ(*seen, (std::vector<std::string>{"DNS:localhost", "DNS:hub.test"}));
}

TEST(Tls, GoesThroughATunnelOfAProxy) {
  const Identity identity("localhost");
  const auto server = serve(echo, options_for(identity));
  FakeProxy proxy("Basic bWU6YTpi");  // me:a:b
  ClientOptions options{.tls_ca = identity.certificate(), .proxies = ProxyRules({.https = proxy.url("me:a%3Ab@")})};
  const auto client = std::move(*HttpClient::create(options));
  const std::string to = "hub.test:" + std::to_string(server->port());
  for (const std::size_t size : {2, 300'000}) {
    const std::string body(size, 'x');
    const auto reply = fetch(*client, {.method = "POST", .url = "https://" + to + "/p", .body = body});
    ASSERT_TRUE(reply) << reply.error().message;
    EXPECT_EQ(reply->body, "POST /p? " + body);
  }
  ASSERT_EQ(proxy.heads().size(), 1u) << "the connection is kept";
  EXPECT_EQ(proxy.heads()[0],
            "CONNECT " + to + " HTTP/1.1\r\nhost: " + to + "\r\nproxy-authorization: Basic bWU6YTpi\r\n");

  // The server's certificate is checked all the same, through the tunnel.
  const Identity other("localhost");
  options.tls_ca = other.certificate();
  const auto reply = fetch(**HttpClient::create(options), {.url = "https://" + to + "/"});
  ASSERT_FALSE(reply);
  EXPECT_NE(reply.error().message.find("certificate"), std::string::npos) << reply.error().message;
}

TEST(Tls, TellsPlainHttpWhatToDo) {
  const Identity identity("localhost");
  const auto server = serve(echo, options_for(identity));
  Peer peer(server->port());
  peer.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n");
  const Reply reply = peer.read_reply();
  EXPECT_EQ(reply.status, 400);
  EXPECT_NE(reply.body.find("https://"), std::string::npos);
  EXPECT_EQ(peer.receive(), "");
}

TEST(Tls, ClosesOnNonsenseAndSilence) {
  const Identity identity("localhost");
  ServerOptions options = options_for(identity);
  options.header_timeout = std::chrono::milliseconds(100);
  const auto server = serve(echo, options);
  Peer nonsense(server->port()), silent(server->port()), begun(server->port());
  nonsense.send(std::string(100, '\xff'));
  while (!nonsense.receive().empty()) {
  }
  begun.send("\x16\x03\x01");
  EXPECT_EQ(begun.receive(), "");
  EXPECT_EQ(silent.receive(), "");
}

// One handshake by hand: the protocol agreed on, or "" if it failed.
std::string agree(int port, int version, std::string_view offered) {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_max_proto_version(context, version);
  SSL* ssl = SSL_new(context);
  Peer peer(port);
  SSL_set_alpn_protos(ssl, reinterpret_cast<const unsigned char*>(offered.data()),
                      static_cast<unsigned>(offered.size()));
  SSL_set_fd(ssl, peer.fd());
  std::string agreed = "failed";
  if (SSL_connect(ssl) == 1) {
    const unsigned char* name = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(ssl, &name, &size);
    agreed.assign(reinterpret_cast<const char*>(name), size);
    if (agreed == "h2") {
      // The server's settings follow the preface.
      SSL_write(ssl, kHttp2Preface.data(), static_cast<int>(kHttp2Preface.size()));
      SSL_write(ssl, "\0\0\0\4\0\0\0\0\0", 9);
      char frame[9] = {};
      EXPECT_EQ(SSL_read(ssl, frame, 9), 9);
      EXPECT_EQ(frame[3], 4);
    }
  }
  SSL_free(ssl);
  SSL_CTX_free(context);
  return agreed;
}

TEST(Tls, AgreesOnAProtocolAndSpeaksOnlyVersion13) {
  const Identity identity("localhost");
  const auto server = serve(echo, options_for(identity));
  EXPECT_EQ(agree(server->port(), TLS1_3_VERSION, "\x02h2\x08http/1.1"), "h2");
  EXPECT_EQ(agree(server->port(), TLS1_3_VERSION, "\x08http/1.1"), "http/1.1");
  EXPECT_EQ(agree(server->port(), TLS1_3_VERSION, ""), "");
  EXPECT_EQ(agree(server->port(), TLS1_3_VERSION, "\x04spdy"), "failed");
  EXPECT_EQ(agree(server->port(), TLS1_2_VERSION, "\x02h2"), "failed");
}

TEST(Tls, SaysWhichFileIsWrong) {
  const Identity identity("localhost"), other("localhost");
  ServerOptions options = options_for(identity);
  options.port = 0;
  options.tls_key = other.key();
  const auto mixed = HttpServer::listen(options, echo);
  ASSERT_FALSE(mixed);
  EXPECT_NE(mixed.error().message.find(other.key()), std::string::npos) << mixed.error().message;
  options.tls_key = identity.key();
  options.tls_client_ca = identity.key();
  EXPECT_FALSE(HttpServer::listen(options, echo));
}

}  // namespace
}  // namespace ashlar::net
