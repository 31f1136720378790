#include "net/exchange.h"

#include <exception>
#include <new>
#include <utility>

#include "base/log.h"
#include "net/http_text.h"
#include "net/traffic.h"

namespace ashlar::net {
namespace {

class HeldExchange final : public Exchange {
 public:
  HeldExchange(std::shared_ptr<AnswerDoor> door, std::shared_ptr<Line> line, std::uint32_t stream,
               HttpRequest&& request)
      : door_(std::move(door)), line_(std::move(line)), stream_(stream), request_(std::move(request)) {}

  ~HeldExchange() override { send({.kind = AnswerPart::Kind::dropped, .stream = stream_}); }

  const HttpRequest& request() const override { return request_; }

  void respond(int status, Headers headers, std::string body) override {
    send({AnswerPart::Kind::respond, stream_, status, std::move(headers), std::move(body), {}});
  }
  void begin(int status, Headers headers) override {
    send({AnswerPart::Kind::begin, stream_, status, std::move(headers), {}, {}});
  }
  void write(std::string piece) override {
    if (!piece.empty()) send({AnswerPart::Kind::write, stream_, 0, {}, std::move(piece), {}});
  }
  void end() override { send({.kind = AnswerPart::Kind::end, .stream = stream_}); }
  void respond_marked(int status, Headers headers, std::string body, Marks marks) override {
    send({AnswerPart::Kind::respond, stream_, status, std::move(headers), std::move(body), std::move(marks)});
  }
  void write_marked(std::string piece, Marks marks) override {
    if (!piece.empty()) send({AnswerPart::Kind::write, stream_, 0, {}, std::move(piece), std::move(marks)});
  }

  void on_gone(std::function<void()> gone) override {
    if (line_->listen(gone)) door_->run(std::move(gone));
  }
  bool later(std::function<void()> task) override { return door_->later(std::move(task)); }

 private:
  void send(AnswerPart part) {
    if (!line_->closed()) door_->send(std::move(part));
  }

  const std::shared_ptr<AnswerDoor> door_;
  const std::shared_ptr<Line> line_;
  const std::uint32_t stream_;
  const HttpRequest request_;
};

}  // namespace

Line::Line() { traffic().streams.add(1); }

void Line::hang_up() {
  std::function<void()> gone;
  {
    std::lock_guard lock(mutex_);
    if (is_gone_ || closed_) return;
    is_gone_ = true;
    traffic().left.add();
    gone = std::exchange(gone_, nullptr);
  }
  try {
    if (gone) gone();
  } catch (const std::exception& e) {
    log::error("on_gone_threw", {{"what", e.what()}});
  }
}

void Line::finish() {
  std::function<void()> dropped;  // what it captured dies outside the lock
  std::lock_guard lock(mutex_);
  if (!closed_) traffic().streams.add(-1);
  closed_ = true;
  dropped.swap(gone_);
}

bool Line::listen(std::function<void()>& gone) {
  std::lock_guard lock(mutex_);
  if (is_gone_) return true;
  if (!closed_) gone_ = std::move(gone);
  return false;
}

std::shared_ptr<Line> open_exchange(const Handler& handler, std::shared_ptr<AnswerDoor> door, std::uint32_t stream,
                                    HttpRequest&& request) {
  auto line = std::make_shared<Line>();
  auto exchange = std::make_shared<HeldExchange>(std::move(door), line, stream, std::move(request));
  try {
    handler(exchange);
  } catch (const std::bad_alloc&) {
    exchange->respond(503, error_headers(503),
                      error_body(503, "The server has no memory for this request: try again in a moment."));
  } catch (const std::exception& e) {
    log::error("handler_threw", {{"path", exchange->request().path}, {"what", e.what()}});
    exchange->respond(500, error_headers(), error_body(500, "The server failed to handle this request."));
  }
  return line;
}

}  // namespace ashlar::net
