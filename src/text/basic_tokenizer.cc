#include "text/basic_tokenizer.h"

#include <fmt/format.h>

#include <cmath>

namespace ashlar::text {
namespace {

// A piece of text longer than this is no token of a real vocabulary, and would
// let a file make matching slow.
constexpr std::size_t kMaxTokenBytes = 4096;
constexpr std::size_t kMaxTokens = std::size_t{1} << 24;

Error corrupt(std::string message) { return {Code::corrupt, "the vocabulary " + std::move(message)}; }

// "<0x0A>" to 10; -1: not of this form.
int byte_value(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  const int high = digit(token[3]), low = digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// Tokens that steer a model. Some files call them user-defined, and then anybody
// who writes one into a text would end the answer or begin to fill in the middle.
constexpr std::string_view kSteering[] = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<turn|>", "<|tool_response>", "<EOT>",
    "_<EOT>", "[EOT]", "[EOS]", "[e~[", "<end_of_utterance>", "<｜end▁of▁sentence｜>",
    // fill in the middle: prefix, suffix, middle, padding, repository, file
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
    "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
    "<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>",
    "▁<MID>", "<|code_middle|>", "<|middle|>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"};

}  // namespace

BasicTokenizer::BasicTokenizer(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)), index_(vocabulary_.tokens.size(), TokenTexts{&vocabulary_.tokens}) {}

Status BasicTokenizer::prepare() {
  TRY(check());
  TRY(index_tokens());
  find_byte_tokens();
  lay_out_pieces();
  find_ends();
  return {};
}

Status BasicTokenizer::check() const {
  const Vocabulary& v = vocabulary_;
  if (v.tokens.empty()) return corrupt("has no tokens");
  if (v.tokens.size() > kMaxTokens)
    return corrupt(fmt::format("has {} tokens; {} are allowed", v.tokens.size(), kMaxTokens));
  if (!v.scores.empty() && v.scores.size() != v.tokens.size())
    return corrupt(fmt::format("has {} scores for {} tokens", v.scores.size(), v.tokens.size()));
  if (!v.types.empty() && v.types.size() != v.tokens.size())
    return corrupt(fmt::format("has {} token types for {} tokens", v.types.size(), v.tokens.size()));
  for (std::size_t i = 0; i < v.scores.size(); ++i)
    if (!std::isfinite(v.scores[i])) return corrupt(fmt::format("gives token {} a score that is no number", i));
  const struct {
    std::string_view name;
    TokenId id;
  } ids[] = {{"bos", v.bos},         {"eos", v.eos},         {"eot", v.eot},
             {"eom", v.eom},         {"unknown", v.unknown}, {"separator", v.separator},
             {"padding", v.padding}, {"cls", v.cls},         {"mask", v.mask}};
  for (const auto& [name, id] : ids)
    if (id < -1 || id >= size())
      return corrupt(fmt::format("says that its {} token is {}; it has {} tokens", name, id, v.tokens.size()));
  for (const TokenId id : v.end_of_generation)
    if (!in_range(id)) return corrupt(fmt::format("ends answers with token {}; it has {} tokens", id, v.tokens.size()));
  std::size_t total = 0;
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    if (v.tokens[i].size() > kMaxTokenBytes)
      return corrupt(
          fmt::format("has a token of {} bytes (number {}); {} are allowed", v.tokens[i].size(), i, kMaxTokenBytes));
    total += v.tokens[i].size();
  }
  if (total > 0x7FFFFFFF) return corrupt(fmt::format("has {} bytes of tokens; 2 GiB are allowed", total));
  return {};
}

Status BasicTokenizer::index_tokens() {
  for (TokenId id = 0; id < size(); ++id) {
    if (token(id).empty()) continue;  // a hole in the numbering
    if (const TokenId same = index_.insert(id); same >= 0)
      return corrupt(fmt::format("has the same token twice, as {} and as {}", same, id));
  }
  for (const std::string_view name : kSteering)
    if (const TokenId id = find(name); id >= 0 && type(id) == TokenType::user_defined)
      vocabulary_.types[static_cast<std::size_t>(id)] = TokenType::control;
  std::vector<PrefixMatcher::Entry> user_defined, special;
  for (TokenId id = 0; id < size(); ++id) {
    if (token(id).empty()) continue;
    if (type(id) == TokenType::user_defined) user_defined.push_back({token(id), id});
    if (type(id) == TokenType::user_defined || type(id) == TokenType::control || type(id) == TokenType::unknown)
      special.push_back({token(id), id});
  }
  phi3_ = vocabulary_.model == "llama" && find("<|placeholder1|>") >= 0 && find("<|assistant|>") >= 0;
  user_defined_ = PrefixMatcher(std::move(user_defined));
  special_ = PrefixMatcher(std::move(special));
  return {};
}

