#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/parser.h"

namespace ashlar::text::jinja {
namespace {

// Of one macro, of one template: they are compared pairwise, and every scoped block
// keeps all names around it.
constexpr std::size_t kMostParameters = 1000;
constexpr std::size_t kMostBlocks = 100;

std::unique_ptr<Stmt> make_statement(StmtKind kind, int line) {
  auto made = std::make_unique<Stmt>();
  made->kind = kind;
  made->line = line;
  return made;
}

std::string quoted_list(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words) out += fmt::format("{}'{}'", out.empty() ? "" : " or ", word);
  return out;
}

}  // namespace

Result<std::unique_ptr<Template>> parse(std::string_view source, const TemplateLimits& limits) {
  return Parser(TRY(tokenize(source)), limits).run();
}

Result<std::unique_ptr<Template>> Parser::run() {
  auto made = std::make_unique<Template>();
  made->block = TRY(body({}));
  made->blocks = std::move(blocks_);
  return made;
}

Error Parser::unknown_tag(std::string_view name) const {
  std::string message =
      name.empty() ? "Unexpected end of template." : fmt::format("Encountered unknown tag '{}'.", name);
  if (!expected_ends_.empty()) {
    const bool elsewhere = std::ranges::any_of(
        expected_ends_, [&](const auto& ends) { return std::ranges::find(ends, name) != ends.end(); });
    message +=
        elsewhere
            ? fmt::format(
                  " You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for {}.",
                  quoted_list(expected_ends_.back()))
            : fmt::format(" Jinja was looking for the following tags: {}.", quoted_list(expected_ends_.back()));
  }
  if (!open_tags_.empty()) {
    message += fmt::format(" The innermost block that needs to be closed is '{}'.", open_tags_.back());
  }
  return fail(message);
}

// A tag's body: what follows its end, up to one of `ends`, whose name is then the
// current token, or taken too.
Result<Block> Parser::statements(Words ends, bool drop_end) {
  skip_symbol(":");
  TRY(expect(TokenKind::block_end, "end of statement block"));
  auto block = TRY(body(ends));
  if (drop_end) take();
  return block;
}

Result<Block> Parser::body(Words ends) {
  if (++depth_ > limits_.depth) {
    return Error{Code::too_large, fail(fmt::format("the template nests deeper than {} levels", limits_.depth)).message};
  }
  if (ends.size() > 0) expected_ends_.emplace_back(ends.begin(), ends.end());
  Block block;
  while (now().kind != TokenKind::end) {
    const int line = now().line;
    if (now().kind == TokenKind::data) {
      auto made = make_statement(StmtKind::text, line);
      made->text = take().text;
      block.push_back(std::move(made));
    } else if (now().kind == TokenKind::variable_begin) {
      take();
      auto made = make_statement(StmtKind::output, line);
      made->parts.push_back(TRY(tuple({})));
      TRY(expect(TokenKind::variable_end, "end of print statement"));
      block.push_back(std::move(made));
    } else {
      TRY(expect(TokenKind::block_begin, "begin of statement block"));
      const bool ended = now().kind == TokenKind::name && std::ranges::find(ends, now().text) != ends.end();
      if (ended) {
        expected_ends_.pop_back();
        --depth_;
        return block;
      }
      open_tags_.push_back(now().text);
      block.push_back(TRY(statement()));
      open_tags_.pop_back();
      TRY(expect(TokenKind::block_end, "end of statement block"));
    }
  }
  if (ends.size() > 0) return unknown_tag("");
  --depth_;
  return block;
}

Result<std::unique_ptr<Stmt>> Parser::statement() {
  if (now().kind != TokenKind::name) return fail("tag name expected");
  const std::string& tag = now().text;
  if (tag == "set") return parse_set();
  if (tag == "for") return parse_for();
  if (tag == "if") return parse_if();
  if (tag == "with") return parse_with();
  if (tag == "macro") return parse_macro();
  if (tag == "call") return parse_call();
  if (tag == "generation") return parse_generation();
  if (tag == "filter") return parse_filter();
  if (tag == "block") return parse_block();
  if (tag == "autoescape") return parse_autoescape();
  if (tag == "print") return parse_print();
  if (tag == "include" || tag == "import" || tag == "from" || tag == "extends") return parse_refused();
  if (tag == "do") {
    auto made = make_statement(StmtKind::expression, take().line);
    made->parts.push_back(TRY(tuple({})));
    return made;
  }
  if (tag == "break") return make_statement(StmtKind::break_loop, take().line);
  if (tag == "continue") return make_statement(StmtKind::continue_loop, take().line);
  const std::string unknown = tag;
  open_tags_.pop_back();
  return unknown_tag(unknown);
}

