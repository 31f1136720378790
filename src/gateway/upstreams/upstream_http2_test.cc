// An upstream that speaks HTTP/2 without TLS: our own server, with answers by hand.
#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <set>

#include "gateway/upstreams/fakes_for_test.h"
#include "gateway/upstreams/upstream.h"
#include "net/http_server.h"

namespace ashlar::gateway {
namespace {

using Held = std::shared_ptr<net::Exchange>;

// Keeps what is asked until the test answers.
class Keeper {
 public:
  Keeper() {
    server_ = std::move(*net::HttpServer::listen({.port = 0}, [this](Held exchange) {
      const std::lock_guard lock(mutex_);
      held_.push_back(std::move(exchange));
      changed_.notify_all();
    }));
  }
  // Waits for the next; fails the test after ten seconds.
  Held take() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(10), [&] { return !held_.empty(); })) {
      ADD_FAILURE() << "nothing came";
      return nullptr;
    }
    Held exchange = std::move(held_.front());
    held_.pop_front();
    return exchange;
  }
  UpstreamOptions options() const {
    return {.name = "up",
            .url = "http://127.0.0.1:" + std::to_string(server_->port()) + "/v1",
            .models = {{"m", "theirs"}},
            .max_attempts = 1,
            .health_interval = std::chrono::milliseconds(0),
            .load_interval = std::chrono::milliseconds(0),
            .http2 = net::Http2::always};
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Held> held_;  // GUARDED_BY(mutex_)
  std::unique_ptr<net::HttpServer> server_;
};

void begin(const Held& exchange) { exchange->begin(200, {{"content-type", "text/event-stream"}}); }
void tell(const Held& exchange, const std::string& text) {
  exchange->write(R"(data: {"choices":[{"index":0,"delta":{"content":")" + text + "\"}}]}\n\n");
}
void end(const Held& exchange) {
  exchange->write("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n");
  exchange->end();
}

TEST(UpstreamHttp2, RequestsUnderWayShareAConnection) {
  Keeper keeper;
  const auto upstream = std::move(*Upstream::create(keeper.options()));
  std::deque<HeardSink> sinks;
  std::vector<std::unique_ptr<engine::Ticket>> tickets;
  for (int i = 0; i < 50; ++i) tickets.push_back(std::move(*upstream->start(chat_request(), sinks.emplace_back())));
  std::set<std::string> peers;
  std::vector<Held> held;
  for (int i = 0; i < 50; ++i) {
    held.push_back(keeper.take());
    ASSERT_TRUE(held.back());
    peers.insert(held.back()->request().peer);
    EXPECT_EQ(held.back()->request().version, 20);
  }
  EXPECT_EQ(peers.size(), 1u);
  for (const Held& exchange : held) begin(exchange);
  for (const std::string word : {"one ", "two ", "three"})
    for (const Held& exchange : held) tell(exchange, word);
  for (const Held& exchange : held) end(exchange);
  for (HeardSink& sink : sinks) {
    sink.wait();
    EXPECT_EQ(sink.text(), "one two three");
  }
}

TEST(UpstreamHttp2, ATicketThatDiesEndsItsStreamAlone) {
  Keeper keeper;
  const auto upstream = std::move(*Upstream::create(keeper.options()));
  HeardSink stays, leaves;
  const auto kept = std::move(*upstream->start(chat_request(), stays));
  const Held first = keeper.take();
  auto dropped = std::move(*upstream->start(chat_request(), leaves));
  const Held second = keeper.take();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->request().peer, second->request().peer);
  std::promise<void> gone;
  second->on_gone([&] { gone.set_value(); });
  begin(first);
  tell(first, "still ");
  dropped.reset();
  EXPECT_EQ(gone.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  tell(first, "here");
  end(first);
  stays.wait();
  EXPECT_EQ(stays.text(), "still here");
}

}  // namespace
}  // namespace ashlar::gateway
