#include "gateway/limits/webhook.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/json.h"
#include "base/log.h"
#include "base/threads.h"

namespace ashlar::gateway {

Webhook::Webhook(net::HttpClient& client, WebhookOptions options)
    : client_(client), options_(std::move(options)), thread_([this](std::stop_token stop) { work(stop); }) {}

Webhook::~Webhook() = default;

bool Webhook::post(std::string body) {
  const std::lock_guard lock(mutex_);
  if (waiting_.size() >= options_.most_waiting) {
    ++counts_.dropped;
    return false;
  }
  waiting_.push_back(std::move(body));
  wake_.notify_one();
  return true;
}

Webhook::Counts Webhook::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void Webhook::work(const std::stop_token& stop) {
  begin_thread("webhook");
  std::unique_lock lock(mutex_);
  while (wake_.wait(lock, stop, [&] { return !waiting_.empty(); })) {
    const std::string body = waiting_.front();
    lock.unlock();
    const bool done = deliver(body, stop);
    lock.lock();
    waiting_.pop_front();
    ++(done ? counts_.delivered : counts_.failed);
    if (stop.stop_requested()) return;
  }
}

bool Webhook::deliver(const std::string& body, const std::stop_token& stop) {
  auto pause = options_.pause;
  for (int turn = 1;; ++turn) {
    net::ClientRequest request{.method = "POST",
                               .url = options_.url,
                               .headers = {{"content-type", "application/json"}},
                               .body = body,
                               .timeout = options_.timeout};
    if (!options_.authorization.empty()) request.headers.emplace_back("authorization", options_.authorization);
    const auto answer = net::fetch(client_, std::move(request));
    if (answer && answer->status >= 200 && answer->status < 300) return true;
    const int status = answer ? answer->status : 0;
    const bool final = status >= 400 && status < 500 && status != 408 && status != 429;
    if (final || turn >= options_.tries) {
      log::warn("webhook_failed", {{"status", status}, {"why", answer ? "" : answer.error().message}});
      return false;
    }
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, stop, pause, [] { return false; });
    if (stop.stop_requested()) return false;
    pause = std::min(2 * pause, std::chrono::milliseconds(60'000));
  }
}

std::string alert_json(const BudgetAlert& alert) {
  std::string out = R"({"event":"budget_alert","limit":)";
  append_json_string(out, alert.limit);
  out += R"(,"who":)";
  append_json_string(out, alert.who);
  fmt::format_to(std::back_inserter(out),
                 R"(,"percent":{},"used_nano_dollars":{},"capacity_nano_dollars":{},"soft":{}}})", alert.percent,
                 alert.used, alert.capacity, alert.soft);
  return out;
}

}  // namespace ashlar::gateway
