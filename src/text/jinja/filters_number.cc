// Filters that make or change numbers.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "text/jinja/filters.h"
#include "text/jinja/iterators.h"
#include "text/jinja/methods_text.h"
#include "text/jinja/number.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {
namespace {

Result<Value> to_int(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [otherwise, base] = TRY(bind<2>("int", arguments, {"default", "base"}, 0));
  const Value fallback = otherwise.is(Kind::missing) ? Value::integer(0) : otherwise;
  if (input.is_undefined()) return undefined_error(runtime, input);
  if (input.is_integral()) return Value::integer(input.as_integer());
  std::optional<double> number;
  if (input.is(Kind::floating)) number = input.as_double();
  if (input.is_string()) {
    const std::int64_t radix = base.is(Kind::missing) ? 10 : TRY(to_index(base, "base"));
    TRY(runtime.budget.walk(input.text().size() * 2));
    if (const auto whole = parse_integer(input.text(), radix)) {
      if (!*whole) return whole->error();
      return Value::integer(**whole);
    }
    number = parse_float(input.text());
  }
  // A number that is infinite fails; a text that says so, or no number, falls back.
  if (input.is(Kind::floating) && std::isinf(*number))
    return template_error("cannot convert float infinity to integer");
  if (!number || !std::isfinite(*number)) return fallback;
  if (std::abs(*number) > 1e38) return template_error("an integer of more than 128 bits is not supported");
  return Value::integer(static_cast<Int>(*number));
}

Result<Value> to_float(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [otherwise] = TRY(bind<1>("float", arguments, {"default"}, 0));
  if (input.is_undefined()) return undefined_error(runtime, input);
  if (input.is_number()) return Value::floating(input.as_double());
  if (input.is_string()) {
    TRY(runtime.budget.walk(input.text().size()));
    if (const auto number = parse_float(input.text())) return Value::floating(*number);
  }
  return otherwise.is(Kind::missing) ? Value::floating(0) : otherwise;
}

Result<Value> absolute(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("abs", arguments, {}, 0)));
  if (input.is(Kind::floating)) return Value::floating(std::abs(input.as_double()));
  if (!input.is_integral()) return template_error(fmt::format("bad operand type for abs(): '{}'", type_name(input)));
  return input.as_integer() < 0 ? negate(input, runtime) : Result<Value>(Value::integer(input.as_integer()));
}

// Python rounds half to even, and correctly: by the decimal digits, not by scaling.
double round_float(double value, std::int64_t digits) {
  if (!std::isfinite(value) || digits > 330) return value;
  if (digits < -330) return std::copysign(0.0, value);
  if (digits < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-digits));
    return std::nearbyint(value / scale) * scale;
  }
  char text[700];
  std::snprintf(text, sizeof text, "%.*f", static_cast<int>(digits), value);
  return std::strtod(text, nullptr);
}

Result<Value> round_integer(Runtime& runtime, Int value, std::int64_t digits) {
  if (digits >= 0) return Value::integer(value);
  if (digits < -38) return Value::integer(0);
  const Value scale = TRY(operate(runtime, Op::power, Value::integer(10), Value::integer(-digits)));
  const Int unit = scale.as_integer();
  Int rest = value % unit;
  if (rest < 0) rest += unit;
  Int down = value - rest;
  const bool odd = (down / unit) % 2 != 0;
  if (rest > unit - rest || (rest == unit - rest && odd)) down += unit;
  return Value::integer(down);
}

