// HTTP/1.1 on one of the client's connections: one request after the other.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "net/client_protocol.h"
#include "net/http1_response.h"
#include "net/http_text.h"

namespace ashlar::net {
namespace {

class ClientHttp1 final : public ClientProtocol {
 public:
  explicit ClientHttp1(ClientHome& home) : home_(home) {}
  int room() const override { return task_ ? 0 : 1; }
  void serve(std::shared_ptr<ClientTask> task) override;
  void fill(std::size_t) override {}  // it is there already
  void cancel(const ClientTask& task) override {
    if (task_.get() == &task) home_.close({Code::cancelled, "The call was dropped."});
  }
  void receive(std::string_view bytes) override;
  void receive_end() override;
  TimePoint deadline() const override { return std::min(quiet_until_, task_ ? task_->until : kNever); }
  void expire(TimePoint now) override;
  void end(const Error& why) override {
    if (const auto task = std::exchange(task_, nullptr)) task->done(std::unexpected(why));
  }

 private:
  std::string head() const;
  void finish();

  ClientHome& home_;
  std::shared_ptr<ClientTask> task_;
  std::optional<ResponseReader> reader_;
  TimePoint quiet_until_ = kNever;
  bool used_ = false, reused_ = false;
};

std::string ClientHttp1::head() const {
  const ClientRequest& request = task_->request;
  const Url& url = task_->url;
  const bool handed_over = task_->proxy && !url.tls;  // to a proxy, which wants the whole address
  const std::string authority = url.authority();
  std::string head;
  head.reserve(512);
  head.append(request.method).append(" ");
  if (handed_over) head.append("http://").append(authority);
  head.append(url.target).append(" HTTP/1.1\r\nhost: ").append(authority).append("\r\n");
  if (handed_over && !task_->proxy->authorization.empty())
    head.append("proxy-authorization: ").append(task_->proxy->authorization).append("\r\n");
  for (const auto& [name, value] : request.headers)
    if (!equals_ignoring_case(name, "host")) append_field(head, name, value);
  const bool has_body =
      !request.body.empty() || request.method == "POST" || request.method == "PUT" || request.method == "PATCH";
  if (has_body) head.append("content-length: ").append(fmt::format_int(request.body.size()).str()).append("\r\n");
  head.append("\r\n");
  return head;
}

void ClientHttp1::serve(std::shared_ptr<ClientTask> task) {
  task_ = std::move(task);
  reused_ = std::exchange(used_, true);
  home_.out().append(head());
  home_.out().append(task_->request.body);  // a copy: a reused connection may turn out dead
  reader_.emplace(task_->request.method, home_.options().max_header, home_.options().max_body);
  quiet_until_ = Clock::now() + task_->response_timeout(home_.options());
}

void ClientHttp1::receive(std::string_view bytes) {
  if (!task_) {
    // A server that speaks unasked cannot be trusted with the next call. (Under
    // TLS it may send tickets, which are no bytes to us.)
    if (!bytes.empty()) home_.close({});
    return;
  }
  const auto task = task_;
  quiet_until_ = Clock::now() + task->response_timeout(home_.options());
  bool unknown_to_proxy = false;
  const ResponseReader::Events events{.head =
                                          [&](ResponseHead&& head) {
                                            unknown_to_proxy = head.status == 407 && task->proxy && !task->url.tls;
                                            task->forget_request();  // it is not asked again
                                            if (!unknown_to_proxy) task->head(head.status, head.headers);
                                          },
                                      .content =
                                          [&](std::string_view piece) {
                                            if (!unknown_to_proxy) task->data(piece);
                                          }};
  if (Status read = reader_->read(bytes, events); !read) return home_.close(std::move(read).error());
  if (!task_) return;
  if (unknown_to_proxy) return home_.close(refused_by(*task->proxy, task->url, 407));
  if (!reader_->done()) return;
  if (reader_->keep_alive() && home_.all_sent() && bytes.empty()) return finish();
  task_.reset();
  task->done({});
  home_.close({});
}

// The answer is whole: the connection is kept for the next call.
void ClientHttp1::finish() {
  const auto task = std::exchange(task_, nullptr);
  reader_.reset();
  quiet_until_ = Clock::now() + home_.options().idle_timeout;
  const bool kept = home_.offer();
  task->done({});  // which may well send the next
  if (!kept) home_.close({});
}

void ClientHttp1::receive_end() {
  if (!task_) return home_.close({});
  Status end = reader_->read_end();
  if (end) {
    const auto task = std::exchange(task_, nullptr);
    task->done({});
    return home_.close({});
  }
  // A kept connection may have been closed while the request was on its way.
  if (reused_ && !reader_->begun() && !task_->retried && task_->is_repeatable()) {
    auto task = std::exchange(task_, nullptr);
    home_.close({});
    return home_.ask_again(std::move(task));
  }
  home_.close(std::move(end).error());
}

void ClientHttp1::expire(TimePoint now) {
  if (!task_) return home_.close({});
  if (now >= task_->until)
    return home_.close({Code::deadline, fmt::format("{} did not finish its answer within {} ms.", home_.name(),
                                                    task_->request.timeout.count())});
  home_.close({Code::deadline, fmt::format("{} was silent for {} ms.", home_.name(),
                                           task_->response_timeout(home_.options()).count())});
}

}  // namespace

std::unique_ptr<ClientProtocol> make_client_http1(ClientHome& home) { return std::make_unique<ClientHttp1>(home); }

}  // namespace ashlar::net
