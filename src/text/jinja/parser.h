// Tokens to a tree: Jinja2 3.1's grammar with the tags `do`, `break`, `continue`
// and Hugging Face's `generation`.
#pragma once

#include <initializer_list>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"
#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace ashlar::text::jinja {

// `source` is valid UTF-8. invalid: a syntax error, with its line; too_large:
// nested deeper than the limit. Names are not bound yet: resolve() does that.
Result<std::unique_ptr<Template>> parse(std::string_view source, const TemplateLimits& limits);

// One parsing. Expressions are in parser.cc, statements in parser_statements.cc.
class Parser {
 public:
  Parser(std::vector<Token> tokens, const TemplateLimits& limits) : tokens_(std::move(tokens)), limits_(limits) {}
  Result<std::unique_ptr<Template>> run();

 private:
  struct TupleRules {
    bool simplified = false;  // only names and literals: targets
    bool conditions = true;   // x if y else z
    bool brackets = false;    // (), so that it may be empty
    bool spaces = false;      // namespace.attribute as a target
  };
  using Words = std::initializer_list<std::string_view>;

  const Token& now() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool at_symbol(std::string_view symbol) const { return now().kind == TokenKind::symbol && now().text == symbol; }
  bool at_name(std::string_view name) const { return now().kind == TokenKind::name && now().text == name; }
  bool skip_symbol(std::string_view symbol);
  bool skip_name(std::string_view name);
  Status expect_symbol(std::string_view symbol);
  Status expect_name(std::string_view name);
  Status expect(TokenKind kind, std::string_view shown);
  Result<std::string> expect_any_name();
  Error fail(std::string_view message) const { return syntax_error(now().line, message); }
  Error unexpected(std::string_view wanted) const;

  static std::unique_ptr<Expr> make(ExprKind kind, int line);
  // Bounds the height of what was made.
  Result<ExprPtr> finish(ExprPtr expr) const;
  Result<ExprPtr> join(ExprKind kind, int line, std::vector<ExprPtr> parts) const;

  Result<ExprPtr> expression(bool conditions = true);
  Result<ExprPtr> condition();
  Result<ExprPtr> any();
  Result<ExprPtr> all();
  Result<ExprPtr> negation();
  Result<ExprPtr> comparison();
  Result<ExprPtr> sum();
  Result<ExprPtr> concat();
  Result<ExprPtr> product();
  Result<ExprPtr> power();
  Result<ExprPtr> binary(Result<ExprPtr> (Parser::*operand)(),
                         std::initializer_list<std::pair<std::string_view, Op>> operators);
  Result<ExprPtr> unary(bool filters = true);
  Result<ExprPtr> primary(bool spaces = false);
  Result<ExprPtr> literal_string();
  Result<ExprPtr> literal_list();
  Result<ExprPtr> literal_dict();
  Result<ExprPtr> tuple(TupleRules rules);
  bool at_tuple_end() const;
  Result<ExprPtr> postfix(ExprPtr expr);
  Result<ExprPtr> filters_and_tests(ExprPtr expr);
  Result<ExprPtr> subscript(ExprPtr expr);
  Result<ExprPtr> brackets(ExprPtr expr);
  Result<ExprPtr> call(ExprPtr callee);
  Result<std::unique_ptr<CallSyntax>> arguments(int& height);
  Result<ExprPtr> filters(ExprPtr expr, bool inline_start);
  Result<ExprPtr> filter(ExprPtr expr);
  Result<ExprPtr> test(ExprPtr expr);
  Result<std::string> dotted_name();

  Result<Block> statements(Words ends, bool drop_end = false);
  Result<Block> body(Words ends);
  Result<std::unique_ptr<Stmt>> statement();
  Result<std::unique_ptr<Stmt>> parse_set();
  Result<std::unique_ptr<Stmt>> parse_for();
  Result<std::unique_ptr<Stmt>> parse_if();
  Result<std::unique_ptr<Stmt>> parse_with();
  Result<std::unique_ptr<Stmt>> parse_macro();
  Result<std::unique_ptr<Stmt>> parse_call();
  Result<std::unique_ptr<Stmt>> parse_generation();
  Result<std::unique_ptr<Stmt>> parse_filter();
  Result<std::unique_ptr<Stmt>> parse_block();
  Result<std::unique_ptr<Stmt>> parse_autoescape();
  Result<std::unique_ptr<Stmt>> parse_print();
  Result<std::unique_ptr<Stmt>> parse_refused();
  Status import_context();
  Status signature(Body& body);
  Result<ExprPtr> assign_target(TupleRules rules);
  Result<ExprPtr> name_target();
  Status can_assign(const Expr& target) const;
  Error unknown_tag(std::string_view name) const;

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  const TemplateLimits& limits_;
  int depth_ = 0;  // of recursion
  std::vector<std::vector<std::string>> expected_ends_;
  std::vector<std::string> open_tags_;
  std::vector<Stmt*> blocks_;
};

}  // namespace ashlar::text::jinja
