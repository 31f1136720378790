// The client's HTTP/2 with our own server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <vector>

#include "net/client_http2_for_test.h"

namespace ashlar::net {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using Held = std::shared_ptr<Exchange>;

TEST(ClientHttp2, SharesOneConnection) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  const auto client = make_client();
  std::vector<std::unique_ptr<Asked>> asked;
  for (int i = 0; i < 100; ++i)
    asked.push_back(ask(*client, {.method = "POST", .url = url(server->port(), "/p?q"), .body = std::to_string(i)}));
  std::set<std::string> peers;
  std::vector<Held> held;
  for (int i = 0; i < 100; ++i) {
    held.push_back(inbox.take());
    peers.insert(held.back()->request().peer);
    EXPECT_EQ(held.back()->request().version, 20);
  }
  EXPECT_EQ(peers.size(), 1u);
  for (const Held& exchange : held) echo(exchange);
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(asked[static_cast<std::size_t>(i)]->done.take());
    EXPECT_EQ(asked[static_cast<std::size_t>(i)]->body, "POST /p?q " + std::to_string(i));
  }
}

TEST(ClientHttp2, CarriesBodiesOfEverySize) {
  const auto server = serve([](const Held& exchange) {
    exchange->respond(200, {{"x-was", std::string(find_header(exchange->request().headers, "x-is"))}},
                      exchange->request().body);
  });
  const auto client = make_client();
  for (const std::size_t size : {0, 1, 16'384, 100'000, 5'000'000}) {
    const std::string body(size, 'x');
    const auto reply = fetch(
        *client, {.method = "POST", .url = url(server->port()), .headers = {{"X-Is", " so\r\nso "}}, .body = body});
    ASSERT_TRUE(reply) << reply.error().message;
    EXPECT_EQ(reply->body, body);
    EXPECT_EQ(find_header(reply->headers, "x-was"), "so  so");
  }
  EXPECT_EQ(fetch(*client, {.method = "HEAD", .url = url(server->port())})->body, "");
}

TEST(ClientHttp2, AHeaderThatCannotBeSentFailsItsCallAlone) {
  const auto server = serve(echo);
  const auto client = make_client();
  EXPECT_TRUE(fetch(*client, {.url = url(server->port())}));
  const auto reply = fetch(*client, {.url = url(server->port()), .headers = {{"x", std::string(200'000, '\x7e')}}});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Code::invalid);
  EXPECT_THAT(reply.error().message, HasSubstr("header"));
  EXPECT_TRUE(fetch(*client, {.url = url(server->port())}));
}

TEST(ClientHttp2, ADroppedCallEndsItsStreamAlone) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  const auto client = make_client();
  auto dropped = ask(*client, {.url = url(server->port(), "/dropped")});
  auto stays = ask(*client, {.url = url(server->port(), "/stays")});
  Held first = inbox.take(), second = inbox.take();
  if (first->request().path != "/dropped") std::swap(first, second);
  EXPECT_EQ(first->request().peer, second->request().peer);
  first->on_gone([&] { gone.put(1); });
  second->begin(200, {});
  second->write("one");
  dropped->call.reset();
  EXPECT_EQ(gone.take(), 1);
  EXPECT_TRUE(dropped->done.empty());
  second->write("two");
  second->end();
  EXPECT_TRUE(stays->done.take());
  EXPECT_EQ(stays->body, "onetwo");
}

TEST(ClientHttp2, MakesAnotherConnectionForWhatTheFirstDoesNotTake) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });  // takes 256 on each
  const auto client = make_client();
  std::vector<std::unique_ptr<Asked>> asked;
  for (int i = 0; i < 600; ++i) asked.push_back(ask(*client, {.url = url(server->port())}));
  std::set<std::string> peers;
  std::vector<Held> held;
  for (int i = 0; i < 600; ++i) {
    held.push_back(inbox.take());
    peers.insert(held.back()->request().peer);
  }
  EXPECT_EQ(peers.size(), 3u);
  for (const Held& exchange : held) echo(exchange);
  for (const auto& each : asked) EXPECT_TRUE(each->done.take());
}

TEST(ClientHttp2, WaitsForRoomWhereNoMoreConnectionsMayBeMade) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  const auto client = make_client({.max_http2_per_host = 1});
  std::vector<std::unique_ptr<Asked>> asked;
  for (int i = 0; i < 256; ++i) asked.push_back(ask(*client, {.url = url(server->port())}));
  std::vector<Held> held;
  for (int i = 0; i < 256; ++i) held.push_back(inbox.take());
  const auto late = fetch(*client, {.url = url(server->port()), .connect_timeout = milliseconds(30)});
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Code::unavailable);
  EXPECT_THAT(late.error().message, HasSubstr("no connection with room"));
  const auto waiting = ask(*client, {.url = url(server->port(), "/waits")});
  auto dropped = ask(*client, {.url = url(server->port(), "/dropped")});
  dropped->call.reset();
  EXPECT_TRUE(inbox.empty());
  echo(held.back());
  const Held next = inbox.take();
  EXPECT_EQ(next->request().path, "/waits");
  echo(next);
  EXPECT_TRUE(waiting->done.take());
}

