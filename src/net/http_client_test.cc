#include "net/http_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <thread>

#include "net/test_peer.h"

namespace ashlar::net {
namespace {

using std::chrono::milliseconds;
using Held = std::shared_ptr<Exchange>;

std::string url(int port, std::string_view target = "/") {
  return "http://127.0.0.1:" + std::to_string(port) + std::string(target);
}

std::unique_ptr<HttpClient> make_client(ClientOptions options = {}) {
  return std::move(*HttpClient::create(std::move(options)));
}

// Accepts connections one after the other and answers each with given bytes,
// whatever is asked; then closes. An empty answer: holds the connection.
class Scripted {
 public:
  explicit Scripted(std::vector<std::string> answers) : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 10), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    thread_ = std::jthread([this, answers = std::move(answers)] {
      for (const std::string& answer : answers) {
        const int fd = ::accept(listener_, nullptr, nullptr);
        if (fd < 0) return;
        char bytes[4096];
        [[maybe_unused]] auto got = ::recv(fd, bytes, sizeof bytes, 0);
        ::send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
        if (answer.empty()) got = ::recv(fd, bytes, sizeof bytes, 0);
        ::close(fd);
      }
    });
  }
  ~Scripted() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  int port = 0;

 private:
  int listener_;
  std::jthread thread_;
};

TEST(HttpClient, FetchesAndKeepsConnections) {
  std::mutex mutex;
  std::set<std::string> peers;
  const auto server = serve([&](const Held& exchange) {
    {
      const std::lock_guard lock(mutex);
      peers.insert(exchange->request().peer);
    }
    echo(exchange);
  });
  const auto client = make_client();
  for (int i = 0; i < 10; ++i) {
    const auto reply =
        fetch(*client, {.method = "POST", .url = url(server->port(), "/p?q"), .headers = {{"x", "y"}}, .body = "hi"});
    ASSERT_TRUE(reply) << reply.error().message;
    EXPECT_EQ(reply->status, 200);
    EXPECT_EQ(reply->body, "POST /p?q hi");
  }
  EXPECT_EQ(peers.size(), 1u);
  EXPECT_EQ(fetch(*client, {.method = "HEAD", .url = url(server->port())})->body, "");
}

TEST(HttpClient, ReadsStreamsAsTheyCome) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  const auto client = make_client();
  Inbox<std::string> got;
  const auto call = client->send({.url = url(server->port())},
                                 {.on_head = [&](int status, const Headers&) { got.put(std::to_string(status)); },
                                  .on_data = [&](std::string_view piece) { got.put(std::string(piece)); },
                                  .on_done = [&](Status status) { got.put(status ? "done" : "failed"); }});
  const Held exchange = inbox.take();
  exchange->begin(201, {});
  EXPECT_EQ(got.take(), "201");
  exchange->write("one");
  EXPECT_EQ(got.take(), "one");
  exchange->write("two");
  EXPECT_EQ(got.take(), "two");
  exchange->end();
  EXPECT_EQ(got.take(), "done");
}

TEST(HttpClient, CancelsWhenTheCallIsDropped) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  const auto client = make_client();
  std::atomic<bool> called = false;
  auto call = client->send({.url = url(server->port())}, {.on_done = [&](const Status&) { called = true; }});
  const Held exchange = inbox.take();
  exchange->on_gone([&] { gone.put(1); });
  call.reset();
  EXPECT_EQ(gone.take(), 1);
  EXPECT_FALSE(called);
}

TEST(HttpClient, EndsOpenCallsWhenItEnds) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  auto client = make_client();
  Inbox<Code> code;
  const auto call = client->send({.url = url(server->port())},
                                 {.on_done = [&](const Status& status) { code.put(status.error().code); }});
  const Held exchange = inbox.take();
  client.reset();
  EXPECT_EQ(code.take(), Code::cancelled);
}

TEST(HttpClient, MayBeUsedFromItsOwnCallbacks) {
  const auto server = serve(echo);
  const auto client = make_client();
  Inbox<std::string> got;
  std::unique_ptr<Call> first, second;
  std::atomic<bool> stored = false;
  first = client->send({.url = url(server->port(), "/1")}, {.on_done = [&](const Status&) {
                         while (!stored) std::this_thread::yield();
                         second =
                             client->send({.url = url(server->port(), "/2")},
                                          {.on_data = [&](std::string_view piece) { got.put(std::string(piece)); }});
                         first.reset();
                       }});
  stored = true;
  EXPECT_EQ(got.take(), "GET /2? ");
}

