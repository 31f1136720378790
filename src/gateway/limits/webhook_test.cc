#include "gateway/limits/webhook.h"

#include <gtest/gtest.h>

#include <condition_variable>

#include "base/json_full.h"
#include "net/http_server.h"

namespace ashlar::gateway {
namespace {

// A server that answers with the statuses it is told, then 200; remembers the bodies.
class Receiver {
 public:
  explicit Receiver(std::vector<int> statuses) : statuses_(std::move(statuses)) {
    net::ServerOptions options;
    options.port = 0;
    auto server = net::HttpServer::listen(options, [this](const std::shared_ptr<net::Exchange>& exchange) {
      const std::lock_guard lock(mutex_);
      const int status = bodies_.size() < statuses_.size() ? statuses_[bodies_.size()] : 200;
      bodies_.push_back(exchange->request().body);
      exchange->respond(status, {}, "");
      came_.notify_all();
    });
    EXPECT_TRUE(server);
    server_ = std::move(*server);
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(server_->port()) + "/hook"; }
  std::vector<std::string> wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(came_.wait_for(lock, std::chrono::seconds(10), [&] { return bodies_.size() >= count; }));
    return bodies_;
  }

 private:
  const std::vector<int> statuses_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<std::string> bodies_;
  std::unique_ptr<net::HttpServer> server_;
};

TEST(Webhook, TriesAgainUntilItIsHeard) {
  Receiver receiver({500, 429, 200, 404});
  auto client = net::HttpClient::create({});
  Webhook webhook(**client, {.url = receiver.url(), .pause = std::chrono::milliseconds(1)});
  EXPECT_TRUE(webhook.post("one"));
  EXPECT_TRUE(webhook.post("two"));
  EXPECT_TRUE(webhook.post("three"));
  EXPECT_EQ(receiver.wait_for(5), (std::vector<std::string>{"one", "one", "one", "two", "three"}))
      << "what is refused for good is not said again";
  while (webhook.counts().delivered < 2) std::this_thread::yield();
  EXPECT_EQ(webhook.counts().failed, 1u);
}

TEST(Webhook, IsBoundedAndEndsWithWorkLeft) {
  Receiver receiver(std::vector<int>(100, 503));
  auto client = net::HttpClient::create({});
  Webhook webhook(**client, {.url = receiver.url(), .most_waiting = 3, .pause = std::chrono::hours(1)});
  for (int i = 0; i < 10; ++i) (void)webhook.post("x");
  receiver.wait_for(1);
  EXPECT_GE(webhook.counts().dropped, 6u);
}

TEST(Webhook, WritesAlertsAsJson) {
  const auto json =
      parse_json(alert_json({.limit = "day", .who = "team 'a\"b'", .percent = 80, .used = 5, .capacity = 6}));
  ASSERT_TRUE(json);
  EXPECT_EQ((*json)["who"], "team 'a\"b'");
  EXPECT_EQ((*json)["used_nano_dollars"], 5);
}

}  // namespace
}  // namespace ashlar::gateway
