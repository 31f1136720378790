#include "text/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

namespace ashlar::text::jinja {

bool Parser::skip_symbol(std::string_view symbol) {
  if (!at_symbol(symbol)) return false;
  take();
  return true;
}

bool Parser::skip_name(std::string_view name) {
  if (!at_name(name)) return false;
  take();
  return true;
}

Error Parser::unexpected(std::string_view wanted) const {
  if (now().kind == TokenKind::end) return fail(fmt::format("unexpected end of template, expected '{}'.", wanted));
  return fail(fmt::format("expected token '{}', got '{}'", wanted, describe(now())));
}

Status Parser::expect_symbol(std::string_view symbol) {
  if (!skip_symbol(symbol)) return unexpected(symbol);
  return {};
}

Status Parser::expect_name(std::string_view name) {
  if (!skip_name(name)) return unexpected(name);
  return {};
}

Status Parser::expect(TokenKind kind, std::string_view shown) {
  if (now().kind != kind) return unexpected(shown);
  take();
  return {};
}

Result<std::string> Parser::expect_any_name() {
  if (now().kind != TokenKind::name) return unexpected("name");
  return take().text;
}

ExprPtr Parser::make(ExprKind kind, int line) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

Result<ExprPtr> Parser::finish(ExprPtr expr) const {
  for (const auto& part : expr->parts) {
    if (part) expr->height = std::max(expr->height, part->height + 1);
  }
  // Chains such as a.b.c or a|b|c lean to the left without the parser recursing.
  if (expr->height > limits_.depth * 4) {
    return Error{
        Code::too_large,
        syntax_error(expr->line, fmt::format("an expression nests deeper than {} levels", limits_.depth * 4)).message};
  }
  return expr;
}

Result<ExprPtr> Parser::join(ExprKind kind, int line, std::vector<ExprPtr> parts) const {
  auto expr = make(kind, line);
  expr->parts = std::move(parts);
  return finish(std::move(expr));
}

namespace {

// Holds one level of the parser's recursion.
class Level {
 public:
  explicit Level(int& depth) : depth_(depth) { ++depth_; }
  ~Level() { --depth_; }
  Level(const Level&) = delete;

