#include "text/jinja/access.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/evaluate.h"
#include "text/jinja/methods.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

// What every Python object has; the sandbox forbids them all.
constexpr std::string_view kDunders[] = {
    "__class__",   "__delattr__", "__dir__",           "__doc__",         "__eq__",
    "__format__",  "__ge__",      "__getattribute__",  "__getstate__",    "__gt__",
    "__hash__",    "__init__",    "__init_subclass__", "__le__",          "__lt__",
    "__ne__",      "__new__",     "__reduce__",        "__reduce_ex__",   "__repr__",
    "__setattr__", "__sizeof__",  "__str__",           "__subclasshook__"};

bool has_dunder(const Value& object, std::string_view name) {
  static constexpr std::string_view kContainer[] = {"__contains__", "__getitem__", "__iter__", "__len__"};
  if (object.is(Kind::space)) return name == "__class__";  // it answers for its own attributes alone
  if (std::ranges::find(kDunders, name) != std::end(kDunders)) return true;
  return (object.is_string() || object.is_sequence() || object.is(Kind::dict) || object.is(Kind::range)) &&
         std::ranges::find(kContainer, name) != std::end(kContainer);
}

// The sandbox refuses what would change a list or a dict.
bool modifies(Kind kind, std::string_view name) {
  static constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  static constexpr std::string_view kList[] = {"append", "clear",  "extend",  "insert",
                                               "pop",    "remove", "reverse", "sort"};
  if (kind == Kind::dict) return std::ranges::find(kDict, name) != std::end(kDict);
  if (kind == Kind::list) return std::ranges::find(kList, name) != std::end(kList);
  return false;
}

Value unsafe(Runtime& runtime, const Value& object, std::string_view name) {
  std::string quoted;
  append_quoted(quoted, name);
  return runtime.undefined_hint(
      fmt::format("access to attribute {} of '{}' object is unsafe.", quoted, type_name(object)));
}

Result<Value> loop_attribute(Runtime& runtime, Loop& loop, std::string_view name) {
  const auto number = [](std::int64_t n) { return Value::integer(n); };
  if (name == "index") return number(loop.index0 + 1);
  if (name == "index0") return number(loop.index0);
  if (name == "first") return Value::boolean(loop.index0 == 0);
  if (name == "last") return Value::boolean(!TRY(loop.peek(runtime)));
  if (name == "length") return number(static_cast<std::int64_t>(TRY(loop.length(runtime))));
  if (name == "revindex") return number(static_cast<std::int64_t>(TRY(loop.length(runtime))) - loop.index0);
  if (name == "revindex0") return number(static_cast<std::int64_t>(TRY(loop.length(runtime))) - loop.index0 - 1);
  if (name == "depth") return number(loop.depth0 + 1);
  if (name == "depth0") return number(loop.depth0);
  if (name == "previtem") {
    if (loop.index0 == 0) return runtime.undefined_hint("there is no previous item");
    return loop.before;
  }
  if (name == "nextitem") {
    if (!TRY(loop.peek(runtime))) return runtime.undefined_hint("there is no next item");
    return loop.after;
  }
  return Value();
}

Result<Value> macro_attribute(Runtime& runtime, const Macro& macro, std::string_view name) {
  if (name == "name") {
    if (macro.name().empty()) return Value::none();
    return runtime.string(std::string(macro.name()));
  }
  if (name == "arguments") {
    std::vector<Value> names;
    for (const auto& parameter : macro.body->parameters) names.push_back(TRY(runtime.string(parameter.name)));
    return runtime.tuple(std::move(names));
  }
  if (name == "catch_kwargs") return Value::boolean(macro.body->catches_kwargs);
  if (name == "catch_varargs") return Value::boolean(macro.body->catches_varargs);
  if (name == "caller") return Value::boolean(macro.body->uses_caller);
  if (name == "explicit_caller") {
    return Value::boolean(
        std::ranges::any_of(macro.body->parameters, [](const auto& p) { return p.name == "caller"; }));
  }
  return Value();
}

Value number_attribute(const Value& value, std::string_view name) {
  const bool whole = value.is_integral();
  if (name == "real") return whole ? Value::integer(value.as_integer()) : value;
  if (name == "imag") return whole ? Value::integer(0) : Value::floating(0);
  if (whole && name == "numerator") return Value::integer(value.as_integer());
  if (whole && name == "denominator") return Value::integer(1);
  return Value();
}

