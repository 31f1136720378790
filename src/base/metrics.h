// Counters, gauges and histograms that register themselves by existing and are
// shown in the Prometheus text format. A metric is one line beside the code that
// moves it:
//
//   Counter admitted{"engine_admitted_total", "Requests given a slot."};
//
// appears as ashlar_engine_admitted_total. Names that carry a colon
// ("vllm:num_requests_running") are shown as they are. Any thread may move or
// read a metric; two metrics of one name and other labels are one family.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ashlar {

using Labels = std::vector<std::pair<std::string, std::string>>;

namespace metrics {

class Metric {
 public:
  Metric(std::string_view name, std::string_view help, std::string_view type, Labels labels);
  virtual ~Metric() = default;
  Metric(const Metric&) = delete;
  Metric& operator=(const Metric&) = delete;

  const std::string& name() const { return name_; }
  const std::string& help() const { return help_; }
  const std::string& type() const { return type_; }
  // This metric's sample lines, each ended by a newline.
  virtual void render(std::string& out) const = 0;

 protected:
  // `name{labels,extra}`
  std::string series(std::string_view suffix = "", std::string_view extra = "") const;

 private:
  std::string name_, help_, type_, labels_;
};

// The last member of each kind of metric: it is shown once it is whole, and no more when it begins to die.
class Shown {
 public:
  explicit Shown(const Metric& metric);
  ~Shown();
  Shown(const Shown&) = delete;
  Shown& operator=(const Shown&) = delete;

 private:
  const Metric& metric_;
};

// All living metrics, by family, in the text exposition format 0.0.4.
std::string render();

}  // namespace metrics

class Counter : public metrics::Metric {
 public:
  Counter(std::string_view name, std::string_view help, Labels labels = {}) : Metric(name, help, "counter", std::move(labels)) {}
  void add(std::uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }
  void render(std::string& out) const override;

 private:
  std::atomic<std::uint64_t> value_{0};
  metrics::Shown shown_{*this};
};

class Gauge : public metrics::Metric {
 public:
  Gauge(std::string_view name, std::string_view help, Labels labels = {}) : Metric(name, help, "gauge", std::move(labels)) {}
  void set(double v) { value_.store(v, std::memory_order_relaxed); }
  void add(double v) { value_.fetch_add(v, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }
  void render(std::string& out) const override;

 private:
  std::atomic<double> value_{0};
  metrics::Shown shown_{*this};
};

class Histogram : public metrics::Metric {
 public:
  // `bounds`: upper bounds, rising; +Inf is added.
  Histogram(std::string_view name, std::string_view help, std::span<const double> bounds, Labels labels = {});
  void observe(double v);
  std::uint64_t count() const;
  void render(std::string& out) const override;

 private:
  std::vector<double> bounds_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;  // bounds_.size() + 1
  std::atomic<double> sum_{0};
  metrics::Shown shown_{*this};
};

}  // namespace ashlar