 private:
  int& depth_;
};

std::vector<ExprPtr> parts_of(ExprPtr first) {
  std::vector<ExprPtr> parts;
  parts.push_back(std::move(first));
  return parts;
}

std::vector<ExprPtr> parts_of(ExprPtr first, ExprPtr second) {
  auto parts = parts_of(std::move(first));
  parts.push_back(std::move(second));
  return parts;
}

}  // namespace

Result<ExprPtr> Parser::expression(bool conditions) {
  const Level level(depth_);
  if (depth_ > limits_.depth) {
    return Error{Code::too_large, fail(fmt::format("the template nests deeper than {} levels", limits_.depth)).message};
  }
  return conditions ? condition() : any();
}

Result<ExprPtr> Parser::condition() {
  int line = now().line;
  auto expr = TRY(any());
  while (skip_name("if")) {
    auto parts = parts_of(std::move(expr), TRY(any()));
    if (skip_name("else"))
      parts.push_back(TRY(expression()));
    else
      parts.push_back(nullptr);
    expr = TRY(join(ExprKind::condition, line, std::move(parts)));
    line = now().line;
  }
  return expr;
}

Result<ExprPtr> Parser::any() {
  const int line = now().line;
  auto parts = parts_of(TRY(all()));
  while (skip_name("or")) parts.push_back(TRY(all()));
  if (parts.size() == 1) return std::move(parts[0]);
  return join(ExprKind::any, line, std::move(parts));
}

Result<ExprPtr> Parser::all() {
  const int line = now().line;
  auto parts = parts_of(TRY(negation()));
  while (skip_name("and")) parts.push_back(TRY(negation()));
  if (parts.size() == 1) return std::move(parts[0]);
  return join(ExprKind::all, line, std::move(parts));
}

Result<ExprPtr> Parser::negation() {
  const int line = now().line;
  int times = 0;
  while (skip_name("not")) ++times;
  auto expr = TRY(comparison());
  if (times == 0) return expr;
  expr = TRY(join(ExprKind::negation, line, parts_of(std::move(expr))));
  if (times % 2 == 0) expr = TRY(join(ExprKind::negation, line, parts_of(std::move(expr))));
  return expr;
}

Result<ExprPtr> Parser::comparison() {
  static constexpr std::pair<std::string_view, Comparison> kSymbols[] = {
      {"==", Comparison::equal},      {"!=", Comparison::unequal}, {"<", Comparison::less},
      {"<=", Comparison::less_equal}, {">", Comparison::greater},  {">=", Comparison::greater_equal}};
  const int line = now().line;
  auto parts = parts_of(TRY(sum()));
  std::vector<Comparison> comparisons;
  while (true) {
    const auto* symbol = std::ranges::find_if(kSymbols, [&](const auto& s) { return at_symbol(s.first); });
    if (symbol != std::end(kSymbols)) {
      take();
      comparisons.push_back(symbol->second);
    } else if (skip_name("in")) {
      comparisons.push_back(Comparison::in);
    } else if (at_name("not") && look().kind == TokenKind::name && look().text == "in") {
      take(), take();
      comparisons.push_back(Comparison::not_in);
    } else {
      break;
    }
    parts.push_back(TRY(sum()));
  }
  if (comparisons.empty()) return std::move(parts[0]);
  auto expr = make(ExprKind::compare, line);
  expr->parts = std::move(parts);
  expr->comparisons = std::move(comparisons);
  return finish(std::move(expr));
}

Result<ExprPtr> Parser::binary(Result<ExprPtr> (Parser::*operand)(),
                               std::initializer_list<std::pair<std::string_view, Op>> operators) {
  const int line = now().line;
  auto parts = parts_of(TRY((this->*operand)()));
  std::vector<Op> ops;
  while (true) {
    const auto* found = std::ranges::find_if(operators, [&](const auto& o) { return at_symbol(o.first); });
    if (found == operators.end()) break;
    take();
    ops.push_back(found->second);
    parts.push_back(TRY((this->*operand)()));
  }
  if (ops.empty()) return std::move(parts[0]);
  auto expr = make(ExprKind::binary, line);
  expr->parts = std::move(parts);
  expr->ops = std::move(ops);
  return finish(std::move(expr));
}

Result<ExprPtr> Parser::sum() { return binary(&Parser::concat, {{"+", Op::add}, {"-", Op::subtract}}); }

Result<ExprPtr> Parser::concat() {
  const int line = now().line;
  auto parts = parts_of(TRY(product()));
  while (skip_symbol("~")) parts.push_back(TRY(product()));
  if (parts.size() == 1) return std::move(parts[0]);
  return join(ExprKind::concat, line, std::move(parts));
}

Result<ExprPtr> Parser::product() {
  return binary(&Parser::power, {{"*", Op::multiply}, {"/", Op::divide}, {"//", Op::floor_divide}, {"%", Op::modulo}});
}

Result<ExprPtr> Parser::power() {
  // Jinja's ** binds to the left, unlike Python's.
  const int line = now().line;
  auto parts = parts_of(TRY(unary()));
  std::vector<Op> ops;
  while (skip_symbol("**")) {
    ops.push_back(Op::power);
    parts.push_back(TRY(unary()));
  }
  if (ops.empty()) return std::move(parts[0]);
  auto expr = make(ExprKind::binary, line);
  expr->parts = std::move(parts);
  expr->ops = std::move(ops);
  return finish(std::move(expr));
}

Result<ExprPtr> Parser::unary(bool filters) {
  const Level level(depth_);
  if (depth_ > limits_.depth) {
    return Error{Code::too_large, fail(fmt::format("the template nests deeper than {} levels", limits_.depth)).message};
  }
  const int line = now().line;
  ExprPtr expr;
  const bool minus = at_symbol("-");
  if (skip_symbol("-") || skip_symbol("+")) {
    expr = TRY(unary(false));
    expr = TRY(join(minus ? ExprKind::negative : ExprKind::positive, line, parts_of(std::move(expr))));
  } else {
    expr = TRY(primary());
  }
  expr = TRY(postfix(std::move(expr)));
  return filters ? filters_and_tests(std::move(expr)) : Result<ExprPtr>(std::move(expr));
}

Result<ExprPtr> Parser::primary(bool spaces) {
  const int line = now().line;
  switch (now().kind) {
    case TokenKind::name: {
      const std::string name = take().text;
      auto expr = make(ExprKind::constant, line);
      if (name == "true" || name == "True")
        expr->value = true;
      else if (name == "false" || name == "False")
        expr->value = false;
      else if (name == "none" || name == "None")
        expr->value = std::monostate{};
      else {
        expr->kind = ExprKind::name;
        expr->text = name;
        if (spaces && skip_symbol(".")) {
          expr->kind = ExprKind::space;
          expr->attribute = TRY(expect_any_name());
        }
      }
      return expr;
    }
    case TokenKind::string:
      return literal_string();
    case TokenKind::integer: {
      auto expr = make(ExprKind::constant, line);
      expr->value = take().integer;
      return expr;
    }
    case TokenKind::floating: {
      auto expr = make(ExprKind::constant, line);
      expr->value = take().floating;
      return expr;
    }
    default:
      break;
  }
  if (skip_symbol("(")) {
    auto expr = TRY(tuple({.brackets = true}));
    TRY(expect_symbol(")"));
    return expr;
  }
  if (at_symbol("[")) return literal_list();
  if (at_symbol("{")) return literal_dict();
  return fail(fmt::format("unexpected '{}'", describe(now())));
}

Result<ExprPtr> Parser::literal_string() {
  auto expr = make(ExprKind::constant, now().line);
  std::string text;
  while (now().kind == TokenKind::string) text.append(take().text);
  expr->value = std::move(text);
  return expr;
}

Result<ExprPtr> Parser::literal_list() {
  auto expr = make(ExprKind::list, now().line);
  TRY(expect_symbol("["));
  while (!at_symbol("]")) {
    if (!expr->parts.empty()) TRY(expect_symbol(","));
    if (at_symbol("]")) break;
    expr->parts.push_back(TRY(expression()));
  }
  TRY(expect_symbol("]"));
  return finish(std::move(expr));
}

Result<ExprPtr> Parser::literal_dict() {
  auto expr = make(ExprKind::dict, now().line);
  TRY(expect_symbol("{"));
  while (!at_symbol("}")) {
    if (!expr->parts.empty()) TRY(expect_symbol(","));
    if (at_symbol("}")) break;
    expr->parts.push_back(TRY(expression()));
    TRY(expect_symbol(":"));
    expr->parts.push_back(TRY(expression()));
  }
  TRY(expect_symbol("}"));
  return finish(std::move(expr));
}

bool Parser::at_tuple_end() const {
  return now().kind == TokenKind::variable_end || now().kind == TokenKind::block_end || at_symbol(")");
}

Result<ExprPtr> Parser::tuple(TupleRules rules) {
  int line = now().line;
  std::vector<ExprPtr> parts;
  bool is_tuple = false;
  while (true) {
    if (!parts.empty()) TRY(expect_symbol(","));
    if (at_tuple_end()) break;
    auto part = rules.simplified ? primary(rules.spaces) : expression(rules.conditions);
    parts.push_back(TRY(std::move(part)));
    if (!at_symbol(",")) break;
    is_tuple = true;
    line = now().line;
  }
  if (!is_tuple) {
    if (!parts.empty()) return std::move(parts[0]);
    if (!rules.brackets) return fail(fmt::format("Expected an expression, got '{}'", describe(now())));
  }
  return join(ExprKind::tuple, line, std::move(parts));
}

Result<ExprPtr> Parser::postfix(ExprPtr expr) {
  while (true) {
    if (at_symbol(".") || at_symbol("["))
      expr = TRY(subscript(std::move(expr)));
    else if (at_symbol("("))
      expr = TRY(call(std::move(expr)));
    else
      return expr;
  }
}

Result<ExprPtr> Parser::filters_and_tests(ExprPtr expr) {
  while (true) {
    if (at_symbol("|"))
      expr = TRY(filters(std::move(expr), false));
    else if (at_name("is"))
      expr = TRY(test(std::move(expr)));
    else if (at_symbol("("))
      expr = TRY(call(std::move(expr)));
    else
      return expr;
  }
}

Result<ExprPtr> Parser::subscript(ExprPtr expr) {
  const int line = now().line;
  if (at_symbol("[")) return brackets(std::move(expr));
  take();
  if (now().kind == TokenKind::name) {
    auto made = make(ExprKind::attribute, line);
    made->text = take().text;
    made->parts = parts_of(std::move(expr));
    return finish(std::move(made));
  }
  if (now().kind != TokenKind::integer) return fail("expected name or number");
  auto index = make(ExprKind::constant, now().line);
  index->value = take().integer;
  return join(ExprKind::item, line, parts_of(std::move(expr), std::move(index)));
}

Result<ExprPtr> Parser::brackets(ExprPtr expr) {
  const int line = now().line;
  TRY(expect_symbol("["));
  std::vector<ExprPtr> indices;
  while (!at_symbol("]")) {
    if (!indices.empty()) TRY(expect_symbol(","));
    if (!at_symbol(":")) {
      auto index = TRY(expression());
      if (!at_symbol(":")) {
        indices.push_back(std::move(index));
        continue;
      }
      if (!indices.empty()) return fail("a slice cannot be one of several indices");
      indices.push_back(std::move(index));
    } else {
      if (!indices.empty()) return fail("a slice cannot be one of several indices");
      indices.push_back(nullptr);
    }
    // from : to : by, each but the first colon optional.
    TRY(expect_symbol(":"));
    const auto bound = [&]() -> Result<ExprPtr> {
      if (at_symbol(":") || at_symbol("]") || at_symbol(",")) return ExprPtr();
      return expression();
    };
    auto slice = make(ExprKind::slice, line);
    slice->parts = parts_of(std::move(expr), std::move(indices[0]));
    slice->parts.push_back(TRY(bound()));
    if (skip_symbol(":"))
      slice->parts.push_back(TRY(bound()));
    else
      slice->parts.push_back(nullptr);
    TRY(expect_symbol("]"));
    return finish(std::move(slice));
  }
  TRY(expect_symbol("]"));
  ExprPtr index;
  if (indices.size() == 1)
    index = std::move(indices[0]);
  else
    index = TRY(join(ExprKind::tuple, line, std::move(indices)));
  return join(ExprKind::item, line, parts_of(std::move(expr), std::move(index)));
}

Result<std::unique_ptr<CallSyntax>> Parser::arguments(int& height) {
  const int line = now().line;
  const auto invalid = [&] { return syntax_error(line, "invalid syntax for function call expression"); };
  TRY(expect_symbol("("));
  auto call = std::make_unique<CallSyntax>();
  const auto value = [&]() -> Result<ExprPtr> {
    auto expr = TRY(expression());
    height = std::max(height, expr->height + 1);
    return expr;
  };
  std::unordered_set<std::string> names;
  bool first = true;
  while (!at_symbol(")")) {
    if (!first) {
      TRY(expect_symbol(","));
      if (at_symbol(")")) break;
    }
    first = false;
    if (at_symbol("*")) {
      if (call->spread || call->spread_named) return invalid();
      take();
      call->spread = TRY(value());
    } else if (at_symbol("**")) {
      if (call->spread_named) return invalid();
      take();
      call->spread_named = TRY(value());
    } else if (now().kind == TokenKind::name && look().kind == TokenKind::symbol && look().text == "=") {
      if (call->spread_named) return invalid();
      std::string name = take().text;
      take();
      if (!names.insert(name).second) return fail(fmt::format("keyword argument repeated: {}", name));
      call->named.emplace_back(std::move(name), TRY(value()));
    } else {
      if (call->spread || call->spread_named || !call->named.empty()) return invalid();
      call->positional.push_back(TRY(value()));
    }
  }
  TRY(expect_symbol(")"));
  return call;
}

Result<ExprPtr> Parser::call(ExprPtr callee) {
  auto expr = make(ExprKind::call, now().line);
  expr->parts = parts_of(std::move(callee));
  expr->call = TRY(arguments(expr->height));
  return finish(std::move(expr));
}

Result<std::string> Parser::dotted_name() {
  std::string name = TRY(expect_any_name());
  while (skip_symbol(".")) name += "." + TRY(expect_any_name());
  return name;
}

Result<ExprPtr> Parser::filters(ExprPtr expr, bool inline_start) {
  if (inline_start) expr = TRY(filter(std::move(expr)));
  while (skip_symbol("|")) expr = TRY(filter(std::move(expr)));
  return expr;
}

Result<ExprPtr> Parser::filter(ExprPtr expr) {
  auto made = make(ExprKind::filter, now().line);
  made->text = TRY(dotted_name());
  made->parts = parts_of(std::move(expr));
  if (at_symbol("("))
    made->call = TRY(arguments(made->height));
  else
    made->call = std::make_unique<CallSyntax>();
  return finish(std::move(made));
}

Result<ExprPtr> Parser::test(ExprPtr expr) {
  auto made = make(ExprKind::test, take().line);
  const int line = made->line;
  const bool negated = skip_name("not");
  made->text = TRY(dotted_name());
  made->parts = parts_of(std::move(expr));
  made->call = std::make_unique<CallSyntax>();
  const bool argument = now().kind == TokenKind::name || now().kind == TokenKind::string ||
                        now().kind == TokenKind::integer || now().kind == TokenKind::floating || at_symbol("[") ||
                        at_symbol("{");
  if (at_symbol("(")) {
    made->call = TRY(arguments(made->height));
  } else if (argument && !at_name("else") && !at_name("or") && !at_name("and")) {
    if (at_name("is")) return fail("You cannot chain multiple tests with is");
    auto value = TRY(primary());
    made->call->positional.push_back(TRY(postfix(std::move(value))));
    made->height = std::max(made->height, made->call->positional[0]->height + 1);
  }
  auto result = TRY(finish(std::move(made)));
  if (negated) return join(ExprKind::negation, line, parts_of(std::move(result)));
  return result;
}

}  // namespace ashlar::text::jinja
