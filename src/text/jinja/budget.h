// What one rendering may spend: steps of work and bytes of built values. A
// template is hostile; every loop in this folder pays here before it runs.
#pragma once

#include <fmt/format.h>
#include <algorithm>
#include <cstddef>

#include "base/result.h"
#include "text/chat_template.h"

namespace ashlar::text::jinja {

class Budget {
 public:
  explicit Budget(const TemplateLimits& limits) : limits_(limits) {}

  // Pays for work already small, or about to be done.
  Status spend(std::size_t steps) {
    steps_ += steps;
    if (steps_ > limits_.steps || steps > limits_.steps) [[unlikely]]
      return too_slow();
    return {};
  }
  // Pays for walking over `bytes` of text; far cheaper than a step each.
  Status walk(std::size_t bytes) { return spend(1 + bytes / 32); }

  // Pays for a value of `bytes`.
  Status take(std::size_t bytes) {
    if (bytes > limits_.value_bytes - bytes_) [[unlikely]]
      return too_big();
    bytes_ += bytes;
    return {};
  }
  // Pays for a small thing that must be made anyway; what is too much shows at the
  // next take().
  void owe(std::size_t bytes) { bytes_ += std::min(bytes, limits_.value_bytes - bytes_); }
  // Whether a value of `bytes` could be paid for: asked before building it.
  Status afford(std::size_t bytes) const {
    if (bytes > limits_.value_bytes - bytes_) [[unlikely]]
      return too_big();
    return {};
  }

  const TemplateLimits& limits() const { return limits_; }
  Error too_deep() const {
    return Error{Code::too_large, fmt::format("the template nests deeper than {} levels", limits_.depth)};
  }
  Error too_big() const {
    return Error{Code::too_large, fmt::format("the template builds more than {} bytes of values", limits_.value_bytes)};
  }

 private:
  Error too_slow() const {
    return Error{Code::too_large, fmt::format("the template takes more than {} steps", limits_.steps)};
  }

  TemplateLimits limits_;
  std::size_t steps_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace ashlar::text::jinja
