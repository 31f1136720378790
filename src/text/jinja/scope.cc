#include "text/jinja/scope.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "text/jinja/filters.h"
#include "text/jinja/lexer.h"
#include "text/jinja/symbols.h"

namespace ashlar::text::jinja {
namespace {

// Calls each(child) for the expressions right below.
template <class Each>
void for_parts(const Expr& expr, Each&& each) {
  for (const auto& part : expr.parts) {
    if (part) each(*part);
  }
  if (!expr.call) return;
  for (const auto& argument : expr.call->positional) each(*argument);
  for (const auto& [name, argument] : expr.call->named) each(*argument);
  if (expr.call->spread) each(*expr.call->spread);
  if (expr.call->spread_named) each(*expr.call->spread_named);
}

// Which of some special names a body uses without having assigned them before:
// jinja2.compiler.find_undeclared.
class UndeclaredFinder {
 public:
  explicit UndeclaredFinder(std::vector<std::string_view> names) : names_(std::move(names)) {}
  bool found(std::string_view name) const { return std::ranges::find(found_, name) != found_.end(); }

  void visit(const Block& block) {
    for (const auto& statement : block) visit(*statement);
  }

 private:
  void visit(const Expr& expr) {
    if (expr.kind == ExprKind::name && wanted(expr.text) && !found(expr.text)) found_.emplace_back(expr.text);
    for_parts(expr, [&](const Expr& part) { visit(part); });
  }
  bool wanted(std::string_view name) const { return std::ranges::find(names_, name) != names_.end(); }
  void declare(std::string_view name) { std::erase(names_, name); }
  void target(const Expr& expr) {
    if (expr.kind == ExprKind::name) declare(expr.text);
    for (const auto& part : expr.parts) target(*part);
  }

  void visit(const Stmt& s) {
    const auto parts = [&] {
      for (const auto& part : s.parts) {
        if (part) visit(*part);
      }
    };
    switch (s.kind) {
      case StmtKind::block:
        return;
      case StmtKind::macro:
      case StmtKind::call_block:
      case StmtKind::generation:
        parts();
        for (const auto& parameter : s.body->parameters) declare(parameter.name);
        for (const auto& parameter : s.body->parameters) {
          if (parameter.otherwise) visit(*parameter.otherwise);
        }
        return visit(s.block);
      case StmtKind::filter_block:
        visit(s.block);
        return parts();
      case StmtKind::condition:
        for (const auto& branch : s.branches) {
          visit(*branch.test);
          visit(branch.block);
        }
        return visit(s.otherwise);
      case StmtKind::loop:
        target(*s.target);
        parts();
        visit(s.block);
        visit(s.otherwise);
        if (s.test) visit(*s.test);
        return;
      default:
        if (s.target) target(*s.target);
        for (const auto& one : s.targets) target(*one);
        parts();
        return visit(s.block);
    }
  }

  std::vector<std::string_view> names_;
  std::vector<std::string> found_;
};

// What a scope's own statements load and store, without looking into the scopes
// inside: jinja2.idtracking.FrameSymbolVisitor.
class Analysis {
 public:
  explicit Analysis(Symbols& symbols) : symbols_(symbols) {}

  void visit(const Block& block) {
    for (const auto& statement : block) visit(*statement);
  }
  void visit(const Expr& expr) {
    if (expr.kind == ExprKind::name) symbols_.load(expr.text);
    for_parts(expr, [&](const Expr& part) { visit(part); });
  }
  void target(const Expr& expr) {
    if (expr.kind == ExprKind::name)
      symbols_.store(expr.text);
    else if (expr.kind == ExprKind::space)
      symbols_.load(expr.text);
    for (const auto& part : expr.parts) target(*part);
  }
  void parameter(const Expr& expr) {
    if (expr.kind == ExprKind::name) symbols_.parameter(expr.text);
    for (const auto& part : expr.parts) parameter(*part);
  }

