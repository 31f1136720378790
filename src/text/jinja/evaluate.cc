#include "text/jinja/evaluate.h"

#include <fmt/format.h>

#include "text/jinja/access.h"
#include "text/jinja/filters.h"
#include "text/jinja/markup.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {

Value& Evaluator::slot(Env& env, Place place) {
  Env* at = &env;
  for (int i = 0; i < place.hops; ++i) at = at->outer.get();
  return at->slots[place.slot];
}

// Each kind has a function of its own so that this one's frame, of which a deep
// template makes thousands, stays small.
Result<Value> Evaluator::eval(const Expr& expr, Env& env) {
  TRY(budget.spend(1));
  const Descent level(*this);
  if (!level.allowed()) return budget.too_deep();
  line = expr.line;
  switch (expr.kind) {
    case ExprKind::constant:
      return eval_constant(expr);
    case ExprKind::name:
      return eval_name(expr, env);
    case ExprKind::tuple:
    case ExprKind::list:
      return eval_sequence(expr, env);
    case ExprKind::dict:
      return eval_dict(expr, env);
    case ExprKind::binary:
      return eval_binary(expr, env);
    case ExprKind::negative:
    case ExprKind::positive:
      return eval_sign(expr, env);
    case ExprKind::negation:
    case ExprKind::all:
    case ExprKind::any:
      return eval_logic(expr, env);
    case ExprKind::compare:
      return eval_compare(expr, env);
    case ExprKind::concat:
      return eval_concat(expr, env);
    case ExprKind::attribute:
      return eval_attribute(expr, env);
    case ExprKind::item:
      return eval_item(expr, env);
    case ExprKind::slice:
      return eval_slice(expr, env);
    case ExprKind::call:
      return eval_call(expr, env);
    case ExprKind::filter:
      return eval_filter(expr, env);
    case ExprKind::test:
      return eval_test(expr, env);
    case ExprKind::condition:
      return eval_condition(expr, env);
    case ExprKind::space:
      break;
  }
  CHECK(false, "a target was evaluated");
}

Result<Value> Evaluator::constant_text(std::uint32_t number, const std::string& text) {
  Value& kept = constants_[number];
  if (kept.is(Kind::missing)) kept = TRY(string(text));
  return kept;
}

Result<Value> Evaluator::eval_constant(const Expr& expr) {
  switch (expr.value.index()) {
    case 0:
      return Value::none();
    case 1:
      return Value::boolean(std::get<bool>(expr.value));
    case 2:
      return Value::integer(std::get<Int>(expr.value));
    case 3:
      return Value::floating(std::get<double>(expr.value));
    default:
      return constant_text(expr.constant, std::get<std::string>(expr.value));
  }
}

Result<Value> Evaluator::eval_name(const Expr& expr, Env& env) {
  const Value& value = slot(env, expr.place);
  if (value.is(Kind::missing)) return undefined(expr.text);
  return value;
}

Result<Value> Evaluator::eval_sequence(const Expr& expr, Env& env) {
  std::vector<Value> items;
  items.reserve(expr.parts.size());
  for (const auto& part : expr.parts) items.push_back(TRY(eval(*part, env)));
  return expr.kind == ExprKind::list ? list(std::move(items)) : tuple(std::move(items));
}

Result<Value> Evaluator::eval_dict(const Expr& expr, Env& env) {
  Ref<Dict> made(new Dict);
  for (std::size_t i = 0; i < expr.parts.size(); i += 2) {
    Value key = TRY(eval(*expr.parts[i], env));
    Value value = TRY(eval(*expr.parts[i + 1], env));
    TRY(insert(*made, std::move(key), std::move(value)));
  }
  return dict(std::move(made));
}

Result<Value> Evaluator::eval_binary(const Expr& expr, Env& env) {
  Value left = TRY(eval(*expr.parts[0], env));
  for (std::size_t i = 0; i < expr.ops.size(); ++i) {
    const Value right = TRY(eval(*expr.parts[i + 1], env));
    left = TRY(operate(*this, expr.ops[i], left, right));
  }
  return left;
}

Result<Value> Evaluator::eval_sign(const Expr& expr, Env& env) {
  const Value value = TRY(eval(*expr.parts[0], env));
  return expr.kind == ExprKind::negative ? negate(value, *this) : positive(value, *this);
}

Result<Value> Evaluator::eval_logic(const Expr& expr, Env& env) {
  if (expr.kind == ExprKind::negation) return Value::boolean(!truthy(TRY(eval(*expr.parts[0], env))));
  Value value;
  for (const auto& part : expr.parts) {
    value = TRY(eval(*part, env));
    if (truthy(value) == (expr.kind == ExprKind::any)) break;
  }
  return value;
}