Status Parser::can_assign(const Expr& target) const {
  if (target.kind == ExprKind::space) return {};
  if (target.kind == ExprKind::tuple) {
    for (const auto& part : target.parts) TRY(can_assign(*part));
    return {};
  }
  if (target.kind == ExprKind::name) return {};
  const std::string_view what = target.kind == ExprKind::constant ? "const"
                                : target.kind == ExprKind::list   ? "list"
                                : target.kind == ExprKind::dict   ? "dict"
                                                                  : "expression";
  return syntax_error(target.line, fmt::format("can't assign to '{}'", what));
}

Result<ExprPtr> Parser::assign_target(TupleRules rules) {
  rules.simplified = true;
  auto target = TRY(tuple(rules));
  TRY(can_assign(*target));
  return target;
}

Result<ExprPtr> Parser::name_target() {
  auto target = make(ExprKind::name, now().line);
  target->text = TRY(expect_any_name());
  static constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False", "None"};
  if (std::ranges::find(kReserved, target->text) != std::end(kReserved)) return fail("can't assign to 'const'");
  return target;
}

Result<std::unique_ptr<Stmt>> Parser::parse_set() {
  const int line = take().line;
  auto target = TRY(assign_target({.spaces = true}));
  if (skip_symbol("=")) {
    auto made = make_statement(StmtKind::assign, line);
    made->target = std::move(target);
    made->parts.push_back(TRY(tuple({})));
    return made;
  }
  auto made = make_statement(StmtKind::assign_block, line);
  made->target = std::move(target);
  made->parts.push_back(TRY(filters(nullptr, false)));
  made->block = TRY(statements({"endset"}, true));
  return made;
}

Result<std::unique_ptr<Stmt>> Parser::parse_for() {
  auto made = make_statement(StmtKind::loop, take().line);
  // The target is bound twice, in the loop and in its test: so it is parsed twice.
  const std::size_t begin = at_;
  made->target = TRY(assign_target({}));
  TRY(expect_name("in"));
  made->parts.push_back(TRY(tuple({.conditions = false})));
  if (skip_name("if")) {
    made->test = TRY(expression());
    const std::size_t here = std::exchange(at_, begin);
    made->test_target = TRY(assign_target({}));
    at_ = here;
  }
  made->recursive = skip_name("recursive");
  made->block = TRY(statements({"endfor", "else"}));
  if (take().text == "else") made->otherwise = TRY(statements({"endfor"}, true));
  return made;
}

Result<std::unique_ptr<Stmt>> Parser::parse_if() {
  auto made = make_statement(StmtKind::condition, take().line);
  while (true) {
    Stmt::Branch branch;
    branch.test = TRY(tuple({.conditions = false}));
    branch.block = TRY(statements({"elif", "else", "endif"}));
    made->branches.push_back(std::move(branch));
    const std::string tag = take().text;
    if (tag == "elif") continue;
    if (tag == "else") made->otherwise = TRY(statements({"endif"}, true));
    return made;
  }
}

Result<std::unique_ptr<Stmt>> Parser::parse_with() {
  auto made = make_statement(StmtKind::with, take().line);
  while (now().kind != TokenKind::block_end) {
    if (!made->targets.empty()) TRY(expect_symbol(","));
    made->targets.push_back(TRY(assign_target({})));
    TRY(expect_symbol("="));
    made->parts.push_back(TRY(expression()));
  }
  made->block = TRY(statements({"endwith"}, true));
  return made;
}

Status Parser::signature(Body& body) {
  TRY(expect_symbol("("));
  while (!at_symbol(")")) {
    if (!body.parameters.empty()) TRY(expect_symbol(","));
    Body::Parameter parameter;
    parameter.name = TRY(name_target())->text;
    const auto same = [&](const auto& other) { return other.name == parameter.name; };
    if (body.parameters.size() >= kMostParameters) return Error{Code::too_large, fail("too many parameters").message};
    if (std::ranges::any_of(body.parameters, same)) {
      return fail(fmt::format("duplicate argument '{}' in a macro's definition", parameter.name));
    }
    if (skip_symbol("="))
      parameter.otherwise = TRY(expression());
    else if (!body.parameters.empty() && body.parameters.back().otherwise) {
      return fail("non-default argument follows default argument");
    }
    body.parameters.push_back(std::move(parameter));
  }
  return expect_symbol(")");
}