 private:
  void visit(const Stmt& s) {
    switch (s.kind) {
      case StmtKind::text:
      case StmtKind::generation:
      case StmtKind::autoescape:
      case StmtKind::block:
      case StmtKind::break_loop:
      case StmtKind::continue_loop:
        return;
      case StmtKind::condition:
        return condition(s, 0);
      case StmtKind::macro:
      case StmtKind::assign_block:
        return target(*s.target);
      default:
        for (const auto& part : s.parts) {
          if (part) visit(*part);
        }
        if (s.kind == StmtKind::assign) target(*s.target);
        if (s.kind == StmtKind::refuse) {
          for (const auto& one : s.targets) target(*one);
        }
    }
  }

  // Jinja sees an elif as an if of its own in the middle of three branches.
  void condition(const Stmt& s, std::size_t at) {
    if (symbols_.slots().effort.spent()) return;
    visit(*s.branches[at].test);
    std::vector<std::vector<Symbols::Learnt>> branches;
    const auto learn = [&](auto&& visit_branch) {
      const std::size_t begin = symbols_.begin();
      visit_branch();
      branches.push_back(symbols_.end(begin));
    };
    learn([&] { visit(s.branches[at].block); });
    if (at == 0) {
      learn([&] {
        for (std::size_t i = 1; i < s.branches.size(); ++i) condition(s, i);
      });
      learn([&] { visit(s.otherwise); });
    }
    symbols_.merge(std::move(branches));
  }

  Symbols& symbols_;
};

// Walks the whole tree, opening scopes and binding every name.
class Binder {
 public:
  explicit Binder(Template& parsed) : parsed_(parsed) {}

  Status run() {
    TRY(top(parsed_.body, parsed_.block, true));
    for (Stmt* block : parsed_.blocks) TRY(top(*block->body, block->block, false));
    if (effort_.spent()) return Error{Code::too_large, "chat template: too many assignments in nested ifs"};
    return {};
  }

 private:
  // Where a statement stands.
  struct Where {
    Symbols& symbols;
    bool soft = false;      // inside an if
    bool in_loop = false;   // break and continue have something to leave
    bool toplevel = false;  // what is set is the template's
    Where soften() const { return {symbols, true, in_loop, toplevel}; }
    Where inner(Symbols& inner_symbols) const { return {inner_symbols, false, in_loop, false}; }
  };

  Status top(Body& body, Block& block, bool toplevel) {
    Slots slots(nullptr, body, effort_);
    Symbols symbols(nullptr, slots);
    Analysis(symbols).visit(block);
    TRY(bind(block, {symbols, false, false, toplevel}));
    body.scope = symbols.scope();
    return {};
  }

  Status bind(Block& block, const Where& where) {
    for (auto& statement : block) TRY(bind(*statement, where));
    return {};
  }

  Status bind(Expr& expr, Symbols& symbols, bool soft) {
    if (expr.kind == ExprKind::name) expr.place = symbols.place(expr.text);
    if (expr.kind == ExprKind::constant && std::holds_alternative<std::string>(expr.value)) {
      expr.constant = parsed_.constants++;
    }
    if (expr.kind == ExprKind::attribute) expr.constant = parsed_.constants++;
    if (expr.kind == ExprKind::condition) soft = true;
    if (expr.kind == ExprKind::filter || expr.kind == ExprKind::test) TRY(bind_function(expr, soft));
    Status status;
    for_parts(expr, [&](const Expr& part) {
      if (status) status = bind(const_cast<Expr&>(part), symbols, soft);
    });
    return status;
  }

  Status bind_function(Expr& expr, bool soft) {
    const bool filter = expr.kind == ExprKind::filter;
    if (filter)
      expr.filter = find_filter(expr.text);
    else
      expr.test = find_test(expr.text);
    if (soft || expr.filter != nullptr || expr.test != nullptr) return {};
    return syntax_error(expr.line, fmt::format("No {} named '{}'.", filter ? "filter" : "test", expr.text));
  }