Result<Value> Evaluator::eval_compare(const Expr& expr, Env& env) {
  Value left = TRY(eval(*expr.parts[0], env));
  for (std::size_t i = 0; i < expr.comparisons.size(); ++i) {
    Value right = TRY(eval(*expr.parts[i + 1], env));
    if (!TRY(compare(*this, expr.comparisons[i], left, right))) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Result<Value> Evaluator::eval_concat(const Expr& expr, Env& env) {
  std::vector<Value> values;
  bool markup = false;
  for (const auto& part : expr.parts) {
    values.push_back(TRY(eval(*part, env)));
    markup = markup || (values.back().is_string() && values.back().as<String>().markup);
  }
  // Only where escaping is on does Markup rub off.
  markup = markup && autoescape;
  std::string text;
  for (const Value& value : values) {
    if (markup && value.is_string())
      text.append(escape_unless_markup(value));
    else
      TRY(append_text(*this, text, value));
    TRY(budget.afford(text.size()));
  }
  return string(std::move(text), markup);
}

Result<Value> Evaluator::eval_attribute(const Expr& expr, Env& env) {
  const Value object = TRY(eval(*expr.parts[0], env));
  line = expr.line;
  return get_attribute(*this, object, TRY(constant_text(expr.constant, expr.text)));
}

Result<Value> Evaluator::eval_item(const Expr& expr, Env& env) {
  const Value object = TRY(eval(*expr.parts[0], env));
  const Value key = TRY(eval(*expr.parts[1], env));
  return get_item(*this, object, key);
}

Result<Value> Evaluator::eval_slice(const Expr& expr, Env& env) {
  const Value object = TRY(eval(*expr.parts[0], env));
  Value bounds[3];
  for (std::size_t i = 0; i < 3; ++i) {
    if (expr.parts[i + 1]) bounds[i] = TRY(eval(*expr.parts[i + 1], env));
  }
  return get_slice(*this, object, bounds[0], bounds[1], bounds[2]);
}

Result<Value> Evaluator::eval_condition(const Expr& expr, Env& env) {
  if (truthy(TRY(eval(*expr.parts[1], env)))) return eval(*expr.parts[0], env);
  if (expr.parts[2]) return eval(*expr.parts[2], env);
  return undefined_hint(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", expr.line));
}

Status Evaluator::spread(const CallSyntax& syntax, Env& env, Arguments& arguments) {
  if (syntax.spread) {
    const Value more = TRY(eval(*syntax.spread, env));
    if (!iterable(more)) {
      return template_error(fmt::format("argument after * must be an iterable, not {}", type_name(more)));
    }
    for (Value& value : TRY(collect(*this, more))) arguments.positional.push_back(std::move(value));
  }
  if (syntax.spread_named) {
    const Value more = TRY(eval(*syntax.spread_named, env));
    if (!more.is(Kind::dict)) {
      return template_error(fmt::format("argument after ** must be a mapping, not {}", type_name(more)));
    }
    for (const auto& entry : more.as<Dict>().entries) {
      if (!entry.key.is_string()) return template_error("keywords must be strings");
      TRY(budget.spend(1));
      arguments.named.emplace_back(entry.key.text(), entry.value);
    }
  }
  return {};
}

Result<Arguments> Evaluator::eval_arguments(const CallSyntax& syntax, Env& env) {
  Arguments arguments;
  for (const auto& argument : syntax.positional) arguments.positional.push_back(TRY(eval(*argument, env)));
  for (const auto& [name, argument] : syntax.named) arguments.named.emplace_back(name, TRY(eval(*argument, env)));
  if (syntax.spread || syntax.spread_named) TRY(spread(syntax, env, arguments));
  return arguments;
}

Result<Value> Evaluator::eval_call(const Expr& expr, Env& env, const Value* caller) {
  const Value callee = TRY(eval(*expr.parts[0], env));
  Arguments arguments = TRY(eval_arguments(*expr.call, env));
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  line = expr.line;
  return call(callee, arguments);
}

Result<Value> Evaluator::eval_filter(const Expr& expr, Env& env) {
  Value input = expr.parts[0] ? TRY(eval(*expr.parts[0], env)) : block_output_;
  Arguments arguments = TRY(eval_arguments(*expr.call, env));
  line = expr.line;
  if (expr.filter == nullptr) return template_error(fmt::format("No filter named '{}' found.", expr.text));
  return expr.filter->apply(*this, input, arguments);
}

Result<Value> Evaluator::eval_test(const Expr& expr, Env& env) {
  const Value value = TRY(eval(*expr.parts[0], env));
  Arguments arguments = TRY(eval_arguments(*expr.call, env));
  line = expr.line;
  if (expr.test == nullptr) return template_error(fmt::format("No test named '{}' found.", expr.text));
  return Value::boolean(TRY(expr.test->holds(*this, value, arguments)));
}

Result<Value> Evaluator::call(const Value& callee, Arguments& arguments) {
  switch (callee.kind()) {
    case Kind::function: {
      const auto& function = callee.as<Function>();
      return function.native(*this, function.self, arguments);
    }
    case Kind::macro:
      return invoke(callee.as<Macro>(), arguments);
    case Kind::loop:
      return call_loop(callee.as<Loop>(), arguments);
    case Kind::joiner: {
      auto& joiner = callee.as<Joiner>();
      if (!std::exchange(joiner.used, true)) return string("");
      return joiner.separator;
    }
    case Kind::undefined:
      return undefined_error(*this, callee);
    default:
      return template_error(fmt::format("'{}' object is not callable", type_name(callee)));
  }
}

}  // namespace ashlar::text::jinja
