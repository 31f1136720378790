// The tests: what stands after `is`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/access.h"
#include "text/jinja/filters.h"
#include "text/jinja/methods_text.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {
namespace {

// A test of the value alone.
template <bool (*Holds)(const Value&)>
Result<bool> plain(Runtime&, const Value& value, Arguments& arguments) {
  TRY((bind<0>("test", arguments, {}, 0)));
  return Holds(value);
}

bool is_defined(const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Value& v) { return v.is_undefined(); }
bool is_none(const Value& v) { return v.is_none(); }
bool is_boolean(const Value& v) { return v.is(Kind::boolean); }
bool is_true(const Value& v) { return v.is(Kind::boolean) && v.as_bool(); }
bool is_false(const Value& v) { return v.is(Kind::boolean) && !v.as_bool(); }
bool is_integer(const Value& v) { return v.is(Kind::integer); }
bool is_float(const Value& v) { return v.is(Kind::floating); }
bool is_number(const Value& v) { return v.is_number(); }
bool is_string(const Value& v) { return v.is_string(); }
bool is_mapping(const Value& v) { return v.is(Kind::dict); }
bool is_escaped(const Value& v) { return v.is_string() && v.as<String>().markup; }
bool is_callable(const Value& v) {
  return v.is(Kind::function) || v.is(Kind::macro) || v.is(Kind::loop) || v.is(Kind::joiner) || v.is_undefined();
}
// It has a length and items by index. Undefined has both, if only to complain.
bool is_sequence(const Value& v) {
  return v.is_string() || v.is_sequence() || v.is(Kind::dict) || v.is(Kind::range) || v.is_undefined();
}

template <Comparison How>
Result<bool> compared(Runtime& runtime, const Value& value, Arguments& arguments) {
  const auto [other] = TRY(bind<1>("comparison", arguments, {"/other"}, 1));
  return compare(runtime, How, value, other);
}

Result<bool> is_in(Runtime& runtime, const Value& value, Arguments& arguments) {
  const auto [sequence] = TRY(bind<1>("in", arguments, {"seq"}, 1));
  return contains(runtime, sequence, value);
}

Result<bool> same_as(Runtime&, const Value& value, Arguments& arguments) {
  const auto [other] = TRY(bind<1>("sameas", arguments, {"other"}, 1));
  return value.same(other);
}

Result<bool> remainder_is(Runtime& runtime, const Value& value, const Value& divisor, int expected) {
  const Value rest = TRY(operate(runtime, Op::modulo, value, divisor));
  return equal(runtime, rest, Value::integer(expected));
}

template <int Rest>
Result<bool> parity(Runtime& runtime, const Value& value, Arguments& arguments) {
  TRY((bind<0>(Rest == 1 ? "odd" : "even", arguments, {}, 0)));
  return remainder_is(runtime, value, Value::integer(2), Rest);
}

Result<bool> divisible_by(Runtime& runtime, const Value& value, Arguments& arguments) {
  const auto [number] = TRY(bind<1>("divisibleby", arguments, {"num"}, 1));
  return remainder_is(runtime, value, number, 0);
}

template <bool Upper>
Result<bool> in_case(Runtime& runtime, const Value& value, Arguments& arguments) {
  TRY((bind<0>(Upper ? "upper" : "lower", arguments, {}, 0)));
  std::string shown = TRY(to_text(runtime, value));
  const Value text = TRY(runtime.string(std::move(shown)));
  const Value method = TRY(find_method(runtime, text, Upper ? "isupper" : "islower"));
  Arguments none;
  return truthy(TRY(runtime.call(method, none)));
}

Result<bool> is_iterable(Runtime&, const Value& value, Arguments& arguments) {
  TRY((bind<0>("iterable", arguments, {}, 0)));
  return iterable(value);
}

Result<bool> is_filter(Runtime& runtime, const Value& value, Arguments& arguments) {
  TRY((bind<0>("filter", arguments, {}, 0)));
  TRY(hash_value(runtime, value));
  return value.is_string() && find_filter(value.text()) != nullptr;
}

Result<bool> is_test(Runtime& runtime, const Value& value, Arguments& arguments) {
  TRY((bind<0>("test", arguments, {}, 0)));
  TRY(hash_value(runtime, value));
  return value.is_string() && find_test(value.text()) != nullptr;
}

constexpr Test kTests[] = {
    {"defined", plain<is_defined>},
    {"undefined", plain<is_undefined>},
    {"none", plain<is_none>},
    {"boolean", plain<is_boolean>},
    {"true", plain<is_true>},
    {"false", plain<is_false>},
    {"integer", plain<is_integer>},
    {"float", plain<is_float>},
    {"number", plain<is_number>},
    {"string", plain<is_string>},
    {"mapping", plain<is_mapping>},
    {"escaped", plain<is_escaped>},
    {"callable", plain<is_callable>},
    {"sequence", plain<is_sequence>},
    {"iterable", is_iterable},
    {"==", compared<Comparison::equal>},
    {"eq", compared<Comparison::equal>},
    {"equalto", compared<Comparison::equal>},
    {"!=", compared<Comparison::unequal>},
    {"ne", compared<Comparison::unequal>},
    {">", compared<Comparison::greater>},
    {"gt", compared<Comparison::greater>},
    {"greaterthan", compared<Comparison::greater>},
    {">=", compared<Comparison::greater_equal>},
    {"ge", compared<Comparison::greater_equal>},
    {"<", compared<Comparison::less>},
    {"lt", compared<Comparison::less>},
    {"lessthan", compared<Comparison::less>},
    {"<=", compared<Comparison::less_equal>},
    {"le", compared<Comparison::less_equal>},
    {"in", is_in},
    {"sameas", same_as},
    {"odd", parity<1>},
    {"even", parity<0>},
    {"divisibleby", divisible_by},
    {"lower", in_case<false>},
    {"upper", in_case<true>},
    {"filter", is_filter},
    {"test", is_test},
};

}  // namespace

const Test* find_test(std::string_view name) {
  const auto* at = std::ranges::find(kTests, name, &Test::name);
  return at == std::end(kTests) ? nullptr : at;
}

}  // namespace ashlar::text::jinja
