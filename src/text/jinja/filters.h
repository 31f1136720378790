// The filters and tests a template may name.
#pragma once

#include <span>
#include <string_view>

#include "text/jinja/runtime.h"

namespace ashlar::text::jinja {

struct Filter {
  std::string_view name;
  Result<Value> (*apply)(Runtime& runtime, const Value& input, Arguments& arguments);
};
struct Test {
  std::string_view name;
  Result<bool> (*holds)(Runtime& runtime, const Value& value, Arguments& arguments);
};

// Null: no such one.
const Filter* find_filter(std::string_view name);
const Test* find_test(std::string_view name);

// The tables, one per file.
std::span<const Filter> text_filters();      // filters_text.cc
std::span<const Filter> layout_filters();    // filters_layout.cc
std::span<const Filter> sequence_filters();  // filters_sequence.cc
std::span<const Filter> order_filters();     // filters_order.cc
std::span<const Filter> number_filters();    // filters_number.cc

// Jinja's make_attrgetter: "a.b.0" looks up a, then b, then item 0.
class Path {
 public:
  // none or missing: the item itself. invalid: not a string or an integer.
  static Result<Path> create(Runtime& runtime, const Value& attribute);
  // `otherwise` stands in for what is undefined, unless it is missing or none.
  Result<Value> get(Runtime& runtime, const Value& item, const Value& otherwise = {}) const;

 private:
  std::vector<Value> parts_;
};

}  // namespace ashlar::text::jinja
