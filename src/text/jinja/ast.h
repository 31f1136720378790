// A parsed template. Immutable once resolve() (scope.h) has bound its names, and
// shared by the threads that render it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "text/jinja/operate.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Block = std::vector<std::unique_ptr<Stmt>>;

// Where a name lives: `hops` functions outward, then a slot there.
struct Place {
  std::uint16_t hops = 0;
  std::uint32_t slot = 0;
};

struct CallSyntax {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr spread;        // *expression
  ExprPtr spread_named;  // **expression
};

enum class ExprKind : std::uint8_t {
  constant,   // value
  name,       // text, place
  tuple,      // parts
  list,       // parts
  dict,       // parts: key, value, key, value ...
  binary,     // parts[0] ops[0] parts[1] ops[1] ..., from the left
  negative,   // parts[0]
  positive,   // parts[0]
  negation,   // not parts[0]
  all,        // parts[0] and parts[1] and ...
  any,        // parts[0] or parts[1] or ...
  compare,    // parts[0] comparisons[0] parts[1] ...
  concat,     // parts[0] ~ parts[1] ~ ...
  attribute,  // parts[0].text
  item,       // parts[0][parts[1]]
  slice,      // parts[0][parts[1]:parts[2]:parts[3]], those left open null
  call,       // parts[0](call)
  filter,     // parts[0]|text(call); parts[0] null: the block's own output
  test,       // parts[0] is text(call)
  condition,  // parts[0] if parts[1] else parts[2], which may be null
  space,      // text.attribute as the target of a set; place
};

struct Filter;
struct Test;

struct Expr {
  ExprKind kind = ExprKind::constant;
  bool soft = false;  // inside an if: an unknown filter matters only when reached
  int line = 0;
  int height = 1;    // of the tree below
  std::string text;  // a name
  std::string attribute;
  std::variant<std::monostate, bool, Int, double, std::string> value;
  std::uint32_t constant = 0;  // each rendering makes its own value for a string, kept under this number
  std::vector<ExprPtr> parts;
  std::vector<Op> ops;
  std::vector<Comparison> comparisons;
  std::unique_ptr<CallSyntax> call;
  Place place;
  const Filter* filter = nullptr;  // null: no such filter
  const Test* test = nullptr;
};

// What entering a scope does to its slots (Jinja's idtracking).
struct Load {
  enum class From : std::uint8_t { nothing, outer, context };
  From from = From::nothing;
  std::uint32_t slot = 0;
  Place outer;       // the slot it begins as
  std::string name;  // the variable of the context it begins as
};
struct Scope {
  std::vector<Load> loads;
  std::vector<std::uint32_t> slots;  // emptied when it is left
};

// A body with slots of its own: the template, a macro, a recursive loop, a loop's
// filter, a block.
struct Body {
  struct Parameter {
    std::string name;
    ExprPtr otherwise;  // may be null
    std::uint32_t slot = 0;
  };
  std::string name;  // of a macro
  std::vector<Parameter> parameters;
  std::uint32_t slots = 0;
  Scope scope;
  bool uses_caller = false, catches_kwargs = false, catches_varargs = false;
  std::uint32_t caller_slot = 0, kwargs_slot = 0, varargs_slot = 0;
};

enum class StmtKind : std::uint8_t {
  text,          // text
  output,        // parts
  assign,        // target = parts[0]
  assign_block,  // target = block, through parts[0] (a filter) if not null
  condition,     // branches, otherwise
  loop,          // for target in parts[0] if test: block; else otherwise
  macro,         // body, block, target (a name)
  call_block,    // body, block, parts[0] (the call)
  generation,    // body, block
  filter_block,  // parts[0] (a filter), block
  with,          // targets = parts; block
  autoescape,    // parts[0], block
  block,         // text (its name), body, block
  expression,    // parts[0], not shown
  break_loop,
  continue_loop,
  refuse,  // include, import, extends: parts[0], then an error
};

struct Stmt {
  struct Branch {
    ExprPtr test;
    Block block;
  };

  StmtKind kind = StmtKind::text;
  int line = 0;
  std::string text;
  ExprPtr target;
  std::vector<ExprPtr> targets;
  std::vector<ExprPtr> parts;
  std::vector<Branch> branches;
  Block block;
  Block otherwise;

  // Bound by resolve().
  Scope scope;                      // of the block
  Scope otherwise_scope;            // of a loop's else
  std::unique_ptr<Body> body;       // what runs as a function: macro, call block, recursive loop
  ExprPtr test;                     // of a loop
  std::unique_ptr<Body> test_body;  // the function that a loop's test is
  ExprPtr test_target;              // the loop's target, bound inside it
  bool recursive = false;
  bool extended = false;  // has the special variable `loop`
  std::uint32_t loop_slot = 0;
  bool scoped = false;  // a block that sees the names around it:
  std::vector<std::pair<std::string, Place>> visible;
  bool exported = false;  // at top level: blocks see what it sets
};

// The whole.
struct Template {
  Body body;
  Block block;
  std::vector<Stmt*> blocks;  // {% block %}, wherever they stand
  std::uint32_t constants = 0;
};

}  // namespace ashlar::text::jinja
