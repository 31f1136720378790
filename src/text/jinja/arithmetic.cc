#include <fmt/format.h>

#include <cmath>

#include "text/jinja/format.h"
#include "text/jinja/markup.h"
#include "text/jinja/operate.h"

namespace ashlar::text::jinja {
namespace {

constexpr Int kMax = ~(static_cast<Int>(1) << 127);
constexpr Int kMin = -kMax - 1;

Error too_long() { return template_error("an integer of more than 128 bits is not supported"); }

std::string_view symbol(Op op) {
  switch (op) {
    case Op::add:
      return "+";
    case Op::subtract:
      return "-";
    case Op::multiply:
      return "*";
    case Op::divide:
      return "/";
    case Op::floor_divide:
      return "//";
    case Op::modulo:
      return "%";
    case Op::power:
      return "** or pow()";
  }
  return "?";
}

Error unsupported(Op op, const Value& left, const Value& right) {
  return template_error(
      fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", symbol(op), type_name(left), type_name(right)));
}

// No helper of the compiler's runtime multiplies 128 bits with a check.
bool multiply_fits(Int a, Int b) {
  if (a == 0 || b == 0) return true;
  if (a > 0) return b > 0 ? a <= kMax / b : b >= kMin / a;
  if (b > 0) return a >= kMin / b;
  return a != kMin && b != kMin && -a <= kMax / -b;
}

Result<Value> power_of(Int base, Int exponent) {
  if (exponent < 0) {
    if (base == 0) return template_error("0.0 cannot be raised to a negative power");
    return Value::floating(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  Int result = 1;
  while (true) {
    if (exponent & 1) {
      if (!multiply_fits(result, base)) return too_long();
      result *= base;
    }
    exponent >>= 1;
    if (exponent == 0) return Value::integer(result);
    if (base == 0 || base == 1) continue;
    if (!multiply_fits(base, base)) return too_long();
    base *= base;
  }
}

Result<Value> integers(Op op, Int a, Int b) {
  Int result = 0;
  switch (op) {
    case Op::add:
      if (__builtin_add_overflow(a, b, &result)) return too_long();
      return Value::integer(result);
    case Op::subtract:
      if (__builtin_sub_overflow(a, b, &result)) return too_long();
      return Value::integer(result);
    case Op::multiply:
      if (!multiply_fits(a, b)) return too_long();
      return Value::integer(a * b);
    case Op::divide:
      if (b == 0) return template_error("division by zero");
      return Value::floating(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
    case Op::floor_divide:
    case Op::modulo: {
      if (b == 0)
        return template_error(op == Op::modulo ? "integer modulo by zero" : "integer division or modulo by zero");
      if (b == -1) return op == Op::modulo ? Value::integer(0) : integers(Op::subtract, 0, a);
      Int quotient = a / b, rest = a % b;
      if (rest != 0 && (rest < 0) != (b < 0)) --quotient, rest += b;
      return Value::integer(op == Op::modulo ? rest : quotient);
    }
    case Op::power:
      return power_of(a, b);
  }
  return template_error("no such operator");
}

Result<Value> floats(Op op, double a, double b) {
  switch (op) {
    case Op::add:
      return Value::floating(a + b);
    case Op::subtract:
      return Value::floating(a - b);
    case Op::multiply:
      return Value::floating(a * b);
    case Op::divide:
      if (b == 0) return template_error("float division by zero");
      return Value::floating(a / b);
    case Op::floor_divide:
    case Op::modulo: {
      if (b == 0) return template_error(op == Op::modulo ? "float modulo" : "float floor division by zero");
      double rest = std::fmod(a, b);
      double quotient = (a - rest) / b;
      if (rest != 0 && (rest < 0) != (b < 0)) rest += b, quotient -= 1;
      if (op == Op::modulo) return Value::floating(rest == 0 ? std::copysign(0.0, b) : rest);
      if (quotient == 0) return Value::floating(std::copysign(0.0, a / b));
      double floor = std::floor(quotient);
      if (quotient - floor > 0.5) floor += 1;
      return Value::floating(floor);
    }
    case Op::power: {
      if (a == 0 && b < 0) return template_error("0.0 cannot be raised to a negative power");
      if (a < 0 && std::isfinite(b) && b != std::floor(b)) return template_error("complex numbers are not supported");
      const double result = std::pow(a, b);
      if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) {
        return template_error("(34, 'Numerical result out of range')");
      }
      return Value::floating(result);
    }
  }
  return template_error("no such operator");
}

Result<Value> repeat(Runtime& runtime, const Value& sequence, const Value& times) {
  if (!times.is_integral()) {
    return template_error(fmt::format("can't multiply sequence by non-int of type '{}'", type_name(times)));
  }
  const Int wanted = times.as_integer();
  const std::size_t one = sequence.is_string() ? sequence.text().size() : sequence.as<List>().items.size();
  const std::size_t unit = sequence.is_string() ? 1 : sizeof(Value);
  std::size_t count = 0;
  if (wanted > 0 && one > 0) {
    if (wanted > static_cast<Int>(1) << 40) return runtime.budget.too_big();
    count = static_cast<std::size_t>(wanted);
    if (count > (static_cast<std::size_t>(1) << 40) / one) {
      return runtime.budget.too_big();
    }
  }
  TRY(runtime.budget.afford(one * count * unit));
  if (sequence.is_string()) {
    std::string text;
    text.reserve(one * count);
    for (std::size_t i = 0; i < count; ++i) text.append(sequence.text());
    TRY(runtime.budget.walk(text.size() + count * 8));
    return runtime.string(std::move(text), sequence.as<String>().markup);
  }
  TRY(runtime.budget.spend(one * count));
  std::vector<Value> items;
  items.reserve(one * count);
  for (std::size_t i = 0; i < count; ++i) {
    items.insert(items.end(), sequence.as<List>().items.begin(), sequence.as<List>().items.end());
  }
  return sequence.is(Kind::list) ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

Result<Value> concatenate(Runtime& runtime, const Value& left, const Value& right) {
  if (left.is_string() && right.is_string()) {
    const bool markup = left.as<String>().markup || right.as<String>().markup;
    TRY(runtime.budget.walk(left.text().size() + right.text().size()));
    std::string text;
    if (markup) {
      text = escape_unless_markup(left) + escape_unless_markup(right);
    } else {
      text.reserve(left.text().size() + right.text().size());
      text.append(left.text()).append(right.text());
    }
    return runtime.string(std::move(text), markup);
  }
  if (left.is_sequence() && left.kind() == right.kind()) {
    const auto& a = left.as<List>().items;
    const auto& b = right.as<List>().items;
    TRY(runtime.budget.spend(a.size() + b.size()));
    TRY(runtime.budget.afford((a.size() + b.size()) * sizeof(Value)));
    std::vector<Value> items;
    items.reserve(a.size() + b.size());
    items.insert(items.end(), a.begin(), a.end());
    items.insert(items.end(), b.begin(), b.end());
    return left.is(Kind::list) ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
  }
  if (left.is_string() && !left.as<String>().markup && !right.is_undefined()) {
    return template_error(fmt::format("can only concatenate str (not \"{}\") to str", type_name(right)));
  }
  if (left.is_sequence()) {
    return template_error(
        fmt::format("can only concatenate {0} (not \"{1}\") to {0}", type_name(left), type_name(right)));
  }
  return unsupported(Op::add, left, right);
}

}  // namespace

Result<Value> operate(Runtime& runtime, Op op, const Value& left, const Value& right) {
  if (op == Op::modulo && left.is_string()) return format_percent(runtime, left, right);
  if (left.is_undefined()) return undefined_error(runtime, left);
  if (right.is_undefined()) return undefined_error(runtime, right);
  if (left.is_integral() && right.is_integral()) return integers(op, left.as_integer(), right.as_integer());
  if (left.is_number() && right.is_number()) return floats(op, left.as_double(), right.as_double());
  if (op == Op::add) return concatenate(runtime, left, right);
  if (op == Op::multiply) {
    if (left.is_string() || left.is_sequence()) return repeat(runtime, left, right);
    if (right.is_string() || right.is_sequence()) return repeat(runtime, right, left);
  }
  return unsupported(op, left, right);
}

Result<Value> negate(const Value& value, Runtime& runtime) {
  if (value.is_integral()) return integers(Op::subtract, 0, value.as_integer());
  if (value.is(Kind::floating)) return Value::floating(-value.as_double());
  if (value.is_undefined()) return undefined_error(runtime, value);
  return template_error(fmt::format("bad operand type for unary -: '{}'", type_name(value)));
}

Result<Value> positive(const Value& value, Runtime& runtime) {
  if (value.is_integral()) return Value::integer(value.as_integer());
  if (value.is(Kind::floating)) return value;
  if (value.is_undefined()) return undefined_error(runtime, value);
  return template_error(fmt::format("bad operand type for unary +: '{}'", type_name(value)));
}

}  // namespace ashlar::text::jinja