Result<std::unique_ptr<Stmt>> Parser::parse_macro() {
  auto made = make_statement(StmtKind::macro, take().line);
  made->target = TRY(name_target());
  made->body = std::make_unique<Body>();
  made->body->name = made->target->text;
  TRY(signature(*made->body));
  made->block = TRY(statements({"endmacro"}, true));
  return made;
}

Result<std::unique_ptr<Stmt>> Parser::parse_call() {
  auto made = make_statement(StmtKind::call_block, take().line);
  made->body = std::make_unique<Body>();
  if (at_symbol("(")) TRY(signature(*made->body));
  made->parts.push_back(TRY(expression()));
  if (made->parts[0]->kind != ExprKind::call) return syntax_error(made->line, "expected call");
  made->block = TRY(statements({"endcall"}, true));
  return made;
}

Result<std::unique_ptr<Stmt>> Parser::parse_generation() {
  auto made = make_statement(StmtKind::generation, take().line);
  made->body = std::make_unique<Body>();
  made->block = TRY(statements({"endgeneration"}, true));
  return made;
}

Result<std::unique_ptr<Stmt>> Parser::parse_filter() {
  auto made = make_statement(StmtKind::filter_block, take().line);
  made->parts.push_back(TRY(filters(nullptr, true)));
  made->block = TRY(statements({"endfilter"}, true));
  return made;
}

Result<std::unique_ptr<Stmt>> Parser::parse_block() {
  auto made = make_statement(StmtKind::block, take().line);
  made->text = TRY(expect_any_name());
  made->scoped = skip_name("scoped");
  const bool required = skip_name("required");
  if (at_symbol("-")) {
    return fail(
        "Block names in Jinja have to be valid Python identifiers and may not contain hyphens, use an underscore "
        "instead.");
  }
  for (const Stmt* other : blocks_) {
    if (other->text == made->text) return fail(fmt::format("block '{}' defined twice", made->text));
  }
  if (blocks_.size() >= kMostBlocks) return Error{Code::too_large, fail("too many blocks").message};
  blocks_.push_back(made.get());
  made->body = std::make_unique<Body>();
  made->block = TRY(statements({"endblock"}, true));
  skip_name(made->text);
  if (required) return syntax_error(made->line, fmt::format("Required block '{}' not found", made->text));
  return made;
}

Result<std::unique_ptr<Stmt>> Parser::parse_autoescape() {
  auto made = make_statement(StmtKind::autoescape, take().line);
  made->parts.push_back(TRY(expression()));
  made->block = TRY(statements({"endautoescape"}, true));
  return made;
}

Result<std::unique_ptr<Stmt>> Parser::parse_print() {
  auto made = make_statement(StmtKind::output, take().line);
  while (now().kind != TokenKind::block_end) {
    if (!made->parts.empty()) TRY(expect_symbol(","));
    made->parts.push_back(TRY(expression()));
  }
  return made;
}

Status Parser::import_context() {
  const bool context = look().kind == TokenKind::name && look().text == "context";
  if (context && (skip_name("with") || skip_name("without"))) take();
  return {};
}

// A chat template stands alone: there is nothing to include. Like Jinja, which
// finds no loader, we refuse when such a tag is reached, not before.
Result<std::unique_ptr<Stmt>> Parser::parse_refused() {
  auto made = make_statement(StmtKind::refuse, now().line);
  made->text = take().text;
  made->parts.push_back(TRY(expression()));
  if (made->text == "include") {
    if (at_name("ignore") && look().kind == TokenKind::name && look().text == "missing") take(), take();
    TRY(import_context());
  } else if (made->text == "import") {
    TRY(expect_name("as"));
    made->targets.push_back(TRY(name_target()));
    TRY(import_context());
  } else if (made->text == "from") {
    TRY(expect_name("import"));
    do {
      const bool context = look().kind == TokenKind::name && look().text == "context";
      if (context && (at_name("with") || at_name("without"))) break;
      auto name = TRY(name_target());
      if (name->text.starts_with('_')) return fail("names starting with an underline can not be imported");
      if (skip_name("as")) name = TRY(name_target());
      made->targets.push_back(std::move(name));
    } while (skip_symbol(","));
    TRY(import_context());
  }
  return made;
}

}  // namespace ashlar::text::jinja