// getattr(): missing where Python raises AttributeError.
Result<Value> attribute_of(Runtime& runtime, const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::undefined:
      if (!name.starts_with("__")) return undefined_error(runtime, object);
      break;
    case Kind::integer:
    case Kind::boolean:
    case Kind::floating:
      if (Value found = number_attribute(object, name); !found.is(Kind::missing)) return found;
      break;
    case Kind::tuple:
      if (object.as<List>().group && (name == "grouper" || name == "list")) {
        return object.as<List>().items[name == "list"];
      }
      break;
    case Kind::range: {
      const auto& range = object.as<Range>();
      if (name == "start") return Value::integer(range.start);
      if (name == "stop") return Value::integer(range.stop);
      if (name == "step") return Value::integer(range.step);
      break;
    }
    case Kind::space: {
      const auto at = object.as<Space>().attributes->find(name);
      if (at >= 0) return object.as<Space>().attributes->entries[static_cast<std::size_t>(at)].value;
      return Value();
    }
    case Kind::loop: {
      Value found = TRY(loop_attribute(runtime, object.as<Loop>(), name));
      if (!found.is(Kind::missing)) return found;
      break;
    }
    case Kind::macro: {
      Value found = TRY(macro_attribute(runtime, object.as<Macro>(), name));
      if (!found.is(Kind::missing)) return found;
      break;
    }
    case Kind::cycler:
      if (name == "items") return runtime.tuple(object.as<Cycler>().items);
      if (name == "pos") return Value::integer(static_cast<Int>(object.as<Cycler>().position));
      if (name == "current") return object.as<Cycler>().items[object.as<Cycler>().position];
      break;
    case Kind::joiner:
      if (name == "sep") return object.as<Joiner>().separator;
      if (name == "used") return Value::boolean(object.as<Joiner>().used);
      break;
    default:
      break;
  }
  return find_method(runtime, object, name);
}

// obj.name under the sandbox's eye; missing: no such attribute.
Result<Value> safe_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (name.starts_with("__") && has_dunder(object, name)) return unsafe(runtime, object, name);
  if (modifies(object.kind(), name)) return unsafe(runtime, object, name);
  Value found = TRY(attribute_of(runtime, object, name));
  if (!found.is(Kind::missing) && name.starts_with("_")) return unsafe(runtime, object, name);
  return found;
}

Result<Value> item_at(Runtime& runtime, const std::vector<Value>& items, const Value& key) {
  if (!key.is_integral()) return Value();
  Int index = key.as_integer();
  if (index < 0) index += static_cast<Int>(items.size());
  if (index < 0 || index >= static_cast<Int>(items.size())) return Value();
  (void)runtime;
  return items[static_cast<std::size_t>(index)];
}

Result<Value> char_at(Runtime& runtime, const Value& string, const Value& key) {
  if (!key.is_integral()) return Value();
  auto& object = string.as<String>();
  TRY(runtime.budget.walk(object.ascii() ? 0 : object.text.size()));
  Int index = key.as_integer();
  const auto points = static_cast<Int>(object.points());
  if (index < 0) index += points;
  if (index < 0 || index >= points) return Value();
  const auto at = static_cast<std::size_t>(index);
  return runtime.string(std::string(slice_points(object.text, at, at + 1, object.ascii())), object.markup);
}

// obj[key]; missing where Python raises TypeError or LookupError.
Result<Value> item_of(Runtime& runtime, const Value& object, const Value& key) {
  switch (object.kind()) {
    case Kind::undefined:
      return undefined_error(runtime, object);
    case Kind::dict: {
      const auto hash = hash_value(runtime, key);
      if (!hash) {
        if (hash.error().code == Code::too_large) return hash.error();
        return Value();
      }
      const auto& dict = object.as<Dict>();
      const auto at = dict.find(key, *hash);
      return at >= 0 ? dict.entries[static_cast<std::size_t>(at)].value : Value();
    }
    case Kind::list:
    case Kind::tuple:
      return item_at(runtime, object.as<List>().items, key);
    case Kind::string:
      return char_at(runtime, object, key);
    case Kind::range: {
      if (!key.is_integral()) return Value();
      const auto& range = object.as<Range>();
      Int index = key.as_integer();
      if (index < 0) index += range.length();
      if (index < 0 || index >= range.length()) return Value();
      return Value::integer(range.at(static_cast<std::int64_t>(index)));
    }
    default:
      return Value();
  }
}

}  // namespace

Result<Value> get_attribute(Runtime& runtime, const Value& object, const Value& name) {
  Value found = TRY(safe_attribute(runtime, object, name.text()));
  if (found.is(Kind::missing)) found = TRY(item_of(runtime, object, name));
  if (found.is(Kind::missing)) return runtime.undefined_item(object, name);
  return found;
}

Result<Value> get_item(Runtime& runtime, const Value& object, const Value& key) {
  Value found = TRY(item_of(runtime, object, key));
  if (found.is(Kind::missing) && key.is_string()) found = TRY(safe_attribute(runtime, object, key.text()));
  if (found.is(Kind::missing)) return runtime.undefined_item(object, key);
  return found;
}