  Status bind_parts(Stmt& s, const Where& where) {
    for (auto& part : s.parts) {
      if (part) TRY(bind(*part, where.symbols, where.soft));
    }
    return {};
  }

  Status bind_target(Expr& target, Symbols& symbols) {
    if (target.kind == ExprKind::name && target.text == "loop" && loops_ > 0) {
      return syntax_error(target.line, "Can't assign to special loop variable in for-loop target");
    }
    if (target.kind != ExprKind::tuple) target.place = symbols.place(target.text);
    for (auto& part : target.parts) TRY(bind_target(*part, symbols));
    return {};
  }

  Status bind(Stmt& s, const Where& where) {
    switch (s.kind) {
      case StmtKind::text:
        return {};
      case StmtKind::break_loop:
      case StmtKind::continue_loop:
        if (where.in_loop) return {};
        return syntax_error(
            s.line, s.kind == StmtKind::break_loop ? "'break' outside loop" : "'continue' not properly in loop");
      case StmtKind::condition:
        return bind_condition(s, where.soften());
      case StmtKind::loop:
        return bind_loop(s, where);
      case StmtKind::macro:
      case StmtKind::call_block:
      case StmtKind::generation:
        return bind_function(s, where);
      case StmtKind::with:
        return bind_with(s, where);
      case StmtKind::block:
        if (s.scoped) s.visible = where.symbols.visible();
        return {};
      case StmtKind::assign_block:
      case StmtKind::filter_block:
      case StmtKind::autoescape:
        return bind_scope(s, where);
      case StmtKind::assign:
      case StmtKind::output:
      case StmtKind::expression:
      case StmtKind::refuse:
        break;
    }
    TRY(bind_parts(s, where));
    if (s.target) TRY(bind_target(*s.target, where.symbols));
    s.exported = where.toplevel;
    return {};
  }

  Status bind_condition(Stmt& s, const Where& where) {
    for (auto& branch : s.branches) {
      TRY(bind(*branch.test, where.symbols, true));
      TRY(bind(branch.block, where));
    }
    return bind(s.otherwise, where);
  }

  // A block that is a scope, and whose filter or option belongs to it.
  Status bind_scope(Stmt& s, const Where& where) {
    Symbols inner(&where.symbols, where.symbols.slots());
    Analysis analysis(inner);
    if (s.kind == StmtKind::autoescape) analysis.visit(*s.parts[0]);
    analysis.visit(s.block);
    if (s.kind != StmtKind::autoescape && s.parts[0]) analysis.visit(*s.parts[0]);
    TRY(bind_parts(s, where.inner(inner)));
    TRY(bind(s.block, where.inner(inner)));
    if (s.target) TRY(bind_target(*s.target, where.symbols));
    s.exported = where.toplevel;
    s.scope = inner.scope();
    return {};
  }

  Status bind_with(Stmt& s, const Where& where) {
    Symbols inner(&where.symbols, where.symbols.slots());
    Analysis analysis(inner);
    for (const auto& target : s.targets) analysis.parameter(*target);
    analysis.visit(s.block);
    TRY(bind_parts(s, where));
    for (auto& target : s.targets) TRY(bind_target_of_with(*target, inner));
    TRY(bind(s.block, where.inner(inner)));
    s.scope = inner.scope();
    return {};
  }

  // Parameters, unlike assignments, may be called loop.
  Status bind_target_of_with(Expr& target, Symbols& symbols) {
    if (target.kind == ExprKind::name) target.place = symbols.place(target.text);
    for (auto& part : target.parts) TRY(bind_target_of_with(*part, symbols));
    return {};
  }

  Status bind_loop(Stmt& s, const Where& where) {
    TRY(bind_parts(s, where));  // what is looped over belongs outside
    ++loops_;
    if (s.test) TRY(bind_loop_test(s, where.symbols));
    UndeclaredFinder finder({"loop"});
    finder.visit(s.block);
    s.extended = s.recursive || finder.found("loop");
    if (s.recursive) {
      s.body = std::make_unique<Body>();
      Slots slots(&where.symbols.slots(), *s.body, effort_);
      TRY(bind_loop_bodies(s, where, slots, false));
    } else {
      TRY(bind_loop_bodies(s, where, where.symbols.slots(), where.in_loop));
    }
    --loops_;
    return {};
  }

