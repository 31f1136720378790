// A server that answers as OpenAI's do, at once and always the same: what stands behind a proxy whose own cost is
// measured. It says "listening on URL" and runs until it is killed.
//
//   stub_upstream [PIECES [MILLISECONDS]]
//
// A request with "stream":true gets so many pieces of text, so long apart, the first at once; of the model `stub` as
// many as its whole answer has, all at once.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
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
    R"({"id":"paced","object":"model","created":1,"owned_by":"stub","max_model_len":32768}]})";
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

}  // namespace

int main(int argc, char** argv) {
  Streams streams(argc > 1 ? std::atoi(argv[1]) : 16, argc > 2 ? std::atoi(argv[2]) : 10);
  net::ServerOptions options;
  options.port = 0;
  options.http_threads = 1;
  const auto server = net::HttpServer::listen(options, [&](std::shared_ptr<net::Exchange> exchange) {
    const net::HttpRequest& request = exchange->request();
    const net::Headers json{{"content-type", "application/json"}};
    if (request.method == "GET") return exchange->respond(200, json, kModels);
    if (request.body.find("\"stream\":true") != std::string::npos) {
      if (request.body.find("\"model\":\"paced\"") != std::string::npos) return streams.add(std::move(exchange));
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
