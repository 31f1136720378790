// ashlar tokenize, ashlar detokenize: text to ids and back, by a model file's
// own vocabulary.
#include <fmt/format.h>

#include <charconv>
#include <vector>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/terminal.h"
#include "cli/vocabulary.h"

namespace ashlar::cli {
namespace {

constexpr std::size_t kMaxInput = std::size_t{4} << 30;

// A token's bytes on one line: quotes, backslashes, control characters and
// broken UTF-8 escaped.
std::string quoted(std::string_view piece) {
  std::string out = "\"";
  while (!piece.empty()) {
    const unsigned char c = static_cast<unsigned char>(piece[0]);
    if (c == '"' || c == '\\') out.append({'\\', static_cast<char>(c)});
    else if (c == '\n') out.append("\\n");
    else if (c == '\t') out.append("\\t");
    else if (c < 0x20 || c >= 0x7F) out.append(fmt::format("\\x{:02x}", c));
    else out.push_back(static_cast<char>(c));
    piece.remove_prefix(1);
  }
  return out + "\"";
}

Result<std::vector<text::TokenId>> parse_ids(std::string_view text, int vocabulary) {
  std::vector<text::TokenId> ids;
  const auto is_gap = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == ',' || c == '[' || c == ']'; };
  for (std::size_t at = 0; at < text.size();) {
    if (is_gap(text[at])) {
      ++at;
      continue;
    }
    text::TokenId id = 0;
    const auto [end, failed] = std::from_chars(text.data() + at, text.data() + text.size(), id);
    const std::size_t next = static_cast<std::size_t>(end - text.data());
    if (failed != std::errc{} || (next < text.size() && !is_gap(text[next])))
      return Error{Code::invalid, fmt::format("standard input, byte {}: expected a token id, a whole number", at)};
    if (id < 0 || id >= vocabulary)
      return Error{Code::invalid, fmt::format("standard input, byte {}: {} is no token: this vocabulary has 0 to {}", at, id, vocabulary - 1)};
    ids.push_back(id);
    at = next;
  }
  return ids;
}

struct TokenizeOptions {
  bool no_special = false, pieces = false, parse_special = false;
  void fields(auto&& field) {
    field("no_special", no_special, "Leave out the tokens the model puts around a text (BOS, EOS, CLS, SEP).");
    field("parse_special", parse_special, "Read control tokens written in the text, such as <|im_start|>, as tokens.");
    field("pieces", pieces, "Show each token's id and text, a line each.");
  }
};

Status tokenize_stdin(const std::string& model, const TokenizeOptions& options) {
  const auto tokenizer = TRY(open_tokenizer(model));
  const std::string text = TRY(read_stdin(kMaxInput));
  const auto ids = tokenizer->encode(text, {.add_special = !options.no_special, .parse_special = options.parse_special});
  std::string out;
  out.reserve(ids.size() * 6);
  for (const text::TokenId id : ids) {
    fmt::format_to(std::back_inserter(out), "{}", id);
    if (options.pieces) out.append("\t" + quoted(tokenizer->piece(id, /*special=*/true)) + "\n");
    else out.push_back(' ');
  }
  if (!options.pieces) {
    if (!ids.empty()) out.pop_back();
    out.push_back('\n');
  }
  std::fwrite(out.data(), 1, out.size(), stdout);
  return {};
}

struct DetokenizeOptions {
  bool special = false;
  void fields(auto&& field) { field("special", special, "Show control tokens by their names."); }
};

Status detokenize_stdin(const std::string& model, const DetokenizeOptions& options) {
  const auto tokenizer = TRY(open_tokenizer(model));
  const std::string input = TRY(read_stdin(kMaxInput));
  const auto ids = TRY(parse_ids(input, tokenizer->size()));
  const std::string text = tokenizer->decode(ids, options.special);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return {};
}

}  // namespace

int tokenize(const Words& words) {
  std::string model;
  TokenizeOptions options;
  CommandLine line{.name = "tokenize",
                   .summary = "Text on standard input to token ids, on one line.",
                   .examples = "Example:\n  echo -n 'Hello there' | ashlar tokenize model.gguf",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file or a Hugging Face folder, where one with a vocabulary alone will do, or the name of a pulled model.", .value = &model, .required = true}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = tokenize_stdin(model, options); !done) return fail("tokenize", done.error());
  return 0;
}

int detokenize(const Words& words) {
  std::string model;
  DetokenizeOptions options;
  CommandLine line{.name = "detokenize",
                   .summary = "Token ids on standard input to text. No newline is added.",
                   .examples = "Example:\n  echo 9906 1070 | ashlar detokenize model.gguf",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file or a Hugging Face folder, where one with a vocabulary alone will do, or the name of a pulled model.", .value = &model, .required = true}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = detokenize_stdin(model, options); !done) return fail("detokenize", done.error());
  return 0;
}

}  // namespace ashlar::cli
