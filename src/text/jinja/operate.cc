#include "text/jinja/operate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "text/jinja/evaluate.h"
#include "text/jinja/iterators.h"
#include "text/jinja/search.h"

namespace ashlar::text::jinja {

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::missing:
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() != 0;
    case Kind::floating:
      return value.as_double() != 0;
    case Kind::string:
      return !value.text().empty();
    case Kind::list:
    case Kind::tuple:
      return !value.as<List>().items.empty();
    case Kind::dict:
      return !value.as<Dict>().entries.empty();
    case Kind::view:
      return !value.as<View>().dict->entries.empty();
    case Kind::range:
      return value.as<Range>().length() != 0;
    default:
      return true;
  }
}

namespace {

// <0, 0, >0; numbers that are not ordered (NaN) answer through `unordered`.
int order_numbers(const Value& left, const Value& right, bool& unordered) {
  if (left.is_integral() && right.is_integral()) {
    const Int a = left.as_integer(), b = right.as_integer();
    return a < b ? -1 : a > b;
  }
  const auto wide = [](const Value& v) {
    return v.is(Kind::floating) ? static_cast<long double>(v.as_double()) : static_cast<long double>(v.as_integer());
  };
  const long double a = wide(left), b = wide(right);
  unordered = std::isnan(a) || std::isnan(b);
  return a < b ? -1 : a > b;
}

bool equal_numbers(const Value& left, const Value& right) {
  bool unordered = false;
  return order_numbers(left, right, unordered) == 0 && !unordered;
}

bool equal_ranges(const Range& a, const Range& b) {
  if (a.length() != b.length()) return false;
  if (a.length() == 0) return true;
  return a.start == b.start && (a.length() == 1 || a.step == b.step);
}

Result<bool> equal_dicts(Runtime& runtime, const Dict& left, const Dict& right) {
  if (left.entries.size() != right.entries.size()) return false;
  for (const auto& entry : left.entries) {
    const auto at = right.find(entry.key, entry.hash);
    if (at < 0) return false;
    if (!TRY(equal(runtime, entry.value, right.entries[static_cast<std::size_t>(at)].value))) return false;
  }
  return true;
}

// Keys and items compare as sets.
Result<bool> equal_views(Runtime& runtime, const Value& left, const Value& right) {
  const auto& a = left.as<View>();
  const auto& b = right.as<View>();
  if (a.of != b.of || a.of == View::Of::values) return left.same(right);
  if (a.of == View::Of::items) return equal_dicts(runtime, *a.dict, *b.dict);
  if (a.dict->entries.size() != b.dict->entries.size()) return false;
  TRY(runtime.budget.spend(a.dict->entries.size()));
  return std::ranges::all_of(a.dict->entries,
                             [&](const auto& entry) { return b.dict->find(entry.key, entry.hash) >= 0; });
}

std::string_view symbol(Comparison comparison) {
  switch (comparison) {
    case Comparison::less:
      return "<";
    case Comparison::less_equal:
      return "<=";
    case Comparison::greater:
      return ">";
    default:
      return ">=";
  }
}

bool holds(Comparison comparison, int order) {
  switch (comparison) {
    case Comparison::less:
      return order < 0;
    case Comparison::less_equal:
      return order <= 0;
    case Comparison::greater:
      return order > 0;
    default:
      return order >= 0;
  }
}

Result<bool> order(Runtime& runtime, Comparison comparison, const Value& left, const Value& right) {
  if (left.is_undefined()) return undefined_error(runtime, left);
  if (right.is_undefined()) return undefined_error(runtime, right);
  if (left.is_number() && right.is_number()) {
    bool unordered = false;
    const int result = order_numbers(left, right, unordered);
    return !unordered && holds(comparison, result);
  }
  if (left.is_string() && right.is_string()) {
    TRY(runtime.budget.walk(std::min(left.text().size(), right.text().size())));
    return holds(comparison, left.text().compare(right.text()));  // UTF-8 sorts as its code points do
  }
  if (left.is_sequence() && left.kind() == right.kind()) {
    const Descent descent(runtime);
    if (!descent.allowed()) return runtime.budget.too_deep();
    const auto& a = left.as<List>().items;
    const auto& b = right.as<List>().items;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (!TRY(equal(runtime, a[i], b[i]))) return order(runtime, comparison, a[i], b[i]);
    }
    return holds(comparison, a.size() < b.size() ? -1 : a.size() > b.size());
  }
  return template_error(fmt::format("'{}' not supported between instances of '{}' and '{}'", symbol(comparison),
                                    type_name(left), type_name(right)));
}

}  // namespace

