// The server through real sockets: HTTP/1.1 connections, streams, limits of time
// and size, clients that misbehave, and the end of it all.
#include "net/http_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "base/metrics.h"
#include "net/test_peer.h"

namespace ashlar::net {
namespace {

using std::chrono::milliseconds;
using Held = std::shared_ptr<Exchange>;

constexpr std::string_view kGet = "GET /a HTTP/1.1\r\nhost: h\r\n\r\n";
constexpr std::string_view kGetLast = "GET /b HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

TEST(HttpServer, KeepsTheConnection) {
  const auto server = serve(echo);
  Peer peer(server->port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(peer.send(kGet));
    const Reply reply = peer.read_reply();
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.body, "GET /a? ");
    EXPECT_EQ(find_header(reply.headers, "content-type"), "text/plain");
    EXPECT_FALSE(find_header(reply.headers, "date").empty());
    EXPECT_EQ(find_header(reply.headers, "connection"), "");
  }
  peer.send(kGetLast);
  EXPECT_EQ(find_header(peer.read_reply().headers, "connection"), "close");
  EXPECT_EQ(peer.receive(), "");
}

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer peer(server->port());
  std::string all;
  for (int i = 0; i < 20; ++i)
    all += "POST /" + std::to_string(i) + " HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nxy";
  peer.send(all);
  for (int i = 0; i < 20; ++i) {
    const Held exchange = inbox.take();
    EXPECT_TRUE(inbox.empty()) << "one at a time";
    echo(exchange);
    EXPECT_EQ(peer.read_reply().body, "POST /" + std::to_string(i) + "? xy");
  }
}

