#include "net/http_client.h"

#include <boost/asio/post.hpp>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "net/client_pool.h"
#include "net/client_task.h"

namespace ashlar::net {
namespace {

// The client's part on one thread. Outlives the client as long as its calls do.
struct Seat final : IoThread::Tenant {
  Seat(std::shared_ptr<IoThread> on, std::shared_ptr<const ClientOptions> given, std::shared_ptr<const TlsContext> tls)
      : thread(std::move(on)), options(std::move(given)), pool(*thread, *options, std::move(tls)) {}
  void thread_ends() override { pool.end(); }

  const std::shared_ptr<IoThread> thread;
  const std::shared_ptr<const ClientOptions> options;
  ClientPool pool;  // on the thread
};
using SeatPtr = std::shared_ptr<Seat>;

class HeldCall final : public Call {
 public:
  HeldCall(SeatPtr seat, std::shared_ptr<ClientTask> task) : seat_(std::move(seat)), task_(std::move(task)) {}
  ~HeldCall() override {
    if (task_->is_over()) return;
    task_->cancel();
    // A call may outlive its client: then nothing is left to cancel.
    seat_->thread->post([seat = seat_, task = std::move(task_)] { seat->pool.cancel(*task); });
  }

 private:
  const SeatPtr seat_;
  std::shared_ptr<ClientTask> task_;
};

class HeldAlarm final : public Call {
 public:
  HeldAlarm(SeatPtr seat, std::shared_ptr<ClientAlarm> alarm) : seat_(std::move(seat)), alarm_(std::move(alarm)) {}
  ~HeldAlarm() override {
    {
      const std::lock_guard lock(alarm_->mutex);
      alarm_->over = true;
    }
    if (seat_->thread->is_this())
      seat_->pool.disarm(alarm_);
    else
      seat_->thread->post([seat = seat_, alarm = std::move(alarm_)] { seat->pool.disarm(alarm); });
  }

 private:
  const SeatPtr seat_;
  std::shared_ptr<ClientAlarm> alarm_;
};

class Client final : public HttpClient {
 public:
  Client(ClientOptions options, std::shared_ptr<const TlsContext> tls);
  ~Client() override;
  std::unique_ptr<Call> send(ClientRequest request, ClientCallbacks callbacks) override;
  std::unique_ptr<Call> after(std::chrono::milliseconds delay, std::function<void()> due) override;
  std::unique_ptr<Call> send_here(ClientRequest request, ClientCallbacks callbacks) override;
  std::unique_ptr<Call> after_here(std::chrono::milliseconds delay, std::function<void()> due) override;

 private:
  SeatPtr seat();

  const std::shared_ptr<const ClientOptions> options_;
  const std::shared_ptr<const TlsContext> tls_;
  const SeatPtr own_;
  std::mutex mutex_;
  std::vector<SeatPtr> seats_;  // GUARDED_BY(mutex_); on others' threads
};

std::shared_ptr<ClientTask> task_of(ClientRequest&& request, ClientCallbacks&& callbacks) {
  auto task = std::make_shared<ClientTask>(std::move(request), std::move(callbacks));
  if (task->request.timeout.count() > 0) task->until = Clock::now() + task->request.timeout;
  return task;
}

Client::Client(ClientOptions given, std::shared_ptr<const TlsContext> tls)
    : options_(std::make_shared<const ClientOptions>(std::move(given))),
      tls_(std::move(tls)),
      own_(std::make_shared<Seat>(std::make_shared<IoThread>(), options_, tls_)) {
  own_->thread->start("ashlar-client");
}

Client::~Client() {
  own_->thread->call([this] {
    own_->pool.end();
    own_->thread->finish();
  });
  own_->thread->join();
  for (const SeatPtr& seat : seats_) seat->thread->post([seat] { seat->pool.end(); });
}

// That of the caller's thread, or our own.
SeatPtr Client::seat() {
  IoThread* const here = IoThread::current();
  if (here == nullptr || here == own_->thread.get()) return own_;
  const std::lock_guard lock(mutex_);
  for (const SeatPtr& seat : seats_)
    if (seat->thread.get() == here) return seat;
  seats_.push_back(std::make_shared<Seat>(here->shared_from_this(), options_, tls_));
  here->take_in(seats_.back());
  return seats_.back();
}

std::unique_ptr<Call> Client::send(ClientRequest request, ClientCallbacks callbacks) {
  auto task = task_of(std::move(request), std::move(callbacks));
  boost::asio::post(own_->thread->io, [seat = own_, task] { seat->pool.start(task); });
  return std::make_unique<HeldCall>(own_, std::move(task));
}

std::unique_ptr<Call> Client::send_here(ClientRequest request, ClientCallbacks callbacks) {
  SeatPtr seat = this->seat();
  auto task = task_of(std::move(request), std::move(callbacks));
  if (!seat->thread->is_this() || !seat->pool.start_at_once(task))
    boost::asio::post(seat->thread->io, [seat, task] { seat->pool.start(task); });
  return std::make_unique<HeldCall>(std::move(seat), std::move(task));
}

std::unique_ptr<Call> Client::after(std::chrono::milliseconds delay, std::function<void()> due) {
  auto alarm = std::make_shared<ClientAlarm>();
  alarm->due = std::move(due);
  own_->thread->post([seat = own_, alarm, when = Clock::now() + delay] { seat->pool.arm(alarm, when); });
  return std::make_unique<HeldAlarm>(own_, std::move(alarm));
}

std::unique_ptr<Call> Client::after_here(std::chrono::milliseconds delay, std::function<void()> due) {
  SeatPtr seat = this->seat();
  if (!seat->thread->is_this()) return after(delay, std::move(due));
  auto alarm = std::make_shared<ClientAlarm>();
  alarm->due = std::move(due);
  seat->pool.arm(alarm, Clock::now() + delay);
  return std::make_unique<HeldAlarm>(std::move(seat), std::move(alarm));
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
