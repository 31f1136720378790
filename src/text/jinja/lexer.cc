#include "text/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/utf8.h"
#include "text/jinja/literal.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

// \r\n and \r become \n, and one newline at the very end goes.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

constexpr std::string_view kSymbols[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                         "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)) {}

  Result<std::vector<Token>> run() {
    while (at_ < source_.size()) TRY(root());
    push(TokenKind::end);
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool ahead(std::string_view text) const { return rest().starts_with(text); }

  Token& push(TokenKind kind, std::string text = {}) {
    tokens_.push_back({.kind = kind, .line = line_, .text = std::move(text)});
    return tokens_.back();
  }

  void advance(std::size_t bytes) {
    line_ += static_cast<int>(std::ranges::count(rest().substr(0, bytes), '\n'));
    at_ += bytes;
    if (bytes > 0) line_start_ = source_[at_ - 1] == '\n';
  }

  std::size_t space_length(std::size_t at) const {
    const std::size_t begin = at;
    while (at < source_.size()) {
      const auto step = utf8::decode(std::string_view(source_).substr(at));
      if (!is_space(step.code)) break;
      at += step.bytes;
    }
    return at - begin;
  }
  void skip_space() { advance(space_length(at_)); }

  static std::string_view without_trailing_space(std::string_view text) {
    while (!text.empty()) {
      std::size_t begin = text.size() - 1;
      while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
      if (!is_space(utf8::decode(text.substr(begin)).code)) break;
      text = text.substr(0, begin);
    }
    return text;
  }

  // What stands before a tag, with its end stripped as the tag asks.
  std::string_view data_before(std::string_view text, char sign, bool may_lstrip) const {
    if (sign == '-') return without_trailing_space(text);
    if (sign == '+' || !may_lstrip) return text;
    const std::size_t newline = text.rfind('\n');
    const std::size_t begin = newline == text.npos ? 0 : newline + 1;
    if (begin == 0 && !line_start_) return text;
    // Jinja asks for at least one blank: nothing to strip otherwise anyway.
    return without_trailing_space(text.substr(begin)).empty() ? text.substr(0, begin) : text;
  }

  char sign_at(std::size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
  }

  // Data up to the next tag, and the tag.
  Status root() {
    std::size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == source_.npos || tag + 1 >= source_.size()) {
        push(TokenKind::data, std::string(rest()));
        advance(source_.size() - at_);
        return {};
      }
      const char kind = source_[tag + 1];
      if (kind == '{' || kind == '%' || kind == '#') break;
      ++tag;
    }
    const std::string_view text = rest().substr(0, tag - at_);
    const char sign = sign_at(tag + 2);
    const char kind = source_[tag + 1];
    const std::string_view data = data_before(text, sign, kind != '{');
    if (!data.empty()) push(TokenKind::data, std::string(data));
    advance(tag - at_);
    if (kind == '%') {
      if (const std::size_t length = raw_tag_length(at_)) return raw(length);
    }
    const int opened = line_;
    advance(2 + (sign != '\0'));
    if (kind == '#') return comment(opened);
    push(kind == '{' ? TokenKind::variable_begin : TokenKind::block_begin);
    return tag_body(kind == '{');
  }

  // The length of "{%- raw -%}" standing at `at`, with the blanks that its minus
  // eats; 0: something else.
  std::size_t raw_tag_length(std::size_t at) const {
    const std::size_t begin = at;
    at += 2 + (sign_at(at + 2) != '\0');
    at += space_length(at);
    if (!std::string_view(source_).substr(at).starts_with("raw")) return 0;
    at += 3;
    at += space_length(at);
    const auto tail = std::string_view(source_).substr(at);
    if (tail.starts_with("-%}")) return at + 3 + space_length(at + 3) - begin;
    return tail.starts_with("%}") ? at + 2 - begin : 0;
  }

  Status raw(std::size_t length) {
    const int opened = line_;
    advance(length);
    for (std::size_t tag = source_.find("{%", at_); tag != source_.npos; tag = source_.find("{%", tag + 2)) {
      const char sign = sign_at(tag + 2);
      std::size_t end = tag + 2 + (sign != '\0');
      end += space_length(end);
      if (!std::string_view(source_).substr(end).starts_with("endraw")) continue;
      end += 6;
      end += space_length(end);
      const auto tail = std::string_view(source_).substr(end);
      if (!tail.starts_with("+%}") && !tail.starts_with("-%}") && !tail.starts_with("%}")) continue;
      const std::string_view data = data_before(rest().substr(0, tag - at_), sign, true);
      if (!data.empty()) push(TokenKind::data, std::string(data));
      advance(end - at_);
      close("%}");
      return {};
    }
    // Jinja overlooks an opening with nothing after it.
    if (at_ == source_.size()) return {};
    return syntax_error(opened, "Missing end of raw directive");
  }

  // Past "%}", "-%}" or "+%}" (or those of a comment), with the blanks or the one
  // newline after it.
  void close(std::string_view end) {
    const char sign = ahead(end) ? '\0' : source_[at_];
    advance(end.size() + (sign != '\0'));
    if (sign == '-')
      skip_space();
    else if (sign == '\0' && ahead("\n"))
      advance(1);
  }

  Status comment(int opened) {
    std::size_t end = source_.find("#}", at_);
    if (at_ == source_.size()) return {};
    if (end == source_.npos) return syntax_error(opened, "Missing end of comment tag");
    if (end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+')) --end;
    advance(end - at_);
    close("#}");
    return {};
  }

  // Tokens up to the tag's end. Inside brackets an end is only an operator.
  Status tag_body(bool variable) {
    std::vector<char> open;
    while (true) {
      if (open.empty() && at_end(variable)) return {};
      if (at_ == source_.size()) return {};  // the parser says what is missing
      if (const std::size_t blanks = space_length(at_)) {
        advance(blanks);
        continue;
      }
      TRY(token(open));
    }
  }

  bool at_end(bool variable) {
    if (variable) {
      if (!ahead("}}") && !ahead("-}}")) return false;
      push(TokenKind::variable_end);
      const bool strip = ahead("-");
      advance(strip ? 3 : 2);
      if (strip) skip_space();
      return true;
    }
    if (!ahead("%}") && !ahead("-%}") && !ahead("+%}")) return false;
    push(TokenKind::block_end);
    close("%}");
    return true;
  }

  Status token(std::vector<char>& open) {
    const char c = source_[at_];
    if (is_digit(c)) return number();
    if (c == '"' || c == '\'') return string();
    if (const std::size_t length = name_length()) {
      push(TokenKind::name, std::string(rest().substr(0, length)));
      advance(length);
      return {};
    }
    const auto* symbol = std::ranges::find_if(kSymbols, [&](std::string_view s) { return ahead(s); });
    if (symbol == std::end(kSymbols)) {
      const auto step = utf8::decode(rest());
      return syntax_error(line_, fmt::format("unexpected char '{}' at {}", rest().substr(0, step.bytes),
                                             count_points(std::string_view(source_).substr(0, at_))));
    }
    TRY(balance(open, symbol->front()));
    push(TokenKind::symbol, std::string(*symbol));
    advance(symbol->size());
    return {};
  }

  Status balance(std::vector<char>& open, char c) {
    if (c == '(') open.push_back(')');
    if (c == '[') open.push_back(']');
    if (c == '{') open.push_back('}');
    if (c != ')' && c != ']' && c != '}') return {};
    if (open.empty()) return syntax_error(line_, fmt::format("unexpected '{}'", c));
    const char expected = open.back();
    open.pop_back();
    if (expected != c) return syntax_error(line_, fmt::format("unexpected '{}', expected '{}'", c, expected));
    return {};
  }

  std::size_t name_length() const {
    std::size_t length = 0;
    while (at_ + length < source_.size()) {
      const auto step = utf8::decode(rest().substr(length));
      const bool inside = step.code == '_' || (char_class(step.code) & (kAlpha | (length > 0 ? kNumeric : 0))) != 0;
      if (!inside) break;
      length += step.bytes;
    }
    return length;
  }

  Status number() {
    const auto literal = scan_number(rest(), at_ > 0 && source_[at_ - 1] == '.');
    if (!literal) return syntax_error(line_, literal.error().message);
    Token& made = push(literal->is_float ? TokenKind::floating : TokenKind::integer,
                       std::string(rest().substr(0, literal->length)));
    made.integer = literal->integer;
    made.floating = literal->floating;
    advance(literal->length);
    return {};
  }

  Status string() {
    const char quote = source_[at_];
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) {
      return syntax_error(line_, fmt::format("unexpected char {} at {}", quote == '"' ? "'\"'" : "\"'\"",
                                             count_points(std::string_view(source_).substr(0, at_))));
    }
    const std::string_view written = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
    auto value = unescape(written);
    if (!value) return syntax_error(line_, value.error().message);
    push(TokenKind::string, *std::move(value));
    advance(end + 1 - at_);
    return {};
  }

  std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // what was read last ended a line, or nothing was
  std::vector<Token> tokens_;
};

}  // namespace

Error syntax_error(int line, std::string_view message) {
  return Error{Code::invalid, fmt::format("chat template, line {}: {}", line, message)};
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::data:
      return "template data / text";
    case TokenKind::variable_begin:
      return "begin of print statement";
    case TokenKind::variable_end:
      return "end of print statement";
    case TokenKind::block_begin:
      return "begin of statement block";
    case TokenKind::block_end:
      return "end of statement block";
    case TokenKind::string:
      return "string";
    case TokenKind::integer:
      return "integer";
    case TokenKind::floating:
      return "float";
    case TokenKind::end:
      return "end of template";
    case TokenKind::name:
    case TokenKind::symbol:
      return token.text;
  }
  return "token";
}

Result<std::vector<Token>> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace ashlar::text::jinja
