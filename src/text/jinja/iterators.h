// Walking over values, and the small iterators that filters are made of.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

// Over values already there.
class ListIterator : public Iterator {
 public:
  explicit ListIterator(std::vector<Value> items) : items_(std::move(items)) {}
  Result<bool> next(Runtime& runtime, Value& out) override;
  std::string_view type_name() const override { return "list_iterator"; }
  std::string_view label() const override { return "list_iterator object"; }

 private:
  std::vector<Value> items_;
  std::size_t at_ = 0;
};

// A generator written as a function: each call gives the next item or says it is
// the end. What it holds is kept alive by its captures.
class Generator : public Iterator {
 public:
  using Step = std::function<Result<bool>(Runtime& runtime, Value& out)>;
  Generator(std::string_view label, Step step) : label_(label), step_(std::move(step)) {}
  Result<bool> next(Runtime& runtime, Value& out) override;
  std::string_view label() const override { return label_; }

 private:
  std::string_view label_;  // static storage
  Step step_;
  bool finished_ = false;
};

// The items from last to first: list, tuple, dict keys, range. invalid: cannot be
// walked backwards.
Result<Value> reversed(Runtime& runtime, const Value& value);

}  // namespace ashlar::text::jinja
