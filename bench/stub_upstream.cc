// A server that answers as OpenAI's do, at once and always the same: what stands behind a proxy whose own cost is
// measured. It says "listening on URL" and runs until it is killed.
//
//   stub_upstream [PIECES [MILLISECONDS [SEATS]]]
//
// A request with "stream":true gets, by its model:
//   stub    as many pieces of text as its whole answer has, all at once
//   paced   so many pieces, so long apart, the first at once
//   seated  what an engine gives that has SEATS places in its batch: who finds none waits, first come first served. The
//           prompt takes kPrompt; then max_tokens pieces, MILLISECONDS apart while it is alone, twice as long in a full
//           batch, and longer yet while others wait, up to four times where as many wait as run.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "net/http_server.h"

namespace {

using namespace ashlar;

const std::string kModels =
    R"({"object":"list","data":[{"id":"stub","object":"model","created":1,"owned_by":"stub","max_model_len":32768},)"
    R"({"id":"paced","object":"model","created":1,"owned_by":"stub","max_model_len":32768},)"
    R"({"id":"seated","object":"model","created":1,"owned_by":"stub","max_model_len":32768}]})";
const std::string kAnswer =
    R"({"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"stub","choices":[{"index":0,"message":{"role":"assistant","content":"A stone, cut square for a wall."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}})";

std::string event(const std::string& choice, const std::string& rest = "") {
  return "data: "
         "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"stub\",\"choices\":[" +
         choice + "]" + rest + "}\n\n";
}
const std::string kFirst = event(R"({"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null})");
const std::string kPiece = event(R"({"index":0,"delta":{"content":" stone"},"finish_reason":null})");
const std::string kLast = event(R"({"index":0,"delta":{},"finish_reason":"stop"})");

std::string end_of(int pieces) {
  const std::string usage =
      fmt::format(R"(,"usage":{{"prompt_tokens":12,"completion_tokens":{0},"total_tokens":{1}}})", pieces, pieces + 12);
  return kLast + event("", usage) + "data: [DONE]\n\n";
}

std::string whole_stream() {
  std::string out = kFirst;
  for (int i = 0; i < 9; ++i) out += kPiece;
  return out + end_of(9);
}

// Open streams, which all get their pieces together.
class Streams {
 public:
  Streams(int pieces, int milliseconds)
      : pieces_(pieces), pause_(milliseconds), thread_([this](auto stop) { run(stop); }) {}

  void add(std::shared_ptr<net::Exchange> exchange) {
    exchange->begin(200, {{"content-type", "text/event-stream"}});
    exchange->write(kFirst + kPiece);
    const std::lock_guard lock(mutex_);
    open_.push_back({std::move(exchange), 1});
  }

 private:
  struct Stream {
    std::shared_ptr<net::Exchange> exchange;
    int sent;
  };

  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(pause_);
      const std::lock_guard lock(mutex_);
      std::erase_if(open_, [this](Stream& stream) {
        if (stream.sent++ < pieces_) {
          stream.exchange->write(kPiece);
          return false;
        }
        stream.exchange->write(end_of(pieces_));
        stream.exchange->end();
        return true;
      });
    }
  }

  const int pieces_;
  const std::chrono::milliseconds pause_;
  std::mutex mutex_;
  std::vector<Stream> open_;
  std::jthread thread_;
};

// An engine with so many places in its batch.
class Seated {
 public:
  Seated(int seats, int milliseconds)
      : seats_(seats), pause_(milliseconds), thread_([this](auto stop) { run(stop); }) {}

  void add(std::shared_ptr<net::Exchange> exchange, int pieces) {
    exchange->begin(200, {{"content-type", "text/event-stream"}});
    auto gone = std::make_shared<std::atomic<bool>>(false);
    exchange->on_gone([gone] { *gone = true; });
    const std::lock_guard lock(mutex_);
    waiting_.push_back({.exchange = std::move(exchange), .gone = std::move(gone), .pieces = pieces});
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr double kPrompt = 0.1;  // seconds
  struct Answer {
    std::shared_ptr<net::Exchange> exchange;
    std::shared_ptr<const std::atomic<bool>> gone;
    int pieces = 0, sent = 0;
    double done = 0;  // of the next piece, or of the prompt
  };

  void run(const std::stop_token& stop) {
    auto before = Clock::now();
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const auto now = Clock::now();
      const double passed = std::chrono::duration<double>(now - std::exchange(before, now)).count();
      const std::lock_guard lock(mutex_);
      const auto left = [](const Answer& each) { return each.gone->load(); };
      std::erase_if(running_, left);
      std::erase_if(waiting_, left);
      while (static_cast<int>(running_.size()) < seats_ && !waiting_.empty()) {
        running_.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
      }
      const double full = static_cast<double>(running_.size()) / seats_;
      const double over = std::min(1.0, static_cast<double>(waiting_.size()) / seats_);
      const double piece = std::chrono::duration<double>(pause_).count() * (1 + full) * (1 + over);
      std::erase_if(running_, [&](Answer& each) { return advance(each, passed, piece); });
    }
  }
  // Whether it is over.
  static bool advance(Answer& each, double passed, double piece) {
    each.done += passed / (each.sent == 0 ? kPrompt : piece);
    while (each.done >= 1 && each.sent < each.pieces) {
      each.exchange->write(each.sent == 0 ? kFirst + kPiece : kPiece);
      ++each.sent;
      each.done = each.sent == 1 ? 0 : each.done - 1;
    }
    if (each.sent < each.pieces) return false;
    each.exchange->write(end_of(each.pieces));
    each.exchange->end();
    return true;
  }

  const int seats_;
  const std::chrono::milliseconds pause_;
  std::mutex mutex_;
  std::deque<Answer> waiting_;
  std::vector<Answer> running_;
  std::jthread thread_;
};

int most_tokens(const std::string& body) {
  constexpr std::string_view kMember = "\"max_tokens\":";
  const auto at = body.find(kMember);
  return at == std::string::npos ? 16 : std::max(1, std::atoi(body.c_str() + at + kMember.size()));
}

}  // namespace

int main(int argc, char** argv) {
  Streams streams(argc > 1 ? std::atoi(argv[1]) : 16, argc > 2 ? std::atoi(argv[2]) : 10);
  Seated seated(argc > 3 ? std::atoi(argv[3]) : 32, argc > 2 ? std::atoi(argv[2]) : 10);
  net::ServerOptions options;
  options.port = 0;
  options.http_threads = 1;
  const auto server = net::HttpServer::listen(options, [&](std::shared_ptr<net::Exchange> exchange) {
    const net::HttpRequest& request = exchange->request();
    const net::Headers json{{"content-type", "application/json"}};
    if (request.method == "GET") return exchange->respond(200, json, kModels);
    if (request.body.find("\"stream\":true") != std::string::npos) {
      if (request.body.find("\"model\":\"paced\"") != std::string::npos) return streams.add(std::move(exchange));
      if (request.body.find("\"model\":\"seated\"") != std::string::npos) {
        const int pieces = most_tokens(request.body);
        return seated.add(std::move(exchange), pieces);
      }
      static const std::string kWhole = whole_stream();
      return exchange->respond(200, {{"content-type", "text/event-stream"}}, kWhole);
    }
    exchange->respond(200, json, kAnswer);
  });
  if (!server) {
    fmt::print(stderr, "stub_upstream: {}\n", server.error().message);
    return 1;
  }
  fmt::print("listening on http://127.0.0.1:{}\n", (*server)->port());
  std::fflush(stdout);
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}
