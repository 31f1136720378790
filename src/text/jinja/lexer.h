// A template's source as tokens, with the whitespace rules of trim_blocks,
// lstrip_blocks and the - and + signs already applied.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

enum class TokenKind : std::uint8_t {
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  floating,
  symbol,  // an operator or a bracket, as written
  end,
};

struct Token {
  TokenKind kind = TokenKind::end;
  int line = 1;
  std::string text;  // data, a name, a string's value, a symbol
  Int integer = 0;
  double floating = 0;
};

// `source` is valid UTF-8. invalid: with the line.
Result<std::vector<Token>> tokenize(std::string_view source);

// For error messages: "begin of statement block", a name's own text.
std::string describe(const Token& token);

// "chat template, line N: message".
Error syntax_error(int line, std::string_view message);

}  // namespace ashlar::text::jinja
