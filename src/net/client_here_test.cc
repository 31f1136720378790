// HttpClient::send_here and after_here: on the network thread of a server that asks another.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "net/http_client.h"
#include "net/http_server.h"

namespace ashlar::net {
namespace {

std::string url_of(const HttpServer& server) { return "http://127.0.0.1:" + std::to_string(server.port()) + "/"; }

std::unique_ptr<HttpServer> serve(Handler handler) {
  ServerOptions options;
  options.port = 0;
  options.http_threads = 2;
  auto server = HttpServer::listen(options, std::move(handler));
  EXPECT_TRUE(server);
  return std::move(*server);
}

// A server that answers with what another says, asked on the thread that the request came on.
class Proxy {
 public:
  explicit Proxy(std::string behind)
      : behind_(std::move(behind)),
        client_(HttpClient::create({}).value()),
        server_(serve([this](auto exchange) { ask(std::move(exchange)); })) {}

  HttpServer& server() { return *server_; }
  void stop_server() { server_.reset(); }
  void drop_client() { client_.reset(); }
  int strangers() const { return strangers_; }
  int failed() const { return failed_; }
  std::size_t held() {
    const std::lock_guard lock(mutex_);
    return asked_.size();
  }

 private:
  struct Asked {
    std::shared_ptr<Exchange> exchange;
    std::thread::id thread = std::this_thread::get_id();
    int status = 0;
    std::string body;
    std::unique_ptr<Call> call, alarm;
  };

  void ask(std::shared_ptr<Exchange> exchange) {
    auto asked = std::make_shared<Asked>();
    asked->exchange = std::move(exchange);
    const std::weak_ptr<Asked> weak = asked;
    const auto here = [this, weak](auto act) {
      const auto held = weak.lock();
      if (!held) return;
      strangers_ += held->thread != std::this_thread::get_id();
      act(*held);
    };
    asked->alarm = client_->after_here(std::chrono::milliseconds(1), [here] { here([](Asked&) {}); });
    asked->call = client_->send_here(
        {.url = behind_},
        {.on_head = [here](int status, const Headers&) { here([&](Asked& a) { a.status = status; }); },
         .on_data = [here](std::string_view piece) { here([&](Asked& a) { a.body.append(piece); }); },
         .on_done =
             [this, here](Status done) {
               here([&](Asked& a) {
                 failed_ += !done.has_value();
                 a.exchange->respond(done ? a.status : 502, {}, done ? a.body : done.error().message);
               });
             }});
    // Last: who counts them knows that the client is not needed any more.
    const std::lock_guard lock(mutex_);
    asked_.push_back(std::move(asked));
  }

  const std::string behind_;
  std::unique_ptr<HttpClient> client_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Asked>> asked_;
  std::atomic<int> strangers_ = 0, failed_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST(ClientHere, AnswersOnTheThreadThatAsks) {
  const auto behind = serve([](auto exchange) { exchange->respond(200, {}, std::string(100'000, 'x')); });
  Proxy proxy(url_of(*behind));
  std::vector<std::jthread> askers;
  std::atomic<int> good = 0;
  for (int i = 0; i < 4; ++i)
    askers.emplace_back([&] {
      const auto client = HttpClient::create({}).value();
      for (int turn = 0; turn < 50; ++turn) {
        const auto answer = fetch(*client, {.url = url_of(proxy.server())});
        good += answer && answer->status == 200 && answer->body.size() == 100'000;
      }
    });
  askers.clear();
  EXPECT_EQ(good, 200);
  EXPECT_EQ(proxy.strangers(), 0);
  EXPECT_EQ(proxy.failed(), 0);
}

TEST(ClientHere, ServersThatAreNotThereAreToldAfterTheCall) {
  std::string nowhere;
  {
    const auto server = serve([](auto exchange) { exchange->respond(200, {}, ""); });
    nowhere = url_of(*server);
  }
  for (const std::string& url : {nowhere, std::string("no url")}) {
    Proxy proxy(url);
    const auto client = HttpClient::create({}).value();
    const auto answer = fetch(*client, {.url = url_of(proxy.server())});
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 502);
    EXPECT_EQ(proxy.strangers(), 0);
  }
}

// Calls under way end with the server's threads, whoever dies first.
TEST(ClientHere, EndsWithTheThreadOrWithTheClient) {
  std::vector<std::shared_ptr<Exchange>> unanswered;
  std::mutex mutex;
  const auto behind = serve([&](auto exchange) {
    const std::lock_guard lock(mutex);
    unanswered.push_back(std::move(exchange));
  });
  for (const bool server_first : {true, false}) {
    Proxy proxy(url_of(*behind));
    const auto client = HttpClient::create({}).value();
    std::vector<std::unique_ptr<Call>> calls;
    for (int i = 0; i < 8; ++i)
      calls.push_back(client->send({.url = url_of(proxy.server())}, {.on_head = {}, .on_data = {}, .on_done = {}}));
    while (proxy.held() < 8) std::this_thread::yield();
    if (server_first) {
      proxy.stop_server();
      EXPECT_EQ(proxy.failed(), 8);
    } else {
      proxy.drop_client();
      while (proxy.failed() < 8) std::this_thread::yield();
    }
    EXPECT_EQ(proxy.strangers(), 0);
  }
}

// From a thread of nobody's it is send().
TEST(ClientHere, IsSendElsewhere) {
  const auto behind = serve([](auto exchange) { exchange->respond(200, {}, "well"); });
  const auto client = HttpClient::create({}).value();
  std::promise<bool> done, rung;
  const auto call =
      client->send_here({.url = url_of(*behind)},
                        {.on_head = {}, .on_data = {}, .on_done = [&](Status s) { done.set_value(s.has_value()); }});
  const auto alarm = client->after_here(std::chrono::milliseconds(1), [&] { rung.set_value(true); });
  EXPECT_TRUE(done.get_future().get());
  EXPECT_TRUE(rung.get_future().get());
}

}  // namespace
}  // namespace ashlar::net