Result<Value> get_attribute_only(Runtime& runtime, const Value& object, const Value& name) {
  if (!name.is_string()) return template_error("attribute name must be string");
  Value found = TRY(safe_attribute(runtime, object, name.text()));
  if (found.is(Kind::missing)) return runtime.undefined_item(object, name);
  return found;
}

Result<Stride> slice_stride(std::int64_t length, const Value& from, const Value& to, const Value& by) {
  const auto open = [](const Value& v) { return v.is(Kind::missing) || v.is_none(); };
  for (const Value* bound : {&from, &to, &by}) {
    if (!open(*bound) && !bound->is_integral()) {
      return template_error("slice indices must be integers or None or have an __index__ method");
    }
  }
  const auto clamp = [](Int v) { return static_cast<std::int64_t>(std::clamp<Int>(v, INT64_MIN / 4, INT64_MAX / 4)); };
  const std::int64_t step = open(by) ? 1 : clamp(by.as_integer());
  if (step == 0) return template_error("slice step cannot be zero");
  const auto place = [&](const Value& bound, std::int64_t otherwise) {
    if (open(bound)) return otherwise;
    std::int64_t at = clamp(bound.as_integer());
    if (at < 0) at += length;
    return std::clamp<std::int64_t>(at, step < 0 ? -1 : 0, step < 0 ? length - 1 : length);
  };
  const std::int64_t first = place(from, step < 0 ? length - 1 : 0);
  const std::int64_t last = place(to, step < 0 ? -1 : length);
  std::int64_t count = 0;
  if (step > 0 && first < last) count = (last - first - 1) / step + 1;
  if (step < 0 && first > last) count = (first - last - 1) / -step + 1;
  return Stride{first, last, step, count};
}

namespace {

Result<Value> slice_text(Runtime& runtime, const Value& string, const Value& from, const Value& to, const Value& by) {
  auto& object = string.as<String>();
  TRY(runtime.budget.walk(object.text.size()));
  const auto stride = TRY(slice_stride(static_cast<std::int64_t>(object.points()), from, to, by));
  const bool ascii = object.ascii();
  if (stride.count == 0) return runtime.string("", object.markup);
  const auto first = static_cast<std::size_t>(stride.first), count = static_cast<std::size_t>(stride.count);
  if (stride.step == 1) {
    return runtime.string(std::string(slice_points(object.text, first, first + count, ascii)), object.markup);
  }
  TRY(runtime.budget.spend(count));
  TRY(runtime.budget.afford(object.text.size() * sizeof(std::string_view)));
  std::vector<std::string_view> points;  // where each character stands
  for (std::string_view rest = object.text; !rest.empty();) {
    points.push_back(slice_points(rest, 0, 1, ascii));
    rest.remove_prefix(points.back().size());
  }
  std::string out;
  for (std::int64_t i = 0; i < stride.count; ++i) {
    out.append(points[static_cast<std::size_t>(stride.first + i * stride.step)]);
  }
  return runtime.string(std::move(out), object.markup);
}

}  // namespace

Result<Value> get_slice(Runtime& runtime, const Value& object, const Value& from, const Value& to, const Value& by) {
  switch (object.kind()) {
    case Kind::undefined:
      return undefined_error(runtime, object);
    case Kind::string:
      return slice_text(runtime, object, from, to, by);
    case Kind::list:
    case Kind::tuple: {
      const auto& items = object.as<List>().items;
      const auto stride = TRY(slice_stride(static_cast<std::int64_t>(items.size()), from, to, by));
      TRY(runtime.budget.spend(static_cast<std::size_t>(stride.count)));
      TRY(runtime.budget.afford(static_cast<std::size_t>(stride.count) * sizeof(Value)));
      std::vector<Value> chosen;
      chosen.reserve(static_cast<std::size_t>(stride.count));
      for (std::int64_t i = 0; i < stride.count; ++i) {
        chosen.push_back(items[static_cast<std::size_t>(stride.first + i * stride.step)]);
      }
      return object.is(Kind::list) ? runtime.list(std::move(chosen)) : runtime.tuple(std::move(chosen));
    }
    case Kind::range: {
      const auto& range = object.as<Range>();
      const auto stride = TRY(slice_stride(range.length(), from, to, by));
      TRY(runtime.budget.take(sizeof(Range)));
      // A stride over one item or none may be as long as it likes.
      const Int step = stride.count > 1 ? range.step * stride.step : range.step;
      return Value(Kind::range, new Range(range.at(stride.first), range.at(stride.last), step));
    }
    case Kind::dict:
      return template_error("unhashable type: 'slice'");
    default:
      return template_error(fmt::format("'{}' object is not subscriptable", type_name(object)));
  }
}

}  // namespace ashlar::text::jinja