TEST(HttpServer, BoundsWhatIsSentAhead) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer peer(server->port());
  std::string many;
  for (int i = 0; i < 10'000; ++i) many += kGet;
  std::thread sender([&] { peer.send(many); });
  for (int i = 0; i < 10'000; ++i) echo(inbox.take());
  for (int i = 0; i < 10'000; ++i) ASSERT_TRUE(peer.read_reply().whole);
  sender.join();
}

TEST(HttpServer, ReadsChunkedBodies) {
  const auto server = serve(echo);
  Peer peer(server->port());
  peer.send("POST /c HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
  peer.send("5\r\nhel");
  peer.send("lo\r\n1;a=b\r\n!\r\n0\r\nx: y\r\n");
  peer.send("\r\n");
  EXPECT_EQ(peer.read_reply().body, "POST /c? hello!");
  peer.send(kGet);
  EXPECT_EQ(peer.read_reply().body, "GET /a? ");
}

TEST(HttpServer, StreamsPiecesAsTheyCome) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer peer(server->port());
  peer.send(kGet);
  const Held exchange = inbox.take();
  exchange->begin(200, {{"content-type", "text/event-stream"}});
  exchange->write("data: 1\n\n");
  EXPECT_NE(peer.read_until("data: 1\n\n\r\n").find("transfer-encoding: chunked"), std::string::npos);
  exchange->write("data: 2\n\n");
  EXPECT_EQ(peer.read_until("\n\n\r\n"), "9\r\ndata: 2\n\n\r\n");
  exchange->write("");  // would end a chunked body
  exchange->end();
  EXPECT_EQ(peer.read_until("0\r\n\r\n"), "0\r\n\r\n");
  exchange->write("late");
  exchange->end();
  peer.send(kGet);
  echo(inbox.take());
  EXPECT_EQ(peer.read_reply().body, "GET /a? ");
}

TEST(HttpServer, StreamsToOldClientsUntilTheEndOfTheConnection) {
  const auto server = serve([](const Held& exchange) {
    exchange->begin(200, {});
    exchange->write("one");
    exchange->write("two");
    exchange->end();
  });
  Peer peer(server->port());
  peer.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
  const std::string all = peer.read_all();
  EXPECT_EQ(all.find("chunked"), all.npos);
  EXPECT_TRUE(all.ends_with("\r\n\r\nonetwo")) << all;
}

TEST(HttpServer, KeepsAnOldClientThatAsksForIt) {
  const auto server = serve(echo);
  Peer peer(server->port());
  peer.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
  EXPECT_EQ(find_header(peer.read_reply().headers, "connection"), "keep-alive");
  peer.send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(peer.read_reply().whole);
  EXPECT_EQ(peer.receive(), "");
}

TEST(HttpServer, SaysContinueToWhoeverWaitsForIt) {
  const auto server = serve(echo);
  Peer peer(server->port());
  peer.send("POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
  EXPECT_EQ(peer.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  peer.send("ok");
  EXPECT_EQ(peer.read_reply().body, "POST /? ok");
}

TEST(HttpServer, AnswersHeadWithoutABody) {
  const auto server = serve(echo);
  Peer peer(server->port());
  peer.send("HEAD / HTTP/1.1\r\nhost: h\r\n\r\n");
  const Reply reply = peer.read_reply("HEAD");
  EXPECT_EQ(find_header(reply.headers, "content-length"), "8");
  peer.send(kGet);
  EXPECT_EQ(peer.read_reply().body, "GET /a? ");
}

TEST(HttpServer, AnswersForHandlersThatDoNot) {
  const auto server = serve([](const Held& exchange) {
    if (exchange->request().path == "/a") throw std::runtime_error("on purpose");
  });
  Peer peer(server->port());
  peer.send(kGet);
  EXPECT_EQ(peer.read_reply().status, 500);
  peer.send("GET /dropped HTTP/1.1\r\nhost: h\r\n\r\n");
  EXPECT_EQ(peer.read_reply().status, 500);
}

TEST(HttpServer, CutsAStreamWhoseHolderLeaves) {
  const auto server = serve([](const Held& exchange) {
    exchange->begin(200, {});
    exchange->write("half");
  });
  Peer peer(server->port());
  peer.send(kGet);
  const Reply reply = peer.read_reply();
  EXPECT_EQ(reply.body, "half");
  EXPECT_FALSE(reply.whole);
}

TEST(HttpServer, TellsWhenTheClientLeaves) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer peer(server->port());
  peer.send(kGet);
  const Held exchange = inbox.take();
  exchange->begin(200, {});
  exchange->on_gone([&] { gone.put(1); });
  peer.read_until("\r\n\r\n");
  EXPECT_TRUE(gone.empty());
  peer.close();
  EXPECT_EQ(gone.take(), 1);
  exchange->write("to nobody");
  exchange->end();
  exchange->on_gone([&] { gone.put(2); });  // too late: told at once
  EXPECT_EQ(gone.take(), 2);
}

TEST(HttpServer, TellsWhileRequestsWaitBehind) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer peer(server->port());
  peer.send(std::string(kGet) + std::string(kGet));
  const Held exchange = inbox.take();
  exchange->on_gone([&] { gone.put(1); });
  peer.close();
  EXPECT_EQ(gone.take(), 1);
}

TEST(HttpServer, StillAnswersAClientThatOnlyEndsItsOutput) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer peer(server->port());
  peer.send(kGet);
  peer.end_output();
  const Held exchange = inbox.take();
  exchange->on_gone([&] { gone.put(1); });
  EXPECT_EQ(gone.take(), 1);
  echo(exchange);
  EXPECT_EQ(peer.read_reply().body, "GET /a? ");
  EXPECT_EQ(peer.receive(), "");
}

TEST(HttpServer, DropsAClientForWhomTooMuchPilesUp) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  ServerOptions options;
  options.max_unsent = 256_KiB;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); }, options);
  Peer peer(server->port());
  peer.send(kGet);
  const Held exchange = inbox.take();
  exchange->on_gone([&] { gone.put(1); });
  exchange->begin(200, {});
  std::atomic<bool> told = false;
  std::thread waiter([&] { told = gone.take() == 1; });
  for (int i = 0; i < 10'000 && !told; ++i) exchange->write(std::string(16 << 10, 'x'));
  waiter.join();
  EXPECT_TRUE(told);
  while (!peer.receive().empty()) {
  }
  EXPECT_TRUE(peer.failed()) << "the client should see a reset";
}

