// HTTP/2 servers that are none, from the client's side. The first byte chooses how the bytes are cut and what the
// callers do meanwhile; the rest is what such a server sends.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "net/client_protocol.h"
#include "net/client_task.h"
#include "net/outbox.h"

namespace {

using namespace ashlar;
using namespace ashlar::net;

// A link without a socket, whose callers ask again as often as there is room, up to a limit.
class Home final : public ClientHome {
 public:
  explicit Home(std::uint8_t seed) : seed_(seed) {
    options_.max_header = {2048};
    options_.max_body = {4096};
    protocol_ = make_client_http2(*this);
  }
  ~Home() override {
    protocol_.reset();
    CHECK(open_ == 0 || !closed_, "a call is left without an end");
  }

  const ClientOptions& options() const override { return options_; }
  const std::string& name() const override { return name_; }
  Outbox& out() override { return out_; }
  bool all_sent() const override { return out_.empty(); }
  void close(Error why) override {
    if (std::exchange(closed_, true)) return;
    protocol_->end(why);
  }
  bool offer() override {
    while (!closed_ && asked_ < 8 && protocol_->room() > 0) ask();
    return !closed_;
  }
  void ask_again(std::shared_ptr<ClientTask> task) override {
    CHECK(task->repeats == 0, "a call is made more than twice");
    task->done(std::unexpected(Error{Code::cancelled, "It is not asked again here."}));
  }
  void ask_in_http1(std::shared_ptr<ClientTask> task) override {
    task->done(std::unexpected(Error{Code::cancelled, "It is not asked again here."}));
  }

  void ask() {
    struct Seen {
      bool headed = false;
      std::size_t body = 0;
    };
    const auto seen = std::make_shared<Seen>();
    ++asked_, ++open_;
    ClientRequest request{.method = asked_ % 3 == 0 ? "HEAD" : "POST", .url = "http://h/"};
    request.body.assign(asked_ % 2 == 0 ? 100'000 : 10, 'x');
    auto task = std::make_shared<ClientTask>(
        std::move(request), ClientCallbacks{.on_connect = {},
                                            .on_head =
                                                [seen](int status, const Headers& headers) {
                                                  CHECK(!std::exchange(seen->headed, true), "two heads");
                                                  CHECK(status >= 200 && status <= 999, "not a final status");
                                                  std::size_t bytes = 0;
                                                  for (const auto& [name, value] : headers)
                                                    bytes += name.size() + value.size();
                                                  CHECK(bytes <= 2048, "a header beyond its limit");
                                                },
                                            .on_data =
                                                [seen](std::string_view piece) {
                                                  CHECK(seen->headed, "data before a head");
                                                  seen->body += piece.size();
                                                  CHECK(seen->body <= 4096, "a body beyond its limit");
                                                },
                                            .on_done = [this](const Status&) { --open_; }});
    task->url = {.tls = false, .host = "h", .port = 80, .target = "/"};
    tasks_.push_back(task);
    protocol_->serve(std::move(task));
  }

  void feed(std::string_view bytes) {
    protocol_->receive(bytes);
    if (closed_) return;
    if (seed_ % 4 == 1 && bytes.size() % 3 == 0 && !tasks_.empty()) {
      const auto task = std::move(tasks_.back());
      tasks_.pop_back();
      if (!task->is_over()) --open_;
      task->cancel();
      protocol_->cancel(*task);
    }
    settle();
  }
  void settle() {
    for (int turn = 0; turn < 100 && !closed_; ++turn) {
      protocol_->fill(64 << 10);
      if (out_.empty()) return;
      out_.consume(out_.size());
    }
  }
  void end() {
    if (closed_) return;
    if (seed_ % 3 == 0) protocol_->receive_end();
    if (seed_ % 3 == 1) protocol_->expire(Clock::now() + std::chrono::hours(1));
    close({Code::cancelled, "The end."});
  }
  bool closed() const { return closed_; }

 private:
  const std::uint8_t seed_;
  ClientOptions options_;
  const std::string name_ = "http://h";
  Outbox out_;
  std::unique_ptr<ClientProtocol> protocol_;
  std::vector<std::shared_ptr<ClientTask>> tasks_;
  int asked_ = 0, open_ = 0;
  bool closed_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::uint8_t seed = data[0];
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  Home home(seed);
  home.ask();
  home.settle();
  std::uint32_t state = seed;
  while (!bytes.empty() && !home.closed()) {
    state = state * 1664525 + 1013904223;
    const std::size_t most = seed % 2 == 0 ? bytes.size() : 1 + (state >> 16) % 64;
    home.feed(bytes.substr(0, most));
    bytes.remove_prefix(std::min(most, bytes.size()));
  }
  home.end();
  return 0;
}