Result<bool> equal(Runtime& runtime, const Value& left, const Value& right) {
  TRY(runtime.budget.spend(1));
  if (left.is_number() && right.is_number()) return equal_numbers(left, right);
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::missing:
    case Kind::none:
    case Kind::undefined:
      return true;
    case Kind::string: {
      if (left.text().size() != right.text().size()) return false;
      TRY(runtime.budget.walk(left.text().size()));
      return left.text() == right.text();
    }
    case Kind::list:
    case Kind::tuple: {
      const auto& a = left.as<List>().items;
      const auto& b = right.as<List>().items;
      if (a.size() != b.size()) return false;
      const Descent descent(runtime);
      if (!descent.allowed()) return runtime.budget.too_deep();
      for (std::size_t i = 0; i < a.size(); ++i) {
        if (!a[i].same(b[i]) && !TRY(equal(runtime, a[i], b[i]))) return false;
      }
      return true;
    }
    case Kind::dict: {
      const Descent descent(runtime);
      if (!descent.allowed()) return runtime.budget.too_deep();
      return equal_dicts(runtime, left.as<Dict>(), right.as<Dict>());
    }
    case Kind::range:
      return equal_ranges(left.as<Range>(), right.as<Range>());
    case Kind::view:
      return equal_views(runtime, left, right);
    default:
      return left.same(right);
  }
}

Result<bool> compare(Runtime& runtime, Comparison comparison, const Value& left, const Value& right) {
  switch (comparison) {
    case Comparison::equal:
      return equal(runtime, left, right);
    case Comparison::unequal:
      return !TRY(equal(runtime, left, right));
    case Comparison::in:
      return contains(runtime, right, left);
    case Comparison::not_in:
      return !TRY(contains(runtime, right, left));
    default:
      return order(runtime, comparison, left, right);
  }
}

Result<bool> less(Runtime& runtime, const Value& left, const Value& right) {
  TRY(runtime.budget.spend(1));
  return order(runtime, Comparison::less, left, right);
}

namespace {

Result<bool> in_dict(Runtime& runtime, const Dict& dict, const Value& key) {
  return dict.find(key, TRY(hash_value(runtime, key))) >= 0;
}

Result<bool> in_items(Runtime& runtime, const Dict& dict, const Value& pair) {
  if (!pair.is(Kind::tuple) || pair.as<List>().items.size() != 2) return false;
  const auto& [key, value] = std::tie(pair.as<List>().items[0], pair.as<List>().items[1]);
  const auto at = dict.find(key, TRY(hash_value(runtime, key)));
  return at >= 0 && TRY(equal(runtime, dict.entries[static_cast<std::size_t>(at)].value, value));
}

}  // namespace

Result<bool> contains(Runtime& runtime, const Value& haystack, const Value& needle) {
  if (haystack.is_string()) {
    if (!needle.is_string()) {
      return template_error(fmt::format("'in <string>' requires string as left operand, not {}", type_name(needle)));
    }
    TRY(runtime.budget.walk(haystack.text().size() + needle.text().size()));
    return find_text(haystack.text(), needle.text(), 0) != std::string_view::npos;
  }
  if (haystack.is(Kind::dict)) return in_dict(runtime, haystack.as<Dict>(), needle);
  if (haystack.is(Kind::view)) {
    const auto& view = haystack.as<View>();
    if (view.of == View::Of::keys) return in_dict(runtime, *view.dict, needle);
    if (view.of == View::Of::items) return in_items(runtime, *view.dict, needle);
  }
  if (haystack.is_sequence()) {
    for (const Value& item : haystack.as<List>().items) {
      if (item.same(needle) || TRY(equal(runtime, item, needle))) return true;
    }
    return false;
  }
  if (!iterable(haystack)) {
    return template_error(fmt::format("argument of type '{}' is not iterable", type_name(haystack)));
  }
  const auto walk = TRY(iterate(runtime, haystack));
  Value item;
  while (TRY(walk->next(runtime, item))) {
    if (item.same(needle) || TRY(equal(runtime, item, needle))) return true;
  }
  return false;
}