  Status bind_loop_test(Stmt& s, Symbols& outer) {
    s.test_body = std::make_unique<Body>();
    Slots slots(&outer.slots(), *s.test_body, effort_);
    Symbols symbols(&outer, slots);
    Analysis analysis(symbols);
    analysis.parameter(*s.target);
    analysis.visit(*s.test);
    TRY(bind_target(*s.test_target, symbols));
    TRY(bind(*s.test, symbols, false));
    s.test_body->scope = symbols.scope();
    return {};
  }

  Status bind_loop_bodies(Stmt& s, const Where& where, Slots& slots, bool outer_loop) {
    Symbols inner(&where.symbols, slots);
    if (s.extended) s.loop_slot = inner.parameter("loop");
    Analysis analysis(inner);
    analysis.parameter(*s.target);
    analysis.visit(s.block);
    TRY(bind_target(*s.target, inner));
    TRY(bind(s.block, {inner, false, true, false}));
    s.scope = inner.scope();
    Symbols otherwise(&where.symbols, slots);
    Analysis(otherwise).visit(s.otherwise);
    TRY(bind(s.otherwise, {otherwise, false, outer_loop, false}));
    s.otherwise_scope = otherwise.scope();
    return {};
  }

  // Macros, call blocks and generation blocks: functions of their own.
  Status bind_function(Stmt& s, const Where& where) {
    TRY(bind_parts(s, where));
    if (s.target) {
      s.target->place = where.symbols.place(s.target->text);
      s.exported = where.toplevel;
    }
    Body& body = *s.body;
    Slots slots(&where.symbols.slots(), body, effort_);
    Symbols inner(&where.symbols, slots);
    for (auto& parameter : body.parameters) parameter.slot = inner.parameter(parameter.name);
    Analysis analysis(inner);
    for (const auto& parameter : body.parameters) {
      if (parameter.otherwise) analysis.visit(*parameter.otherwise);
    }
    analysis.visit(s.block);
    TRY(bind_special(s, inner));
    for (auto& parameter : body.parameters) {
      if (parameter.otherwise) TRY(bind(*parameter.otherwise, inner, false));
    }
    TRY(bind(s.block, {inner, false, false, false}));
    body.scope = inner.scope();
    return {};
  }

  // The names caller, kwargs and varargs, where a body uses them undeclared.
  static Status bind_special(Stmt& s, Symbols& symbols) {
    Body& body = *s.body;
    UndeclaredFinder finder({"caller", "kwargs", "varargs"});
    finder.visit(s.block);
    const auto declared = [&](std::string_view name) {
      return std::ranges::any_of(body.parameters, [&](const auto& parameter) { return parameter.name == name; });
    };
    if (finder.found("caller")) {
      const auto at = std::ranges::find(body.parameters, "caller", &Body::Parameter::name);
      if (at == body.parameters.end())
        body.caller_slot = symbols.parameter("caller");
      else if (!at->otherwise) {
        return syntax_error(s.line,
                            "When defining macros or call blocks the special \"caller\" argument must be omitted or be "
                            "given a default.");
      }
      body.uses_caller = true;
    }
    if (finder.found("kwargs") && !declared("kwargs")) {
      body.kwargs_slot = symbols.parameter("kwargs");
      body.catches_kwargs = true;
    }
    if (finder.found("varargs") && !declared("varargs")) {
      body.varargs_slot = symbols.parameter("varargs");
      body.catches_varargs = true;
    }
    return {};
  }

  Template& parsed_;
  Effort effort_;
  int loops_ = 0;  // for loops around, however far out
};

}  // namespace

Status resolve(Template& parsed) { return Binder(parsed).run(); }

}  // namespace ashlar::text::jinja