Result<Value> round(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [precision, method] = TRY(bind<2>("round", arguments, {"precision", "method"}, 0));
  const std::string how = method.is(Kind::missing) ? "common" : TRY(to_text(runtime, method));
  if (how != "common" && how != "ceil" && how != "floor") return template_error("method must be common, ceil or floor");
  if (input.is_undefined()) return template_error("type Undefined doesn't define __round__ method");
  if (!input.is_number()) {
    return template_error(fmt::format("type {} doesn't define __round__ method", type_name(input)));
  }
  const Value digits = precision.is(Kind::missing) ? Value::integer(0) : precision;
  if (how == "common") {
    if (digits.is_none()) {
      const double whole = std::nearbyint(input.as_double());
      if (input.is_integral()) return Value::integer(input.as_integer());
      if (!(std::abs(whole) < 1e38)) return template_error("cannot convert float NaN or infinity to integer");
      return Value::integer(static_cast<Int>(whole));
    }
    const std::int64_t places = TRY(to_index(digits, "precision"));
    if (input.is_integral()) return round_integer(runtime, input.as_integer(), places);
    return Value::floating(round_float(input.as_double(), places));
  }
  const Value scale = TRY(operate(runtime, Op::power, Value::integer(10), digits));
  const Value scaled = TRY(operate(runtime, Op::multiply, input, scale));
  Value whole = scaled;
  if (scaled.is(Kind::floating)) {
    const double rounded = how == "ceil" ? std::ceil(scaled.as_double()) : std::floor(scaled.as_double());
    if (!std::isfinite(rounded)) return template_error("cannot convert float NaN or infinity to integer");
    if (std::abs(rounded) > 1e38) return template_error("an integer of more than 128 bits is not supported");
    whole = Value::integer(static_cast<Int>(rounded));
  }
  return operate(runtime, Op::divide, whole, scale);
}

Result<Value> sum(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [attribute, start] = TRY(bind<2>("sum", arguments, {"attribute", "start"}, 0));
  const Path path = TRY(Path::create(runtime, attribute));
  Value total = start.is(Kind::missing) ? Value::integer(0) : start;
  const auto walk = TRY(iterate(runtime, input));
  if (total.is_string()) return template_error("sum() can't sum strings [use ''.join(seq) instead]");
  Value item;
  while (TRY(walk->next(runtime, item))) {
    const Value more = TRY(path.get(runtime, item));
    total = TRY(operate(runtime, Op::add, total, more));
  }
  return total;
}

Result<Value> filesizeformat(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [binary] = TRY(bind<1>("filesizeformat", arguments, {"binary"}, 0));
  if (input.is_undefined()) return undefined_error(runtime, input);
  std::optional<double> bytes;
  if (input.is_number()) bytes = input.as_double();
  if (input.is_string()) bytes = parse_float(input.text());
  if (!bytes && !input.is_string()) {
    return template_error(
        fmt::format("float() argument must be a string or a real number, not '{}'", type_name(input)));
  }
  if (!bytes) return template_error("could not convert string to float: " + TRY(repr(runtime, input)));
  const double base = truthy(binary) ? 1024 : 1000;
  if (*bytes == 1) return runtime.string("1 Byte");
  if (*bytes < base) {
    if (!std::isfinite(*bytes)) return template_error("cannot convert float infinity to integer");
    return runtime.string(fmt::format("{:.0f} Bytes", std::trunc(*bytes)));
  }
  static constexpr std::string_view kPrefixes[] = {"k", "M", "G", "T", "P", "E", "Z", "Y"};
  double unit = base;
  std::size_t at = 0;
  do unit *= base;
  while (*bytes >= unit && ++at < std::size(kPrefixes));
  at = std::min(at, std::size(kPrefixes) - 1);
  if (*bytes >= unit) unit = std::pow(base, 9);
  std::string prefix(kPrefixes[at]);
  if (truthy(binary)) prefix = (at == 0 ? "K" : prefix) + "i";
  return runtime.string(fmt::format("{:.1f} {}B", base * *bytes / unit, prefix));
}

constexpr Filter kFilters[] = {
    {"int", to_int},  {"float", to_float}, {"abs", absolute},
    {"round", round}, {"sum", sum},        {"filesizeformat", filesizeformat},
};

}  // namespace

std::span<const Filter> number_filters() { return kFilters; }

}  // namespace ashlar::text::jinja