namespace {

std::size_t mix(std::size_t hash, std::size_t more) {
  hash ^= more + 0x9E3779B97F4A7C15u + (hash << 6) + (hash >> 2);
  return hash;
}

std::size_t spread(std::size_t bits) {
  bits ^= bits >> 32;
  bits *= 0xD6E8FEB86659FD93u;
  return bits ^ (bits >> 32);
}

std::size_t hash_number(const Value& value) {
  if (value.is_integral()) return spread(static_cast<std::size_t>(value.as_integer()));
  const double number = value.as_double();
  // 1.0 and 1 are one key.
  if (std::floor(number) == number && std::abs(number) < 9e18)
    return spread(static_cast<std::size_t>(static_cast<std::int64_t>(number)));
  return spread(std::hash<double>{}(number));
}

}  // namespace

std::size_t hash_text(std::string_view text) { return spread(std::hash<std::string_view>{}(text)); }

Result<std::size_t> hash_value(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case Kind::string:
      TRY(runtime.budget.walk(value.text().size()));
      return hash_text(value.text());
    case Kind::boolean:
    case Kind::integer:
    case Kind::floating:
      return hash_number(value);
    case Kind::missing:
    case Kind::none:
    case Kind::undefined:
      return static_cast<std::size_t>(value.kind());
    case Kind::tuple: {
      const Descent descent(runtime);
      if (!descent.allowed()) return runtime.budget.too_deep();
      std::size_t hash = 7;
      for (const Value& item : value.as<List>().items) {
        TRY(runtime.budget.spend(1));
        hash = mix(hash, TRY(hash_value(runtime, item)));
      }
      return spread(hash);
    }
    case Kind::list:
    case Kind::dict:
      return template_error(fmt::format("unhashable type: '{}'", type_name(value)));
    case Kind::view:
      if (value.as<View>().of != View::Of::values) {
        return template_error(fmt::format("unhashable type: '{}'", type_name(value)));
      }
      break;
    case Kind::range:
      return spread(static_cast<std::size_t>(value.as<Range>().length()));
    default:
      break;
  }
  return spread(reinterpret_cast<std::size_t>(value.object()));
}

bool same_key(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) return equal_numbers(left, right) || left.same(right);
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::missing:
    case Kind::none:
    case Kind::undefined:
      return true;
    case Kind::string:
      return left.text() == right.text();
    case Kind::tuple: {
      const auto& a = left.as<List>().items;
      const auto& b = right.as<List>().items;
      if (left.same(right)) return true;
      return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_key);
    }
    case Kind::range:
      return equal_ranges(left.as<Range>(), right.as<Range>());
    default:
      return left.same(right);
  }
}

bool has_length(const Value& value) {
  switch (value.kind()) {
    case Kind::string:
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::view:
    case Kind::range:
    case Kind::undefined:
    case Kind::loop:
      return true;
    default:
      return false;
  }
}

Result<std::size_t> length(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case Kind::string:
      TRY(runtime.budget.walk(value.text().size() / 8));
      return value.as<String>().points();
    case Kind::list:
    case Kind::tuple:
      return value.as<List>().items.size();
    case Kind::dict:
      return value.as<Dict>().entries.size();
    case Kind::view:
      return value.as<View>().dict->entries.size();
    case Kind::range:
      return static_cast<std::size_t>(value.as<Range>().length());
    case Kind::undefined:
      return std::size_t{0};
    case Kind::loop:
      return value.as<Loop>().length(runtime);
    default:
      return template_error(fmt::format("object of type '{}' has no len()", type_name(value)));
  }
}

bool iterable(const Value& value) { return has_length(value) || value.is(Kind::iterator); }

Result<std::vector<Value>> collect(Runtime& runtime, const Value& value) {
  if (value.is_sequence()) {
    TRY(runtime.budget.spend(value.as<List>().items.size() / 4));
    return value.as<List>().items;
  }
  const auto walk = TRY(iterate(runtime, value));
  std::vector<Value> items;
  Value item;
  while (TRY(walk->next(runtime, item))) {
    TRY(runtime.budget.spend(1));
    TRY(runtime.budget.afford(items.size() * sizeof(Value)));
    items.push_back(std::move(item));
  }
  return items;
}

Result<std::int64_t> to_index(const Value& value, std::string_view what) {
  if (!value.is_integral()) {
    return template_error(fmt::format("'{}' object cannot be interpreted as an integer ({})", type_name(value), what));
  }
  const Int wide = value.as_integer();
  if (wide > INT64_MAX || wide < INT64_MIN) {
    return template_error(fmt::format("Python int too large to convert to C ssize_t ({})", what));
  }
  return static_cast<std::int64_t>(wide);
}

}  // namespace ashlar::text::jinja