TEST(ClientHttp2, IsSpokenWithoutTlsOnlyWhenAskedFor) {
  const auto server =
      serve([](const Held& exchange) { exchange->respond(200, {}, std::to_string(exchange->request().version)); });
  const auto version = [&](Http2 http2) {
    const auto client = std::move(*HttpClient::create({.http2 = http2}));
    return fetch(*client, {.url = url(server->port())})->body;
  };
  EXPECT_EQ(version(Http2::off), "11");
  EXPECT_EQ(version(Http2::tls), "11");
  EXPECT_EQ(version(Http2::always), "20");
}

TEST(ClientHttp2, IsNotSpokenToAProxy) {
  const auto server = serve(echo);
  FakeProxy proxy;
  const auto client = make_client({.proxies = ProxyRules({.http = proxy.url()})});
  EXPECT_EQ(fetch(*client, {.url = "http://hub.test:" + std::to_string(server->port()) + "/"})->body, "GET /? ");
}

TEST(ClientHttp2, OutlivesADrainOfItsServer) {
  Inbox<Held> inbox;
  auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  const auto client = make_client();
  const auto asked = ask(*client, {.url = url(server->port())});
  const Held exchange = inbox.take();
  std::jthread draining([&] { server->drain(std::chrono::seconds(30)); });
  exchange->begin(200, {});
  exchange->write("still");
  exchange->end();
  EXPECT_TRUE(asked->done.take());
  EXPECT_EQ(asked->body, "still");
}

TEST(ClientHttp2, EndsOpenCallsWhenItEnds) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  auto client = make_client({.max_http2_per_host = 1});
  std::vector<std::unique_ptr<Asked>> asked;
  for (int i = 0; i < 300; ++i) asked.push_back(ask(*client, {.url = url(server->port())}));
  std::vector<Held> held;
  for (int i = 0; i < 256; ++i) held.push_back(inbox.take());
  client.reset();
  for (const auto& each : asked) {
    const Status status = each->done.take();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, Code::cancelled);
  }
}

TEST(ClientHttp2, DeadlinesEndTheirStreamAlone) {
  Inbox<Held> inbox;
  Inbox<std::string> gone;
  const auto server = serve([&](Held exchange) {
    exchange->on_gone([&, path = exchange->request().path] { gone.put(path); });
    inbox.put(std::move(exchange));
  });
  const auto client = make_client();
  const auto stays = ask(*client, {.url = url(server->port(), "/stays")});
  const Held held = inbox.take();
  const auto silent = fetch(*client, {.url = url(server->port(), "/silent"), .response_timeout = milliseconds(50)});
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().code, Code::deadline);
  EXPECT_THAT(silent.error().message, HasSubstr("was silent for 50 ms"));
  EXPECT_EQ(gone.take(), "/silent");
  const auto slow = fetch(*client, {.url = url(server->port(), "/slow"), .timeout = milliseconds(50)});
  ASSERT_FALSE(slow);
  EXPECT_THAT(slow.error().message, HasSubstr("did not finish its answer within 50 ms"));
  EXPECT_EQ(gone.take(), "/slow");
  echo(held);
  EXPECT_TRUE(stays->done.take());
}

TEST(ClientHttp2, AConnectionWithManyDroppedCallsIsGivenUp) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  const auto client = make_client();
  const auto stays = ask(*client, {.url = url(server->port())});
  const Held held = inbox.take();
  std::set<std::string> peers;
  std::vector<Held> unanswered;
  for (int i = 0; i < 1100; ++i) {  // after 1,000 our server closes a connection
    auto dropped = ask(*client, {.url = url(server->port())});
    unanswered.push_back(inbox.take());
    peers.insert(unanswered.back()->request().peer);
    dropped->call.reset();
  }
  EXPECT_EQ(peers.size(), 3u);
  echo(held);
  EXPECT_TRUE(stays->done.take());
}

TEST(ClientHttp2, WhatADroppedCallStillGetsDoesNotCountAgainstTheServer) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  const auto client = make_client();
  const auto stays = ask(*client, {.url = url(server->port())});
  const Held held = inbox.take();
  for (int i = 0; i < 50; ++i) {
    auto dropped = ask(*client, {.url = url(server->port())});
    inbox.take()->respond(200, {}, std::string(3'000'000, 'x'));
    dropped->call.reset();
  }
  echo(held);
  const Status status = stays->done.take();
  EXPECT_TRUE(status) << status.error().message;
}

TEST(ClientHttp2, WhoWaitsForAConnectionThatFailsIsToldSoToo) {
  const auto client = make_client();
  std::vector<std::unique_ptr<Asked>> asked;
  for (int i = 0; i < 50; ++i) asked.push_back(ask(*client, {.url = "http://127.0.0.1:1/"}));
  for (const auto& each : asked) EXPECT_EQ(each->done.take().error().code, Code::unavailable);
}

}  // namespace
}  // namespace ashlar::net
