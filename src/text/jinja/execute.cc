#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/access.h"
#include "text/jinja/context.h"
#include "text/jinja/evaluate.h"
#include "text/jinja/filters.h"
#include "text/jinja/iterators.h"
#include "text/jinja/markup.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"

namespace ashlar::text::jinja {

Evaluator::Evaluator(const Template& parsed, const TemplateLimits& limits, std::time_t now_in)
    : Runtime(limits, now_in), template_(parsed), constants_(parsed.constants) {}

Evaluator::~Evaluator() { Mutable::clear_all(living); }

Result<std::string> Evaluator::render(const Json& context) {
  context_ = TRY(from_json(*this, context));
  if (!context_.is(Kind::dict)) return template_error("the context is not an object");
  std::string text;
  out_ = &text;
  Ref<Env> env(new Env(living, template_.body.slots, {}));
  TRY(enter(template_.body.scope, *env));
  TRY(run(template_.block, *env));
  return text;
}

Value Evaluator::look_up(const std::string& name) {
  if (overlay_ != nullptr) {
    if (const auto at = overlay_->find(name); at != overlay_->end()) return at->second;
  }
  if (const auto at = exported_.find(name); at != exported_.end()) return at->second;
  const auto& dict = context_.as<Dict>();
  if (const auto at = dict.find(name); at >= 0) return dict.entries[static_cast<std::size_t>(at)].value;
  return global(name);
}

Status Evaluator::enter(const Scope& scope, Env& env) {
  TRY(budget.spend(scope.slots.size()));
  for (const Load& load : scope.loads) {
    Value& place = env.slots[load.slot];
    switch (load.from) {
      case Load::From::nothing:
        place = Value();
        break;
      case Load::From::outer:
        place = slot(env, load.outer);
        break;
      case Load::From::context:
        place = look_up(load.name);
        break;
    }
  }
  return {};
}

void Evaluator::leave(const Scope& scope, Env& env) {
  for (const std::uint32_t at : scope.slots) env.slots[at] = Value();
}

Status Evaluator::write(std::string_view text) {
  TRY(budget.walk(text.size()));
  if (text.size() > budget.limits().output_bytes - out_->size()) {
    return Error{Code::too_large, fmt::format("the template writes more than {} bytes", budget.limits().output_bytes)};
  }
  out_->append(text);
  return {};
}

Status Evaluator::write(const Value& value) {
  if (value.is_undefined()) return {};
  if (value.is_string()) {
    if (autoescape) return write(escape_unless_markup(value));
    return write(value.text());
  }
  const std::string text = TRY(to_text(*this, value));
  return write(autoescape ? escape_html(text) : text);
}

Result<Evaluator::Flow> Evaluator::capture(const Block& block, Env& env, std::string& text) {
  std::string* const outer = std::exchange(out_, &text);
  auto flow = run(block, env);
  out_ = outer;
  return flow;
}

Result<Evaluator::Flow> Evaluator::run(const Block& block, Env& env) {
  for (const auto& statement : block) {
    const Flow flow = TRY(run(*statement, env));
    if (flow != Flow::on) return flow;
  }
  return Flow::on;
}

Result<Evaluator::Flow> Evaluator::run(const Stmt& s, Env& env) {
  TRY(budget.spend(1));
  const Descent level(*this);
  if (!level.allowed()) return budget.too_deep();
  line = s.line;
  switch (s.kind) {
    case StmtKind::text:
      TRY(write(s.text));
      return Flow::on;
    case StmtKind::output:
      for (const auto& part : s.parts) {
        const Value value = TRY(eval(*part, env));
        TRY(write(value));
      }
      return Flow::on;
    case StmtKind::assign:
      TRY(run_assign(s, env));
      return Flow::on;
    case StmtKind::assign_block:
      return run_assign_block(s, env);
    case StmtKind::condition:
      return run_condition(s, env);
    case StmtKind::loop:
      return run_loop(s, env);
    case StmtKind::macro: {
      TRY(budget.take(sizeof(Macro)));
      slot(env, s.target->place) = Value(Kind::macro, new Macro(s, Ref<Env>(&env)));
      if (s.exported) remember(*s.target, env);
      return Flow::on;
    }
    case StmtKind::call_block:
      TRY(run_call_block(s, env));
      return Flow::on;
    case StmtKind::generation:
      TRY(run_generation(s, env));
      return Flow::on;
    case StmtKind::filter_block:
      return run_filter_block(s, env);
    case StmtKind::with:
      return run_with(s, env);
    case StmtKind::autoescape:
      return run_autoescape(s, env);
    case StmtKind::block:
      TRY(run_block(s, env));
      return Flow::on;
    case StmtKind::expression:
      TRY(eval(*s.parts[0], env));
      return Flow::on;
    case StmtKind::break_loop:
      return Flow::broken;
    case StmtKind::continue_loop:
      return Flow::continued;
    case StmtKind::refuse:
      break;
  }
  TRY(eval(*s.parts[0], env));
  return template_error(
      fmt::format("no loader for this environment specified: a chat template cannot {} another", s.text));
}

Result<Evaluator::Flow> Evaluator::run_condition(const Stmt& s, Env& env) {
  for (const auto& branch : s.branches) {
    if (truthy(TRY(eval(*branch.test, env)))) return run(branch.block, env);
  }
  return run(s.otherwise, env);
}

Status Evaluator::check_spaces(const Expr& target, Env& env) {
  if (target.kind == ExprKind::space && !slot(env, target.place).is(Kind::space)) {
    return template_error("cannot assign attribute on non-namespace object");
  }
  for (const auto& part : target.parts) TRY(check_spaces(*part, env));
  return {};
}

Status Evaluator::assign(const Expr& target, Value value, Env& env) {
  if (target.kind == ExprKind::name) {
    slot(env, target.place) = std::move(value);
    return {};
  }
  if (target.kind == ExprKind::space) {
    const Value& space = slot(env, target.place);
    if (!space.is(Kind::space)) return template_error("cannot assign attribute on non-namespace object");
    TRY(budget.take(sizeof(Dict::Entry)));
    Value name = TRY(string(target.attribute));
    return insert(*space.as<Space>().attributes, std::move(name), std::move(value));
  }
  if (!iterable(value)) {
    return template_error(fmt::format("cannot unpack non-iterable {} object", type_name(value)));
  }
  const auto walk = TRY(iterate(*this, value));
  const std::size_t wanted = target.parts.size();
  std::vector<Value> items(wanted);
  for (std::size_t i = 0; i < wanted; ++i) {
    if (!TRY(walk->next(*this, items[i]))) {
      return template_error(fmt::format("not enough values to unpack (expected {}, got {})", wanted, i));
    }
  }
  Value extra;
  if (TRY(walk->next(*this, extra))) {
    return template_error(fmt::format("too many values to unpack (expected {})", wanted));
  }
  for (std::size_t i = 0; i < wanted; ++i) TRY(assign(*target.parts[i], std::move(items[i]), env));
  return {};
}

void Evaluator::remember(const Expr& target, Env& env) {
  if (template_.blocks.empty()) return;
  if (target.kind == ExprKind::name) exported_[target.text] = slot(env, target.place);
  for (const auto& part : target.parts) remember(*part, env);
}

Status Evaluator::run_assign(const Stmt& s, Env& env) {
  TRY(check_spaces(*s.target, env));
  Value value = TRY(eval(*s.parts[0], env));
  line = s.line;
  TRY(assign(*s.target, std::move(value), env));
  if (s.exported) remember(*s.target, env);
  return {};
}

Result<Evaluator::Flow> Evaluator::run_assign_block(const Stmt& s, Env& env) {
  TRY(enter(s.scope, env));
  std::string text;
  const Flow flow = TRY(capture(s.block, env, text));
  if (flow != Flow::on) return flow;
  Value value = TRY(string(std::move(text), autoescape));
  if (s.parts[0]) {
    const Value outer = std::exchange(block_output_, value);
    value = TRY(eval(*s.parts[0], env));
    block_output_ = outer;
    if (autoescape) {
      std::string shown = TRY(to_text(*this, value));
      value = TRY(string(std::move(shown), true));
    }
  }
  TRY(check_spaces(*s.target, env));
  TRY(assign(*s.target, std::move(value), env));
  if (s.exported) remember(*s.target, env);
  leave(s.scope, env);
  return Flow::on;
}

Result<Evaluator::Flow> Evaluator::run_filter_block(const Stmt& s, Env& env) {
  TRY(enter(s.scope, env));
  std::string text;
  const Flow flow = TRY(capture(s.block, env, text));
  if (flow != Flow::on) return flow;
  const Value outer = std::exchange(block_output_, TRY(string(std::move(text), autoescape)));
  const Value value = TRY(eval(*s.parts[0], env));
  block_output_ = outer;
  // A filter block's result is written as it is, so it must be text.
  if (!value.is_string()) {
    return template_error(fmt::format("sequence item 0: expected str instance, {} found", type_name(value)));
  }
  TRY(write(value.text()));
  leave(s.scope, env);
  return Flow::on;
}

Result<Evaluator::Flow> Evaluator::run_with(const Stmt& s, Env& env) {
  TRY(enter(s.scope, env));
  for (std::size_t i = 0; i < s.targets.size(); ++i) {
    Value value = TRY(eval(*s.parts[i], env));
    TRY(assign(*s.targets[i], std::move(value), env));
  }
  const Flow flow = TRY(run(s.block, env));
  leave(s.scope, env);
  return flow;
}

Result<Evaluator::Flow> Evaluator::run_autoescape(const Stmt& s, Env& env) {
  TRY(enter(s.scope, env));
  const bool outer = std::exchange(autoescape, truthy(TRY(eval(*s.parts[0], env))));
  const Flow flow = TRY(run(s.block, env));
  autoescape = outer;
  leave(s.scope, env);
  return flow;
}

Status Evaluator::run_block(const Stmt& s, Env& env) {
  TRY(budget.spend(s.visible.size() * 4));
  std::unordered_map<std::string, Value> visible;
  for (const auto& [name, place] : s.visible) {
    if (const Value& value = slot(env, place); !value.is(Kind::missing)) visible[name] = value;
  }
  const auto* outer = overlay_;
  if (s.scoped) overlay_ = &visible;
  Ref<Env> inner(new Env(living, s.body->slots, {}));
  TRY(enter(s.body->scope, *inner));
  auto flow = run(s.block, *inner);
  overlay_ = outer;
  TRY(std::move(flow));
  return {};
}

// Loops.

void Loop::clear() {
  iterable = before = current = after = changed = Value();
  walk = Ref<Iterator>(new ListIterator({}));
  outer = {};
}

Result<bool> Loop::next(Runtime& runtime, Value& out) {
  Value item;
  if (!TRY(peek(runtime))) return false;
  item = std::exchange(after, Value());
  ++index0;
  before = std::exchange(current, item);
  out = std::move(item);
  return true;
}

Result<bool> Loop::peek(Runtime& runtime) {
  if (!after.is(Kind::missing)) return true;
  return walk->next(runtime, after);
}

Result<std::size_t> Loop::length(Runtime& runtime) {
  if (known_length) return *known_length;
  if (has_length(iterable)) {
    known_length = TRY(jinja::length(runtime, iterable));
    return *known_length;
  }
  std::vector<Value> rest;
  Value item;
  while (TRY(walk->next(runtime, item))) {
    TRY(runtime.budget.take(sizeof(Value)));
    rest.push_back(std::move(item));
  }
  known_length = rest.size() + static_cast<std::size_t>(index0 + 1) + !after.is(Kind::missing);
  walk = Ref<Iterator>(new ListIterator(std::move(rest)));
  return *known_length;
}

// What passes the loop's own `if`, asked for one by one as the loop goes.
Result<Value> Evaluator::filtered(const Stmt& s, Env& outer, const Value& iterable) {
  Ref<Env> env(new Env(living, s.test_body->slots, Ref<Env>(&outer)));
  const auto walk = TRY(iterate(*this, iterable));
  bool entered = false;
  auto step = [this, &s, env, walk, entered](Runtime&, Value& out) mutable -> Result<bool> {
    if (!std::exchange(entered, true)) TRY(enter(s.test_body->scope, *env));
    Value item;
    while (TRY(walk->next(*this, item))) {
      TRY(assign(*s.test_target, item, *env));
      if (!truthy(TRY(eval(*s.test, *env)))) continue;
      out = std::move(item);
      return true;
    }
    return false;
  };
  return iterator(Ref<Iterator>(new Generator("generator object", std::move(step))), walk->depth);
}

Result<Evaluator::Flow> Evaluator::run_loop(const Stmt& s, Env& env) {
  Value iterable = TRY(eval(*s.parts[0], env));
  if (!s.recursive) return loop_over(s, env, env, std::move(iterable), 0);
  const Value text = TRY(recurse(s, Ref<Env>(&env), std::move(iterable), 0));
  TRY(write(text));
  return Flow::on;
}

Result<Evaluator::Flow> Evaluator::loop_over(const Stmt& s, Env& env, Env& outer, Value iterable, std::int64_t depth) {
  if (s.test) iterable = TRY(filtered(s, outer, iterable));
  auto walk = TRY(iterate(*this, iterable));
  TRY(budget.take(sizeof(Loop)));
  Ref<Loop> loop(new Loop(living, std::move(iterable), std::move(walk)));
  loop->depth0 = depth;
  if (s.recursive) {
    loop->recursion = &s;
    loop->outer = Ref<Env>(&outer);
  }
  bool completed = false;
  Value item;
  while (TRY(s.extended ? loop->next(*this, item) : loop->walk->next(*this, item))) {
    TRY(assign(*s.target, std::move(item), env));
    if (s.extended) env.slots[s.loop_slot] = Value(Kind::loop, loop.get());
    TRY(enter(s.scope, env));
    const Flow flow = TRY(run(s.block, env));
    if (flow == Flow::broken) break;
    // As in Jinja, an iteration that was cut short does not count for the else.
    if (flow == Flow::on) completed = true;
  }
  leave(s.scope, env);
  if (completed || s.otherwise.empty()) return Flow::on;
  TRY(enter(s.otherwise_scope, env));
  const Flow flow = TRY(run(s.otherwise, env));
  leave(s.otherwise_scope, env);
  return flow;
}

Result<Value> Evaluator::recurse(const Stmt& s, const Ref<Env>& outer, Value iterable, std::int64_t depth) {
  if (calls_ >= budget.limits().depth) return budget.too_deep();
  ++calls_;
  TRY(budget.take(sizeof(Env) + s.body->slots * sizeof(Value)));
  Ref<Env> env(new Env(living, s.body->slots, outer));
  std::string text;
  std::string* const outer_text = std::exchange(out_, &text);
  auto flow = loop_over(s, *env, *outer, std::move(iterable), depth);
  out_ = outer_text;
  --calls_;
  TRY(std::move(flow));
  return string(std::move(text), autoescape);
}

Result<Value> Evaluator::call_loop(Loop& loop, Arguments& arguments) {
  auto [iterable] = TRY(bind<1>("loop", arguments, {"iterable"}, 1));
  if (loop.recursion == nullptr) {
    return template_error("The loop must have the 'recursive' marker to be called recursively.");
  }
  return recurse(*loop.recursion, loop.outer, std::move(iterable), loop.depth0 + 1);
}

// Macros.

Status Evaluator::bind_macro(const Macro& macro, Arguments& arguments, Env& env) {
  const Body& body = *macro.body;
  const auto named = [&](std::string_view name) -> Value {
    const auto at =
        std::ranges::find(arguments.named, name, [](const auto& one) { return std::string_view(one.first); });
    if (at == arguments.named.end()) return Value();
    Value value = std::move(at->second);
    arguments.named.erase(at);
    return value;
  };
  bool found_caller = false;
  for (std::size_t i = 0; i < body.parameters.size(); ++i) {
    const bool given = i < arguments.positional.size();
    if (body.parameters[i].name == "caller") found_caller = true;
    env.slots[body.parameters[i].slot] = given ? arguments.positional[i] : named(body.parameters[i].name);
  }
  if (body.uses_caller && !found_caller) {
    Value caller = named("caller");
    env.slots[body.caller_slot] =
        caller.is(Kind::missing) || caller.is_none() ? undefined_hint("No caller defined") : caller;
  }
  if (body.catches_kwargs) {
    Ref<Dict> rest(new Dict);
    for (auto& [name, value] : arguments.named) {
      Value key = TRY(string(name));
      TRY(insert(*rest, std::move(key), std::move(value)));
    }
    env.slots[body.kwargs_slot] = TRY(dict(std::move(rest)));
  } else if (!arguments.named.empty()) {
    const auto is_caller = [](const auto& one) { return one.first == "caller"; };
    if (std::ranges::any_of(arguments.named, is_caller)) {
      return template_error(fmt::format(
          "macro '{}' was invoked with two values for the special caller argument. This is most likely a bug.",
          body.name));
    }
    return template_error(
        fmt::format("macro '{}' takes no keyword argument '{}'", body.name, arguments.named.front().first));
  }
  const std::size_t count = body.parameters.size();
  if (body.catches_varargs) {
    std::vector<Value> rest;
    for (std::size_t i = count; i < arguments.positional.size(); ++i) rest.push_back(arguments.positional[i]);
    env.slots[body.varargs_slot] = TRY(tuple(std::move(rest)));
  } else if (arguments.positional.size() > count) {
    return template_error(fmt::format("macro '{}' takes not more than {} argument(s)", body.name, count));
  }
  return {};
}

Result<Value> Evaluator::invoke(const Macro& macro, Arguments& arguments) {
  if (calls_ >= budget.limits().depth) return budget.too_deep();
  const Body& body = *macro.body;
  TRY(budget.take(sizeof(Env) + body.slots * sizeof(Value)));
  TRY(budget.spend(1 + body.parameters.size() * arguments.named.size() / 8));
  Ref<Env> env(new Env(living, body.slots, macro.outer));
  TRY(bind_macro(macro, arguments, *env));
  TRY(enter(body.scope, *env));
  ++calls_;
  for (const auto& parameter : body.parameters) {
    if (!env->slots[parameter.slot].is(Kind::missing)) continue;
    env->slots[parameter.slot] = parameter.otherwise
                                     ? TRY(eval(*parameter.otherwise, *env))
                                     : undefined_hint(fmt::format("parameter '{}' was not provided", parameter.name));
  }
  std::string text;
  TRY(capture(*macro.block, *env, text));
  --calls_;
  return string(std::move(text), autoescape);
}

Status Evaluator::run_call_block(const Stmt& s, Env& env) {
  TRY(budget.take(sizeof(Macro)));
  const Value caller(Kind::macro, new Macro(s, Ref<Env>(&env)));
  const Value text = TRY(eval_call(*s.parts[0], env, &caller));
  if (!text.is_string()) {
    return template_error(fmt::format("sequence item 0: expected str instance, {} found", type_name(text)));
  }
  return write(text.text());
}

Status Evaluator::run_generation(const Stmt& s, Env& env) {
  const Ref<Macro> macro(new Macro(s, Ref<Env>(&env)));
  Arguments none;
  return write(TRY(invoke(*macro, none)));
}

}  // namespace ashlar::text::jinja
