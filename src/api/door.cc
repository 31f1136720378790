#include "api/door.h"

#include <fmt/compile.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "api/generation.h"
#include "base/metrics.h"

namespace ashlar::api {
namespace {

constexpr double kSeconds[] = {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};
constexpr std::string_view kMethods[] = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"};

// One series for each combination that was seen: routes, methods and statuses
// are few, since what a client may invent is counted as "other".
class RequestMetrics {
 public:
  void count(std::string_view route, std::string_view method, int status, double seconds) {
    if (std::ranges::find(kMethods, method) == std::end(kMethods)) method = "other";
    std::lock_guard lock(mutex_);
    const auto counter = counters_.find(std::tuple(route, method, status));
    const auto histogram = histograms_.find(std::tuple(route, method));
    (counter != counters_.end() ? *counter->second : add_counter(route, method, status)).add();
    (histogram != histograms_.end() ? *histogram->second : add_histogram(route, method)).observe(seconds);
  }

 private:
  static Labels labels(std::string_view route, std::string_view method) {
    return {{"handler", std::string(route)}, {"method", std::string(method)}};
  }
  Counter& add_counter(std::string_view route, std::string_view method, int status) {
    Labels all = labels(route, method);
    all.emplace_back("status", std::to_string(status));
    auto made = std::make_unique<Counter>("http_requests_total", "HTTP requests answered; 499: the client left first.",
                                          std::move(all));
    return *counters_.emplace(std::tuple(route, method, status), std::move(made)).first->second;
  }
  Histogram& add_histogram(std::string_view route, std::string_view method) {
    auto made =
        std::make_unique<Histogram>("http_request_duration_seconds", "From the whole request to the whole answer.",
                                    kSeconds, labels(route, method));
    return *histograms_.emplace(std::tuple(route, method), std::move(made)).first->second;
  }

  std::mutex mutex_;
  std::map<std::tuple<std::string, std::string, int>, std::unique_ptr<Counter>, std::less<>> counters_;
  std::map<std::tuple<std::string, std::string>, std::unique_ptr<Histogram>, std::less<>> histograms_;
};

RequestMetrics& request_metrics() {
  static auto* metrics = new RequestMetrics;  // answers may end while the process does
  return *metrics;
}

class DoorImpl final : public Door, public std::enable_shared_from_this<DoorImpl> {
 public:
  DoorImpl(std::shared_ptr<net::Exchange> inner, net::Headers common, std::string_view route)
      : inner_(std::move(inner)), common_(std::move(common)), route_(route) {}
  ~DoorImpl() override { count(500); }  // nobody answered; the server then says 500

  const net::HttpRequest& request() const override { return inner_->request(); }
  void set_rates(std::function<net::Headers()> rates) override { rates_ = std::move(rates); }
  engine::Clock::time_point arrived() const override { return arrived_; }

  void respond(int status, net::Headers headers, std::string body) override {
    inner_->respond(status, with_common(std::move(headers)), std::move(body));
    count(status);
  }
  void begin(int status, net::Headers headers) override {
    begun_ = status;
    inner_->begin(status, with_common(std::move(headers)));
  }
  void write(std::string piece) override { inner_->write(std::move(piece)); }
  void respond_marked(int status, net::Headers headers, std::string body, net::Marks marks) override {
    inner_->respond_marked(status, with_common(std::move(headers)), std::move(body), std::move(marks));
    count(status);
  }
  void write_marked(std::string piece, net::Marks marks) override {
    inner_->write_marked(std::move(piece), std::move(marks));
  }
  void end() override {
    inner_->end();
    count(begun_);
  }
  bool later(std::function<void()> task) override { return inner_->later(std::move(task)); }
  void on_gone(std::function<void()> gone) override {
    inner_->on_gone([self = weak_from_this(), gone = std::move(gone)] {
      if (const auto door = self.lock()) door->count(499);
      gone();
    });
  }

 private:
  net::Headers with_common(net::Headers headers) {
    const auto says = [](const auto& header) { return header.first.starts_with("x-ratelimit-"); };
    if (rates_ && std::ranges::none_of(headers, says))
      for (auto& header : rates_()) headers.push_back(std::move(header));
    headers.insert(headers.end(), std::make_move_iterator(common_.begin()), std::make_move_iterator(common_.end()));
    return headers;
  }

  void count(int status) {
    if (counted_.exchange(true)) return;
    const std::chrono::duration<double> took = engine::Clock::now() - arrived_;
    request_metrics().count(route_, inner_->request().method, status, took.count());
  }

  const std::shared_ptr<net::Exchange> inner_;
  net::Headers common_;
  std::function<net::Headers()> rates_;
  const std::string route_;
  const engine::Clock::time_point arrived_ = engine::Clock::now();
  std::atomic<int> begun_ = 200;
  std::atomic<bool> counted_ = false;
};

}  // namespace

std::shared_ptr<Door> with_door(std::shared_ptr<net::Exchange> inner, net::Headers common, std::string_view route) {
  return std::make_shared<DoorImpl>(std::move(inner), std::move(common), route);
}

std::string given_request_id(const net::Headers& headers) {
  const auto given = net::find_header(headers, "x-request-id");
  const bool plain = std::ranges::all_of(given, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.' || c == ':';
  });
  return given.size() <= 128 && plain ? std::string(given) : std::string();
}

std::pair<std::string, std::string> overhead_header(engine::Clock::time_point arrived,
                                                    std::optional<engine::Clock::time_point> asked,
                                                    engine::Clock::time_point told) {
  const auto now = engine::Clock::now();
  const auto spent = asked ? (*asked - arrived) + (now - told) : now - arrived;
  const auto us = std::max<std::int64_t>(0, std::chrono::duration_cast<std::chrono::microseconds>(spent).count());
  return {"x-ashlar-overhead-ms", fmt::format(FMT_COMPILE("{}.{:03}"), us / 1000, us % 1000)};
}

}  // namespace ashlar::api
