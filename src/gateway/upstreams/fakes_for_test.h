// A server that does exactly what a test tells it, byte for byte, and a sink that remembers.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json_full.h"
#include "engine/generator.h"
#include "gateway/upstreams/upstream.h"
#include "net/loopback_for_test.h"

namespace ashlar::gateway {

// Accepts connections and gives each request, once it is whole, to the script with its number (from 0). A connection is
// closed when its script returns; to hold one, the script waits for the client to leave.
class FakeServer {
 public:
  class Turn {
   public:
    Turn(int fd, std::string head, std::string body) : head(std::move(head)), body(std::move(body)), fd_(fd) {}
    // False: the client has left.
    bool send(std::string_view bytes) const {
      while (!bytes.empty()) {
        const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent <= 0) return false;
        bytes.remove_prefix(static_cast<std::size_t>(sent));
      }
      return true;
    }
    void answer(int status, std::string_view type, std::string_view text, std::string_view more = "") const {
      send("HTTP/1.1 " + std::to_string(status) + " X\r\ncontent-type: " + std::string(type) +
           "\r\nconnection: close\r\n" + std::string(more) + "content-length: " + std::to_string(text.size()) +
           "\r\n\r\n" + std::string(text));
    }
    // A stream's head; what follows is sent as it is and ends with the connection.
    void begin(std::string_view type = "text/event-stream") const {
      send("HTTP/1.1 200 OK\r\ncontent-type: " + std::string(type) + "\r\nconnection: close\r\n\r\n");
    }
    void event(const std::string& data) const { send("data: " + data + "\n\n"); }
    void wait_for_leave() const {
      char byte;
      while (::recv(fd_, &byte, 1, 0) > 0) {
      }
    }
    Json json() const { return Json::parse(body); }
    const std::string head, body;

   private:
    const int fd_;
  };
  using Script = std::function<void(const Turn&, int number)>;

  explicit FakeServer(Script script) : script_(std::move(script)) {}
  std::string url(std::string_view path = "/v1") const {
    return "http://127.0.0.1:" + std::to_string(port()) + std::string(path);
  }
  int requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  void wait_for_requests(int count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return requests_ >= count; }));
  }
  // Until `count` clients have left before their script was done.
  void wait_for_leavers(int count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return left_ >= count; }));
  }
  void left() {
    const std::lock_guard lock(mutex_);
    ++left_;
    changed_.notify_all();
  }
  int port() const { return loopback_.port(); }

 private:
  void serve(int fd) {
    std::string bytes;
    char piece[4096];
    while (true) {
      const auto end = bytes.find("\r\n\r\n");
      if (end != bytes.npos) {
        const auto mark = bytes.find("content-length: ");
        const std::size_t length = mark < end ? std::stoul(bytes.substr(mark + 16)) : 0;
        if (bytes.size() >= end + 4 + length) {
          int number = 0;
          {
            const std::lock_guard lock(mutex_);
            number = requests_++;
            changed_.notify_all();
          }
          script_(Turn(fd, bytes.substr(0, end), bytes.substr(end + 4, length)), number);
          break;
        }
      }
      const auto got = ::recv(fd, piece, sizeof piece, 0);
      if (got <= 0) break;
      bytes.append(piece, static_cast<std::size_t>(got));
    }
  }

  const Script script_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int requests_ = 0, left_ = 0;
  net::Loopback loopback_{[this](int fd) { serve(fd); }};  // last: it ends before what it uses
};

// Hears one request's events.
class HeardSink final : public engine::Sink {
 public:
  void on(engine::Event event) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(over_) << "an event after the last";
    over_ = std::holds_alternative<engine::Finished>(event) || std::holds_alternative<engine::Failed>(event);
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  // All events, once the last has come.
  const std::vector<engine::Event>& wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return over_; })) << "no end came";
    return events_;
  }
  void wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return events_.size() >= count; }));
  }
  std::size_t count() {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }

  template <class T>
  std::vector<T> all() {
    std::vector<T> out;
    for (const auto& event : wait())
      if (const auto* one = std::get_if<T>(&event)) out.push_back(*one);
    return out;
  }
  std::string text(int choice = 0) {
    std::string out;
    for (const auto& text : all<engine::Text>())
      if (text.choice == choice) out += text.text;
    return out;
  }
  std::string thoughts() {
    std::string out;
    for (const auto& thought : all<engine::Reasoning>()) out += thought.text;
    return out;
  }
  // "id name arguments" of each call.
  std::vector<std::string> calls() {
    std::vector<std::string> out;
    for (const auto& call : all<engine::ToolCall>()) {
      if (call.index == std::ssize(out)) out.push_back(call.id + " " + call.name + " ");
      out.at(static_cast<std::size_t>(call.index)) += call.arguments;
    }
    return out;
  }
  engine::Usage usage() {
    const auto ends = all<engine::Finished>();
    EXPECT_EQ(ends.size(), 1u) << "it failed: " << (failed() ? failed()->error.message : "");
    return ends.empty() ? engine::Usage{} : ends.front().usage;
  }
  std::vector<engine::FinishReason> reasons() {
    std::vector<engine::FinishReason> out;
    for (const auto& end : all<engine::ChoiceEnd>()) out.push_back(end.reason);
    return out;
  }
  std::optional<engine::Failed> failed() {
    const auto all_failed = all<engine::Failed>();
    return all_failed.empty() ? std::nullopt : std::optional(all_failed.front());
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<engine::Event> events_;
  bool over_ = false;
};

inline engine::Request chat_request(const std::string& text = "Hello", Json body = Json::object()) {
  engine::Request request{.id = "test", .model = "m"};
  if (!body.contains("messages")) body["messages"] = Json::array({Json{{"role", "user"}, {"content", text}}});
  engine::Chat chat{.messages = std::make_shared<const Json>(body["messages"])};
  if (body.contains("tools")) chat.tools = std::make_shared<const Json>(body["tools"]);
  if (body.contains("max_tokens")) request.stopping.max_tokens = body["max_tokens"].get<int>();
  if (body.contains("n")) request.n = body["n"].get<int>();
  request.prompt.input = std::move(chat);
  request.body = std::make_shared<const Json>(std::move(body));
  return request;
}

// An upstream of one model, "m", that does not probe and waits for nobody.
inline UpstreamOptions options_for(const FakeServer& server, std::string kind = "openai",
                                   std::string_view path = "/v1") {
  using std::chrono::milliseconds;
  return {.name = "up",
          .kind = std::move(kind),
          .url = server.url(path),
          .models = {{"m", "theirs"}},
          .retry_base = milliseconds(1),
          .retry_cap = milliseconds(5),
          .health_interval = milliseconds(0),
          .load_interval = milliseconds(0)};
}

// Asks and waits for the end.
struct Asked {
  Asked(UpstreamOptions options, engine::Request request) : upstream(*Upstream::create(std::move(options))) {
    auto started = upstream->start(std::move(request), sink);
    if (started)
      ticket = std::move(*started);
    else
      refused = started.error();
    if (!refused) sink.wait();
  }
  std::unique_ptr<Upstream> upstream;
  HeardSink sink;
  std::optional<engine::Generator::Refusal> refused;
  std::unique_ptr<engine::Ticket> ticket;
};

}  // namespace ashlar::gateway
