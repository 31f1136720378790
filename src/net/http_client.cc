#include "net/http_client.h"

#include <boost/asio/post.hpp>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "net/client_pool.h"
#include "net/client_task.h"

namespace ashlar::net {
namespace {

class Client final : public HttpClient {
 public:
  Client(ClientOptions options, std::shared_ptr<const TlsContext> tls);
  ~Client() override;
  std::unique_ptr<Call> send(ClientRequest request, ClientCallbacks callbacks) override;
  std::unique_ptr<Call> after(std::chrono::milliseconds delay, std::function<void()> due) override;

  const ClientOptions options;
  const std::shared_ptr<IoThread> thread = std::make_shared<IoThread>();
  ClientPool pool;  // on the thread
};

class HeldCall final : public Call {
 public:
  HeldCall(Client& client, std::shared_ptr<ClientTask> task)
      : pool_(client.pool), thread_(client.thread), task_(std::move(task)) {}
  ~HeldCall() override {
    if (task_->is_over()) return;
    task_->cancel();
    // A call may outlive its client: then nothing is left to cancel.
    thread_->post([pool = &pool_, task = std::move(task_)] { pool->cancel(*task); });
  }

 private:
  ClientPool& pool_;
  const std::shared_ptr<IoThread> thread_;
  std::shared_ptr<ClientTask> task_;
};

class HeldAlarm final : public Call {
 public:
  HeldAlarm(Client& client, std::shared_ptr<ClientAlarm> alarm)
      : pool_(client.pool), thread_(client.thread), alarm_(std::move(alarm)) {}
  ~HeldAlarm() override {
    {
      const std::lock_guard lock(alarm_->mutex);
      alarm_->over = true;
    }
    thread_->post([pool = &pool_, alarm = std::move(alarm_)] { pool->disarm(alarm); });
  }

 private:
  ClientPool& pool_;
  const std::shared_ptr<IoThread> thread_;
  std::shared_ptr<ClientAlarm> alarm_;
};

Client::Client(ClientOptions given, std::shared_ptr<const TlsContext> tls)
    : options(std::move(given)), pool(*thread, options, std::move(tls)) {
  thread->start("ashlar-client");
}

Client::~Client() {
  thread->call([this] {
    pool.end();
    thread->finish();
  });
  thread->join();
}

std::unique_ptr<Call> Client::send(ClientRequest request, ClientCallbacks callbacks) {
  auto task = std::make_shared<ClientTask>(std::move(request), std::move(callbacks));
  if (task->request.timeout.count() > 0) task->until = Clock::now() + task->request.timeout;
  boost::asio::post(thread->io, [this, task] { pool.start(task); });
  return std::make_unique<HeldCall>(*this, std::move(task));
}

std::unique_ptr<Call> Client::after(std::chrono::milliseconds delay, std::function<void()> due) {
  auto alarm = std::make_shared<ClientAlarm>();
  alarm->due = std::move(due);
  thread->post([this, alarm, when = Clock::now() + delay] { pool.arm(alarm, when); });
  return std::make_unique<HeldAlarm>(*this, std::move(alarm));
}

}  // namespace

Result<std::unique_ptr<HttpClient>> HttpClient::create(ClientOptions options) {
  if (options.tls_cert.empty() != options.tls_key.empty())
    return Error{Code::invalid, "A client certificate needs both the certificate and its key."};
  auto tls = TRY(TlsContext::client({.certificate = options.tls_cert, .key = options.tls_key, .ca = options.tls_ca},
                                    options.tls_verify));
  return std::make_unique<Client>(std::move(options), std::move(tls));
}

Result<ClientResponse> fetch(HttpClient& client, ClientRequest request) {
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Result<ClientResponse>> result;
  ClientResponse response;
  const auto call =
      client.send(std::move(request), {.on_head =
                                           [&](int status, const Headers& headers) {
                                             response.status = status;
                                             response.headers = headers;
                                           },
                                       .on_data = [&](std::string_view piece) { response.body.append(piece); },
                                       .on_done =
                                           [&](Status status) {
                                             const std::lock_guard lock(mutex);
                                             if (status)
                                               result = std::move(response);
                                             else
                                               result = std::unexpected(std::move(status).error());
                                             changed.notify_one();
                                           }});
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return result.has_value(); });
  return std::move(*result);
}

}  // namespace ashlar::net
