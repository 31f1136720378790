#include "base/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "base/result.h"

namespace ashlar {
namespace metrics {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<const Metric*> all;  // in order of birth
};

Registry& registry() {
  static auto* instance = new Registry;  // outlives every static metric
  return *instance;
}

// Text exposition 0.0.4: in a label's value \, " and newline are escaped.
std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out.push_back('\\');
    if (c == '\n') out.append("\\n");
    else out.push_back(c);
  }
  return out;
}

}  // namespace

Metric::Metric(std::string_view name, std::string_view help, std::string_view type, Labels labels)
    : name_(name.find(':') == name.npos ? fmt::format("ashlar_{}", name) : std::string(name)), help_(help), type_(type) {
  for (const auto& [key, value] : labels) {
    if (!labels_.empty()) labels_.push_back(',');
    labels_.append(fmt::format("{}=\"{}\"", key, escape(value)));
  }
}

Shown::Shown(const Metric& metric) : metric_(metric) {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  all.all.push_back(&metric);
}

Shown::~Shown() {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  std::erase(all.all, &metric_);
}

std::string Metric::series(std::string_view suffix, std::string_view extra) const {
  std::string out = name_;
  out.append(suffix);
  if (labels_.empty() && extra.empty()) return out;
  out.push_back('{');
  out.append(labels_);
  if (!labels_.empty() && !extra.empty()) out.push_back(',');
  out.append(extra);
  out.push_back('}');
  return out;
}

std::string render() {
  Registry& registry = metrics::registry();
  std::lock_guard lock(registry.mutex);
  std::map<std::string_view, std::vector<const Metric*>> families;
  for (const Metric* metric : registry.all) families[metric->name()].push_back(metric);
  std::string out;
  for (const auto& [name, members] : families) {
    out.append(fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, members[0]->help(), name, members[0]->type()));
    for (const Metric* metric : members) metric->render(out);
  }
  return out;
}

}  // namespace metrics

void Counter::render(std::string& out) const { out.append(fmt::format("{} {}\n", series(), value())); }

void Gauge::render(std::string& out) const { out.append(fmt::format("{} {}\n", series(), value())); }

Histogram::Histogram(std::string_view name, std::string_view help, std::span<const double> bounds, Labels labels)
    : Metric(name, help, "histogram", std::move(labels)),
      bounds_(bounds.begin(), bounds.end()),
      counts_(new std::atomic<std::uint64_t>[bounds.size() + 1]()) {
  CHECK(std::ranges::is_sorted(bounds_), "a histogram's bounds rise");
}

void Histogram::observe(double v) {
  const auto bucket = std::ranges::lower_bound(bounds_, v) - bounds_.begin();
  counts_[static_cast<std::size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(v, std::memory_order_relaxed);
}

std::uint64_t Histogram::count() const {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i <= bounds_.size(); ++i) total += counts_[i].load(std::memory_order_relaxed);
  return total;
}

void Histogram::render(std::string& out) const {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i <= bounds_.size(); ++i) {
    total += counts_[i].load(std::memory_order_relaxed);
    const std::string bound = i < bounds_.size() ? fmt::format("le=\"{}\"", bounds_[i]) : "le=\"+Inf\"";
    out.append(fmt::format("{} {}\n", series("_bucket", bound), total));
  }
  out.append(fmt::format("{} {}\n{} {}\n", series("_sum"), sum_.load(std::memory_order_relaxed), series("_count"), total));
}

}  // namespace ashlar