TEST(HttpServer, DropsAClientThatStopsReading) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  ServerOptions options;
  options.write_timeout = milliseconds(100);
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); }, options);
  Peer peer(server->port());
  peer.send(kGet);
  const Held exchange = inbox.take();
  exchange->on_gone([&] { gone.put(1); });
  exchange->begin(200, {});
  exchange->write(std::string(32 << 20, 'x'));  // one piece may be large; the socket's buffers are not that large
  EXPECT_EQ(gone.take(), 1);
}

TEST(HttpServer, SendsALargeAnswerToASlowReader) {
  const std::string large(24 << 20, 'x');
  const auto server = serve([&](const Held& exchange) { exchange->respond(200, {}, large); });
  Peer peer(server->port());
  peer.send(kGet);
  EXPECT_EQ(peer.read_reply().body, large);
}

TEST(HttpServer, RefusesABodyOverTheLimitWithoutReadingIt) {
  ServerOptions options;
  options.max_body = 1_KiB;
  const auto server = serve(echo, options);
  Peer announced(server->port());
  announced.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100000000\r\nexpect: 100-continue\r\n\r\n");
  EXPECT_EQ(announced.read_reply().status, 413);
  // A client that sends all before it reads still gets the answer.
  Peer pushing(server->port());
  pushing.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4000000\r\n\r\n" + std::string(4'000'000, 'x'));
  const Reply reply = pushing.read_reply();
  EXPECT_EQ(reply.status, 413);
  EXPECT_NE(reply.body.find("larger than 1024 bytes"), std::string::npos) << reply.body;
}

