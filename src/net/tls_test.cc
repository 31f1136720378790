// TLS through real sockets, with certificates made here.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>

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

class TlsTunnel : public testing::TestWithParam<Http2> {};
INSTANTIATE_TEST_SUITE_P(Both, TlsTunnel, testing::Values(Http2::off, Http2::tls));

TEST_P(TlsTunnel, IsMadeByAProxy) {
  const Identity identity("localhost");
  const auto server = serve(echo, options_for(identity));
  FakeProxy proxy("Basic bWU6YTpi");  // me:a:b
  ClientOptions options{.tls_ca = identity.certificate(), .proxies = ProxyRules({.https = proxy.url("me:a%3Ab@")})};
  options.http2 = GetParam();
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

TEST(Tls, TheClientSpeaksHttp2WithServersThatChooseIt) {
  const Identity identity("localhost");
  Inbox<std::shared_ptr<Exchange>> inbox;
  const auto server =
      serve([&](std::shared_ptr<Exchange> exchange) { inbox.put(std::move(exchange)); }, options_for(identity));
  const std::string url = "https://localhost:" + std::to_string(server->port()) + "/";
  for (const Http2 http2 : {Http2::off, Http2::tls, Http2::always}) {
    const auto client = std::move(*HttpClient::create({.http2 = http2, .tls_ca = identity.certificate()}));
    Inbox<Status> done;
    std::vector<std::unique_ptr<Call>> calls;
    for (int i = 0; i < 20; ++i)
      calls.push_back(client->send({.url = url}, {.on_done = [&](Status status) { done.put(std::move(status)); }}));
    std::set<std::string> peers;
    std::vector<std::shared_ptr<Exchange>> held;
    for (int i = 0; i < 20; ++i) {
      held.push_back(inbox.take());
      peers.insert(held.back()->request().peer);
      EXPECT_EQ(held.back()->request().version, http2 == Http2::off ? 11 : 20);
    }
    EXPECT_EQ(peers.size(), http2 == Http2::off ? 20u : 1u);
    for (const auto& exchange : held) exchange->respond(200, {}, "x");
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(done.take());
  }
}

// A server that chooses HTTP/1.1 of what it is offered, and answers each connection's first request.
class OldServer {
 public:
  explicit OldServer(const Identity& identity) : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    SSL_CTX_use_certificate_chain_file(context_, identity.certificate().c_str());
    SSL_CTX_use_PrivateKey_file(context_, identity.key().c_str(), SSL_FILETYPE_PEM);
    SSL_CTX_set_alpn_select_cb(
        context_,
        [](SSL*, const unsigned char** out, unsigned char* size, const unsigned char* offered, unsigned offered_size,
           void*) {
          EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(offered), offered_size), "\x02h2\x08http/1.1");
          *out = offered + 4;
          *size = 8;
          return SSL_TLSEXT_ERR_OK;
        },
        nullptr);
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 100), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    thread_ = std::jthread([this] {
      for (int fd; (fd = ::accept(listener_, nullptr, nullptr)) >= 0;) {
        ++connections;
        SSL* ssl = SSL_new(context_);
        SSL_set_fd(ssl, fd);
        char bytes[4096];
        constexpr std::string_view kAnswer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
        if (SSL_accept(ssl) == 1 && SSL_read(ssl, bytes, sizeof bytes) > 0)
          SSL_write(ssl, kAnswer.data(), static_cast<int>(kAnswer.size()));
        SSL_shutdown(ssl);
        SSL_free(ssl);
        ::close(fd);
      }
    });
  }
  ~OldServer() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
    SSL_CTX_free(context_);
  }
  int port = 0;
  std::atomic<int> connections = 0;

 private:
  SSL_CTX* const context_ = SSL_CTX_new(TLS_server_method());
  int listener_;
  std::jthread thread_;
};

TEST(Tls, TheClientSpeaksHttp1WithServersThatChooseThat) {
  const Identity identity("localhost");
  OldServer server(identity);
  const auto client = std::move(*HttpClient::create({.http2 = Http2::tls, .tls_ca = identity.certificate()}));
  Inbox<Status> done;
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 10; ++i)
    calls.push_back(client->send({.url = "https://localhost:" + std::to_string(server.port) + "/"},
                                 {.on_done = [&](Status status) { done.put(std::move(status)); }}));
  for (int i = 0; i < 10; ++i) {
    const Status status = done.take();
    EXPECT_TRUE(status) << status.error().message;
  }
  EXPECT_EQ(server.connections, 10);
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