TEST(HttpClient, SaysWhatWentWrong) {
  ClientOptions options;
  options.response_timeout = milliseconds(100);
  options.max_body = 100_KiB;
  const auto client = make_client(options);
  const auto code = [&](std::string address, milliseconds timeout = {}) {
    const auto reply = fetch(*client, {.url = std::move(address), .timeout = timeout});
    return reply ? Code::internal : reply.error().code;
  };
  EXPECT_EQ(code("nonsense"), Code::invalid);
  EXPECT_EQ(code("ftp://a/"), Code::invalid);
  EXPECT_EQ(code("http://127.0.0.1:1/"), Code::unavailable);
  Scripted server({"", "", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "nonsense\r\n\r\n",
                   "HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n" + std::string(200'000, 'x'),
                   "HTTP/1.1 200 OK\r\nx: " + std::string(100'000, 'y') + "\r\n\r\n",
                   "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200\r\n\r\nto the end"});
  EXPECT_EQ(code(url(server.port)), Code::deadline);
  EXPECT_EQ(code(url(server.port), milliseconds(20)), Code::deadline);
  EXPECT_EQ(code(url(server.port)), Code::corrupt) << "cut";
  EXPECT_EQ(code(url(server.port)), Code::corrupt) << "not HTTP";
  EXPECT_EQ(code(url(server.port)), Code::too_large);
  EXPECT_EQ(code(url(server.port)), Code::too_large);
  EXPECT_EQ(fetch(*client, {.url = url(server.port)})->body, "to the end");
}

TEST(HttpClient, AsksAgainWhenAKeptConnectionWasClosed) {
  ServerOptions options;
  options.idle_timeout = milliseconds(1);
  const auto server = serve(echo, options);
  const auto client = make_client();
  for (int i = 0; i < 200; ++i) {
    const auto reply = fetch(*client, {.url = url(server->port())});
    ASSERT_TRUE(reply) << reply.error().message;
  }
}

TEST(HttpClient, ServesManyCallsAtOnce) {
  ServerOptions options;
  options.http_threads = 2;
  const auto server = serve(echo, options);
  const auto client = make_client();
  std::atomic<int> good = 0;
  Inbox<int> done;
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 500; ++i)
    calls.push_back(client->send({.url = url(server->port())}, {.on_done = [&](const Status& status) {
                                   good += status.has_value();
                                   done.put(1);
                                 }}));
  for (int i = 0; i < 500; ++i) done.take();
  EXPECT_EQ(good, 500);
}

TEST(Url, IsTakenApart) {
  const auto plain = parse_url("http://Example.org/a?b#c");
  EXPECT_EQ(plain->host, "Example.org");
  EXPECT_EQ(plain->port, 80);
  EXPECT_EQ(plain->target, "/a?b");
  EXPECT_FALSE(plain->tls);
  const auto v6 = parse_url("HTTPS://[::1]:8443?x");
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->port, 8443);
  EXPECT_EQ(v6->target, "/?x");
  EXPECT_TRUE(v6->tls);
  EXPECT_EQ(v6->authority(), "[::1]:8443");
  EXPECT_EQ(parse_url("https://a:443/")->authority(), "a");
  for (const auto* bad : {"",
                          "a",
                          "http:/a",
                          "ftp://a",
                          "http://",
                          "http:///x",
                          "http://a:0/",
                          "http://a:65536/",
                          "http://a:/",
                          "http://a:b/",
                          "http://u:p@a/",
                          "http://[::1/",
                          "http://[::1]x/",
                          "http://[[::1]/",
                          "http://[a]/",
                          "http://[]/",
                          "http://a[1]/",
                          "http://a]/",
                          "http://a/ b",
                          "http://a/\r\nx: y",
                          "http://a/\xc3\xbc"})
    EXPECT_FALSE(parse_url(bad)) << bad;
}

TEST(HttpClient, WaitsAndForgetsWhatIsDropped) {
  const auto client = make_client();
  Inbox<int> rung;
  const auto before = std::chrono::steady_clock::now();
  const auto later = client->after(milliseconds(30), [&] { rung.put(2); });
  const auto sooner = client->after(milliseconds(5), [&] { rung.put(1); });
  {
    const auto dropped = client->after(milliseconds(1), [&] { rung.put(3); });
  }
  EXPECT_EQ(rung.take(), 1);
  EXPECT_EQ(rung.take(), 2);
  EXPECT_GE(std::chrono::steady_clock::now() - before, milliseconds(30));
  EXPECT_TRUE(rung.empty());
  std::unique_ptr<Call> itself;
  Inbox<int> again;
  itself = client->after(milliseconds(1), [&] {
    again.put(1);
    itself = client->after(milliseconds(1), [&] { again.put(2); });
  });
  EXPECT_EQ(again.take(), 1);
  EXPECT_EQ(again.take(), 2);
}

TEST(HttpClient, AnAlarmMayOutliveItsClient) {
  std::unique_ptr<Call> alarm;
  alarm = make_client()->after(milliseconds(1'000'000), [] { ADD_FAILURE(); });
  alarm.reset();
}

TEST(HttpClient, GoesOnlyWhereItIsAdmitted) {
  const auto server = serve(echo);
  const auto client = make_client();
  std::vector<std::string> asked;
  ClientRequest request{.url = url(server->port())};
  request.admit = [&](const std::string& address) -> Status {
    asked.push_back(address);
    return Error{Code::forbidden, "not there"};
  };
  const auto refused = fetch(*client, request);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::forbidden);
  EXPECT_EQ(asked, std::vector<std::string>{"127.0.0.1"});
}

TEST(HttpClient, ConnectsToTheAddressThatItIsTold) {
  const auto server = serve([](const Held& exchange) {
    exchange->respond(200, {}, std::string(find_header(exchange->request().headers, "host")));
  });
  const auto client = make_client();
  const std::string port = std::to_string(server->port());
  ClientRequest request{.url = "http://there.is.no.such.host.invalid:" + port + "/"};
  request.address = "127.0.0.1";
  Inbox<std::string> connected, body;
  const auto call = client->send(request, {.on_connect = [&](const std::string& address) { connected.put(address); },
                                           .on_head = {},
                                           .on_data = [&](std::string_view piece) { body.put(std::string(piece)); },
                                           .on_done = {}});
  EXPECT_EQ(connected.take(), "127.0.0.1");
  EXPECT_EQ(body.take(), "there.is.no.such.host.invalid:" + port);
}

TEST(HttpClient, APostThatMayBeRepeatedOutlivesAKeptConnection) {
  // The first answer is kept alive; then its connection dies as the next request arrives.
  Scripted server({"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb"});
  const auto client = make_client();
  ClientRequest request{.method = "POST", .url = url(server.port), .repeatable = true};
  EXPECT_EQ(fetch(*client, request)->body, "a");
  EXPECT_EQ(fetch(*client, request)->body, "b");
}

}  // namespace
}  // namespace ashlar::net