TEST(HttpServer, BoundsAllBodiesTogether) {
  ServerOptions options;
  options.max_bodies = 500_KiB;
  const auto server = serve(echo, options);
  const auto post = [](std::size_t size) {
    return "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: " + std::to_string(size) + "\r\n\r\n" +
           std::string(size, 'x');
  };
  for (int i = 0; i < 3; ++i) {
    Peer peer(server->port());
    peer.send(post(400'000));
    EXPECT_EQ(peer.read_reply().status, 200) << "a share is given back";
    Peer large(server->port());
    large.send(post(600'000));
    EXPECT_EQ(large.read_reply().status, 503);
  }
}

TEST(HttpServer, AnswersAllThatWasSentBeforeTheOutputEnded) {
  const auto server = serve(echo);
  Peer peer(server->port());
  peer.send(std::string(kGet) + std::string(kGet) + "GET /half");
  peer.end_output();
  EXPECT_EQ(peer.read_reply().body, "GET /a? ");
  EXPECT_EQ(peer.read_reply().body, "GET /a? ");
  EXPECT_EQ(peer.receive(), "");
}

TEST(HttpServer, TimesOutSlowHeadersAndBodies) {
  ServerOptions options;
  options.header_timeout = options.body_timeout = milliseconds(100);
  const auto server = serve(echo, options);
  Peer header(server->port()), body(server->port()), silent(server->port()), late(server->port());
  header.send("GET / HTTP/1.1\r\nho");
  body.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc");
  late.send(std::string(kGet) + "GET /sl");
  EXPECT_EQ(header.read_reply().status, 408);
  EXPECT_EQ(header.receive(), "");
  EXPECT_EQ(body.read_reply().status, 408);
  EXPECT_EQ(body.receive(), "");
  EXPECT_EQ(silent.receive(), "") << "who has asked nothing gets no answer";
  EXPECT_EQ(late.read_reply().status, 200);
  EXPECT_EQ(late.read_reply().status, 408);
}

TEST(HttpServer, OneByteAtATimeDoesNotHoldTheTimeoutOff) {
  ServerOptions options;
  options.header_timeout = milliseconds(150);
  const auto server = serve(echo, options);
  Peer peer(server->port());
  const std::string request = "GET /" + std::string(60'000, 'a');
  const auto begun = Clock::now();
  std::thread drip([&] {
    for (const char c : request)
      if (Clock::now() > begun + std::chrono::seconds(30) || !peer.send({&c, 1})) break;
  });
  EXPECT_EQ(peer.read_reply().status, 408);
  EXPECT_LT(Clock::now() - begun, std::chrono::seconds(25));
  ::shutdown(peer.fd(), SHUT_RDWR);
  drip.join();
}

TEST(HttpServer, ClosesIdleConnections) {
  ServerOptions options;
  options.idle_timeout = milliseconds(100);
  const auto server = serve(echo, options);
  Peer peer(server->port());
  peer.send(kGet);
  EXPECT_EQ(peer.read_reply().status, 200);
  EXPECT_EQ(peer.receive(), "");
  EXPECT_FALSE(peer.failed());
}

TEST(HttpServer, DrainsWhatIsUnderWay) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer idle(server->port()), busy(server->port()), streaming(server->port());
  idle.send(kGet);
  echo(inbox.take());
  idle.read_reply();
  busy.send(kGet);
  Held waiting = inbox.take();
  streaming.send(kGet);
  Held stream = inbox.take();
  stream->begin(200, {});
  streaming.read_until("\r\n\r\n");

  EXPECT_FALSE(server->drain(milliseconds(20))) << "two are under way";
  EXPECT_EQ(idle.receive(), "");
  EXPECT_FALSE(idle.failed());
  std::thread finisher([&] {
    echo(waiting);
    stream->write("x");
    stream->end();
  });
  EXPECT_TRUE(server->drain(std::chrono::seconds(10)));
  finisher.join();
  const Reply last = busy.read_reply();
  EXPECT_EQ(last.status, 200);
  EXPECT_EQ(find_header(last.headers, "connection"), "close");
  EXPECT_EQ(streaming.read_all(), "1\r\nx\r\n0\r\n\r\n");
}

TEST(HttpServer, StopsAtOnceUnderStreams) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer peer(server->port());
  peer.send(kGet);
  Held exchange = inbox.take();
  exchange->begin(200, {});
  exchange->on_gone([&] { gone.put(1); });
  server.reset();
  EXPECT_EQ(gone.take(), 1);
  exchange->write("nobody is there");
  exchange->end();
  exchange->on_gone([&] { gone.put(2); });
  EXPECT_EQ(gone.take(), 2);
  exchange.reset();
}

TEST(HttpServer, StopsUnderLoadFromManyThreads) {
  ServerOptions options;
  options.http_threads = 2;
  std::atomic<int> answered = 0;
  Inbox<Held> inbox;
  auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); }, options);
  std::atomic<bool> stop = false;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (const Held exchange = inbox.take()) {
        exchange->on_gone([&] { ++answered; });
        exchange->begin(200, {});
        for (int j = 0; j < 5; ++j) exchange->write("piece");
        if (exchange->request().path != "/b") exchange->end();
      }
    });
  }
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i, port = server->port()] {
      while (!stop) {
        Peer peer(port);
        for (int j = 0; j < 3 && !stop; ++j) {
          if (!peer.send(kGet) || !peer.read_reply().whole) break;
          ++answered;
        }
        if (i == 0) peer.send(kGetLast);
      }
    });
  }
  const auto until = Clock::now() + std::chrono::seconds(10);
  while (answered < 300 && Clock::now() < until) std::this_thread::yield();
  EXPECT_GE(answered, 300);
  stop = true;
  for (std::size_t i = 2; i < threads.size(); ++i) threads[i].join();
  Peer last(server->port());
  last.send(kGet);
  server.reset();
  inbox.put(nullptr);
  inbox.put(nullptr);
}

