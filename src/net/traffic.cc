#include "net/traffic.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace ashlar::net {
namespace {
constexpr std::string_view kMethods[] = {"GET", "POST", "DELETE", "OPTIONS", "other"};
constexpr int kClasses = 6;  // 0xx is for a status that is none
}  // namespace

Traffic& traffic() {
  static auto* instance = new Traffic;  // io threads may outlive static objects
  return *instance;
}

void count_request(std::string_view method, int status) {
  static const auto* counters = [] {
    auto* all = new std::vector<std::unique_ptr<Counter>>;
    for (const std::string_view name : kMethods)
      for (int c = 0; c < kClasses; ++c)
        all->push_back(
            std::make_unique<Counter>("http_requests_total", "Requests answered, by method and class of status.",
                                      Labels{{"method", std::string(name)}, {"status", std::to_string(c) + "xx"}}));
    return all;
  }();
  const auto* const known = std::ranges::find(kMethods, method);
  const auto row = std::min<std::ptrdiff_t>(known - std::begin(kMethods), std::ssize(kMethods) - 1);
  const int column = status >= 100 && status < 600 ? status / 100 : 0;
  (*counters)[static_cast<std::size_t>(row * kClasses + column)]->add();
}

}  // namespace ashlar::net
