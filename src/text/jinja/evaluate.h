// Walks a resolved template and writes what it says.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"

namespace ashlar::text::jinja {

// The slots of one call of a Body. Macros keep the ones around them alive.
struct Env : Mutable {
  Env(Registry& registry, std::size_t count, Ref<Env> outer_in)
      : Mutable(registry), slots(count), outer(std::move(outer_in)) {}
  void clear() override {
    std::vector<Value>().swap(slots);
    outer = {};
  }
  std::vector<Value> slots;
  Ref<Env> outer;
};

// A macro, a call block's caller, a generation block.
struct Macro : Object {
  Macro(const Stmt& statement, Ref<Env> outer_in)
      : body(statement.body.get()), block(&statement.block), outer(std::move(outer_in)) {}
  std::string_view name() const { return body->name; }
  const Body* body;
  const Block* block;
  Ref<Env> outer;
};

// The special variable `loop`, and the walk itself.
struct Loop : Mutable {
  Loop(Registry& registry, Value iterable_in, Ref<Iterator> walk_in)
      : Mutable(registry), iterable(std::move(iterable_in)), walk(std::move(walk_in)) {}
  void clear() override;

  Result<bool> next(Runtime& runtime, Value& out);
  // Whether there is another item, which is then in `after`.
  Result<bool> peek(Runtime& runtime);
  // Walks to the end where the iterable itself does not know.
  Result<std::size_t> length(Runtime& runtime);

  Value iterable;
  Ref<Iterator> walk;
  std::int64_t index0 = -1;
  std::int64_t depth0 = 0;
  Value before, current, after;
  std::optional<std::size_t> known_length;
  Value changed;                    // what loop.changed() saw last
  const Stmt* recursion = nullptr;  // the statement that loop(...) runs again
  Ref<Env> outer;                   // around that statement
};

class Evaluator : public Runtime {
 public:
  Evaluator(const Template& parsed, const TemplateLimits& limits, std::time_t now);
  ~Evaluator() override;

  // invalid: the template failed or refused; too_large: a limit. `line` is then
  // where.
  Result<std::string> render(const Json& context);

  Result<Value> call(const Value& callee, Arguments& arguments) override;

 private:
  enum class Flow : std::uint8_t { on, broken, continued };

  // Expressions (evaluate.cc).
  Result<Value> eval(const Expr& expr, Env& env);
  Result<Value> eval_constant(const Expr& expr);
  Result<Value> eval_name(const Expr& expr, Env& env);
  Result<Value> eval_sequence(const Expr& expr, Env& env);
  Result<Value> eval_dict(const Expr& expr, Env& env);
  Result<Value> eval_binary(const Expr& expr, Env& env);
  Result<Value> eval_sign(const Expr& expr, Env& env);
  Result<Value> eval_logic(const Expr& expr, Env& env);
  Result<Value> eval_compare(const Expr& expr, Env& env);
  Result<Value> eval_concat(const Expr& expr, Env& env);
  Result<Value> eval_attribute(const Expr& expr, Env& env);
  Result<Value> eval_item(const Expr& expr, Env& env);
  Result<Value> eval_slice(const Expr& expr, Env& env);
  Result<Value> eval_call(const Expr& expr, Env& env, const Value* caller = nullptr);
  Result<Value> eval_filter(const Expr& expr, Env& env);
  Result<Value> eval_test(const Expr& expr, Env& env);
  Result<Value> eval_condition(const Expr& expr, Env& env);
  Result<Arguments> eval_arguments(const CallSyntax& syntax, Env& env);
  Status spread(const CallSyntax& syntax, Env& env, Arguments& arguments);
  Result<Value> constant_text(std::uint32_t number, const std::string& text);

  // Statements (execute.cc).
  Result<Flow> run(const Block& block, Env& env);
  Result<Flow> run(const Stmt& s, Env& env);
  Result<Flow> run_condition(const Stmt& s, Env& env);
  Result<Flow> run_loop(const Stmt& s, Env& env);
  Result<Flow> loop_over(const Stmt& s, Env& env, Env& outer, Value iterable, std::int64_t depth);
  Result<Flow> loop_body(const Stmt& s, Env& env, Loop& loop, bool& completed);
  Result<Value> filtered(const Stmt& s, Env& outer, const Value& iterable);
  Result<Value> call_loop(Loop& loop, Arguments& arguments);
  Result<Value> recurse(const Stmt& s, const Ref<Env>& outer, Value iterable, std::int64_t depth);
  Result<Flow> run_with(const Stmt& s, Env& env);
  Result<Flow> run_assign_block(const Stmt& s, Env& env);
  Result<Flow> run_filter_block(const Stmt& s, Env& env);
  Result<Flow> run_autoescape(const Stmt& s, Env& env);
  Status run_assign(const Stmt& s, Env& env);
  Status run_call_block(const Stmt& s, Env& env);
  Status run_generation(const Stmt& s, Env& env);
  Status run_block(const Stmt& s, Env& env);
  Status assign(const Expr& target, Value value, Env& env);
  Status check_spaces(const Expr& target, Env& env);
  void remember(const Expr& target, Env& env);
  Result<Value> invoke(const Macro& macro, Arguments& arguments);
  Status bind_macro(const Macro& macro, Arguments& arguments, Env& env);

  Status write(std::string_view text);
  Status write(const Value& value);
  // What `block` writes, kept apart.
  Result<Flow> capture(const Block& block, Env& env, std::string& text);

  Status enter(const Scope& scope, Env& env);
  static void leave(const Scope& scope, Env& env);
  static Value& slot(Env& env, Place place);
  Value look_up(const std::string& name);

  const Template& template_;
  std::string* out_ = nullptr;
  int calls_ = 0;       // macros and recursive loops within each other
  Value block_output_;  // what a filter block's innermost filter gets
  Value context_;
  std::vector<Value> constants_;
  std::unordered_map<std::string, Value> exported_;                  // set at top level, for {% block %}
  const std::unordered_map<std::string, Value>* overlay_ = nullptr;  // what a scoped block sees besides
};

}  // namespace ashlar::text::jinja