void BasicTokenizer::find_byte_tokens() {
  byte_ids_.fill(-1);
  if (vocabulary_.types.empty()) return;
  for (TokenId id = 0; id < size(); ++id)
    if (type(id) == TokenType::byte)
      if (const int byte = byte_value(token(id)); byte >= 0) byte_ids_[static_cast<std::size_t>(byte)] = id;
}

void BasicTokenizer::lay_out_pieces() {
  offsets_.reserve(vocabulary_.tokens.size() + 1);
  bytes_.reserve(vocabulary_.tokens.size() * 8);
  offsets_.push_back(0);
  for (TokenId id = 0; id < size(); ++id) {
    switch (type(id)) {
      case TokenType::control:
      case TokenType::unknown:
      case TokenType::user_defined:
        bytes_ += token(id);
        break;
      case TokenType::byte:
        if (const int byte = byte_value(token(id)); byte >= 0) {
          bytes_ += static_cast<char>(byte);
          break;
        }
        [[fallthrough]];
      default:
        append_piece(id, bytes_);
    }
    offsets_.push_back(static_cast<std::uint32_t>(bytes_.size()));
  }
}

void BasicTokenizer::find_ends() {
  ends_.assign(vocabulary_.tokens.size(), false);
  const auto mark = [&](TokenId id, bool end) {
    if (in_range(id)) ends_[static_cast<std::size_t>(id)] = end;
  };
  for (const TokenId id : vocabulary_.end_of_generation) mark(id, true);
  // In OpenAI's harmony format <|end|> ends a message; the answer goes on.
  if (find("<|return|>") >= 0 && find("<|call|>") >= 0) mark(find("<|end|>"), false);
  for (const TokenId id : {vocabulary_.eos, vocabulary_.eot, vocabulary_.eom}) mark(id, true);
}

std::optional<TokenId> BasicTokenizer::first_id() const {
  if (!vocabulary_.add_bos || vocabulary_.bos < 0) return std::nullopt;
  return vocabulary_.bos;
}

std::optional<TokenId> BasicTokenizer::last_id() const {
  if (!vocabulary_.add_eos || vocabulary_.eos < 0) return std::nullopt;
  return vocabulary_.eos;
}

std::vector<TokenId> BasicTokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 4 + 4);
  if (const auto id = first_id(); options.add_special && id) ids.push_back(*id);
  const PrefixMatcher& special = options.parse_special ? special_ : user_defined_;
  std::size_t done = 0;
  bool beginning = true;
  const auto words_to = [&](std::size_t end) {
    if (end == done) return;
    encode_words(text.substr(done, end - done), beginning, ids);
    beginning = false;
  };
  if (!special.empty()) {
    for (std::size_t at = special.candidate(text, 0); at < text.size();) {
      const PrefixMatcher::Match match = special.longest(text.substr(at));
      if (match.id >= 0) {
        words_to(at);
        ids.push_back(match.id);
        beginning = !vocabulary_.prefix_once;
        at += match.length;
        if (swallows_space(match.id)) at = std::min(text.find_first_not_of(" \t\n\v\f\r", at), text.size());
        done = at;
      } else {
        ++at;
      }
      at = special.candidate(text, at);
    }
  }
  words_to(text.size());
  if (const auto id = last_id(); options.add_special && id) ids.push_back(*id);
  return ids;
}

bool BasicTokenizer::swallows_space(TokenId id) const {
  return phi3_ && id != vocabulary_.unknown && id != vocabulary_.bos && token(id) != "<|endoftext|>";
}

std::string_view BasicTokenizer::piece(TokenId id, bool special) const {
  if (!in_range(id)) return {};
  if (!special && (type(id) == TokenType::control || type(id) == TokenType::unknown)) return {};
  return bytes(id);
}

std::string BasicTokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string text;
  text.reserve(ids.size() * 4);
  const bool prefixed = space_prefixed();
  bool drop_space = prefixed;
  for (const TokenId id : ids) {
    std::string_view next = piece(id, special);
    if (drop_space && next.starts_with(' ') && !is_special(id)) next.remove_prefix(1);
    text += next;
    drop_space = prefixed && is_special(id) && !(vocabulary_.prefix_once && !text.empty());
  }
  return text;
}

}  // namespace ashlar::text