TEST(HttpServer, HoldsTwoThousandStreams) {
  ServerOptions options;
  options.http_threads = 2;
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); }, options);
  std::vector<Peer> peers;
  std::vector<Held> streams;
  peers.reserve(2000);
  for (int i = 0; i < 2000; ++i) {
    peers.emplace_back(server->port());
    ASSERT_TRUE(peers.back().send(kGet));
    streams.push_back(inbox.take());
    streams.back()->begin(200, {});
  }
  for (int round = 0; round < 3; ++round)
    for (const Held& stream : streams) stream->write("data: tick\n\n");
  for (const Held& stream : streams) stream->end();
  for (Peer& peer : peers) {
    const Reply reply = peer.read_reply();
    ASSERT_TRUE(reply.whole);
    ASSERT_EQ(reply.body, "data: tick\n\ndata: tick\n\ndata: tick\n\n");
  }
}

TEST(HttpServer, WaitsWhenTheConnectionsAreAllTaken) {
  ServerOptions options;
  options.max_connections = 2;
  const auto server = serve(echo, options);
  Peer first(server->port()), second(server->port());
  first.send(kGet);
  first.read_reply();
  second.send(kGet);
  second.read_reply();
  Peer third(server->port());
  third.send(kGet);
  first.close();
  EXPECT_EQ(third.read_reply().status, 200);
}

TEST(HttpServer, SaysWhatToDoWhenThePortIsTaken) {
  const auto server = serve(echo);
  ServerOptions options;
  options.port = server->port();
  const auto second = HttpServer::listen(options, echo);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::io);
  EXPECT_NE(second.error().message.find("already in use"), std::string::npos) << second.error().message;
  EXPECT_NE(second.error().message.find("--port"), std::string::npos);
}

TEST(HttpServer, SaysWhatIsWrongWithItsOptions) {
  ServerOptions options;
  options.host = "192.0.2.1";  // TEST-NET-1: nobody's
  options.port = 0;
  EXPECT_NE(HttpServer::listen(options, echo).error().message.find("not an address of this machine"),
            std::string::npos);
  options.host = "no such host";
  EXPECT_EQ(HttpServer::listen(options, echo).error().code, Code::invalid);
  options.host = "127.0.0.1";
  options.port = 70'000;
  EXPECT_EQ(HttpServer::listen(options, echo).error().code, Code::invalid);
  options.port = 0;
  options.tls_cert = "/nonexistent.pem";
  EXPECT_EQ(HttpServer::listen(options, echo).error().code, Code::invalid);
  options.tls_key = "/nonexistent.pem";
  EXPECT_NE(HttpServer::listen(options, echo).error().message.find("/nonexistent.pem"), std::string::npos);
}

TEST(HttpServer, ListensOnIpv6) {
  ServerOptions options;
  options.host = "::1";
  options.port = 0;
  std::string who;
  auto server = HttpServer::listen(options, [&](const Held& exchange) {
    who = exchange->request().peer;
    echo(exchange);
  });
  if (!server) {
    EXPECT_NE(server.error().message.find("::1"), std::string::npos);  // a machine without IPv6
    return;
  }
  Peer peer((*server)->port(), true);
  peer.send(kGet);
  EXPECT_EQ(peer.read_reply().status, 200);
  EXPECT_TRUE(who.starts_with("[::1]:")) << who;
}

TEST(HttpServer, CountsWhatItDoes) {
  const auto server = serve(echo);
  Peer peer(server->port());
  peer.send(kGet);
  peer.read_reply();
  const std::string page = metrics::render();
  EXPECT_NE(page.find("ashlar_http_requests_total{method=\"GET\",status=\"2xx\"} "), page.npos);
  EXPECT_NE(page.find("ashlar_http_connections "), page.npos);
  EXPECT_NE(page.find("ashlar_http_streams "), page.npos);
}

}  // namespace
}  // namespace ashlar::net
