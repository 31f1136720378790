#include "models/formats/token_list.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json_full.h"

namespace ashlar::models {

constexpr std::size_t kMaxTokens = 1 << 24, kMaxDepth = 32, kMaxMembers = 16'384;

// nlohmann's builder, with the two long members taken out of its hands.
class TokenBuilder : public nlohmann::detail::json_sax_dom_parser<Json> {
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;
  enum class Part { other, vocabulary, merges };

 public:
  TokenBuilder(Json& root, TokenList& list, bool whole)
      : Base(root, /*allow_exceptions=*/false), list_(list), part_(whole ? Part::vocabulary : Part::other) {}

  bool null() { return part_ == Part::other ? Base::null() : inner_ == 0 && leave(); }
  bool boolean(bool value) { return part_ == Part::other && Base::boolean(value); }
  bool number_integer(Json::number_integer_t value) {
    return part_ == Part::other ? Base::number_integer(value) : number(static_cast<double>(value));
  }
  bool number_unsigned(Json::number_unsigned_t value) {
    return part_ == Part::other ? Base::number_unsigned(value) : number(static_cast<double>(value));
  }
  bool number_float(Json::number_float_t value, const std::string& text) {
    return part_ == Part::other ? Base::number_float(value, text) : number(value);
  }
  bool string(std::string& value) { return part_ == Part::other ? Base::string(value) : take(value); }
  bool start_object(std::size_t n) {
    if (part_ != Part::other) return part_ == Part::vocabulary && inner_++ == 0 && (by_name_ = true);
    return open() && Base::start_object(n);
  }
  bool start_array(std::size_t n) {
    if (part_ != Part::other) return !by_name_ && inner_++ < 2;
    return open() && Base::start_array(n);
  }
  bool end_object() { return part_ != Part::other ? close() : (members_.pop_back(), Base::end_object()); }
  bool end_array() {
    if (part_ != Part::other) return close();
    members_.pop_back();
    return Base::end_array();
  }
  bool key(std::string& text) {
    if (part_ == Part::vocabulary) return pending_ = text, true;
    if (part_ == Part::merges || ++members_.back() > kMaxMembers) return false;
    if (members_.size() == 1) in_model_ = text == "model";
    if (!Base::key(text)) return false;
    if (members_.size() != 2 || !in_model_ || (text != "vocab" && text != "merges")) return true;
    part_ = text == "vocab" ? Part::vocabulary : Part::merges;
    by_name_ = false;
    return Base::null();
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) { return false; }

 private:
  bool open() {
    members_.push_back(0);
    return members_.size() <= kMaxDepth;
  }
  bool leave() {
    part_ = Part::other;
    return true;
  }
  // The end of the part, of an element of a list, or of one pair.
  bool close() {
    if (--inner_ == 0) return leave();
    if (part_ == Part::merges) {
      if (pair_.size() != 2) return false;
      list_.add_merge(pair_[0] + " " + pair_[1]);
      pair_.clear();
    }
    return list_.merges_.size() <= kMaxTokens;
  }
  // By name: its id; in a list: the score of the piece before it.
  bool number(double value) {
    if (part_ != Part::vocabulary || inner_ == 0 || list_.tokens_.size() >= kMaxTokens) return false;
    if (by_name_) {
      if (value < 0 || value >= static_cast<double>(kMaxTokens)) return false;
      list_.tokens_.push_back({std::move(pending_), static_cast<std::uint64_t>(value), 0});
      return true;
    }
    if (inner_ != 2 || !piece_) return false;
    piece_ = false;
    list_.scored_ = true;
    list_.tokens_.push_back({std::move(pending_), list_.tokens_.size(), static_cast<float>(value)});
    return true;
  }
  bool take(std::string& value) {
    if (part_ == Part::merges) {
      if (inner_ == 1) return list_.add_merge(std::move(value)), list_.merges_.size() <= kMaxTokens;
      return inner_ == 2 && pair_.size() < 2 && (pair_.push_back(std::move(value)), true);
    }
    if (by_name_ || inner_ != 2 || piece_) return false;
    pending_ = std::move(value);
    return piece_ = true;
  }

  TokenList& list_;
  std::vector<std::size_t> members_;  // of each open object or list outside the two parts
  bool in_model_ = false;
  Part part_;
  int inner_ = 0;         // open objects and lists within the part
  bool by_name_ = false;  // the vocabulary is an object of ids; else a list of pieces and scores
  bool piece_ = false;    // pending_ waits for its score
  std::string pending_;
  std::vector<std::string> pair_;
};

Result<Json> TokenList::read(std::string_view text, bool whole, std::string_view name) {
  Json root;
  TokenBuilder builder(root, *this, whole);
  if (!Json::sax_parse(text.begin(), text.end(), &builder) || (!whole && !root.is_object()))
    return Error{Code::corrupt,
                 fmt::format("{}: not the JSON of a tokenizer (cut off, nested too deep, or of another form)", name)};
  if (tokens_.empty()) return Error{Code::corrupt, fmt::format("{}: there is no vocabulary", name)};
  return root;
}

Status TokenList::move_to(text::Vocabulary& v, const Json& added, std::string_view name) {
  const auto corrupt = [&](std::string what) { return Error{Code::corrupt, fmt::format("{}: {}", name, what)}; };
  struct Added {
    std::uint64_t id;
    std::string text;
    bool special;
  };
  std::vector<Added> more;
  for (const Json& token : added) {
    if (!token.is_object() || !token.contains("id") || !token["id"].is_number_unsigned() ||
        !token.contains("content") || !token["content"].is_string())
      return corrupt("an added token has no id or no content");
    more.push_back({token["id"].get<std::uint64_t>(), token["content"].get<std::string>(),
                    token.contains("special") && token["special"] == true});
  }
  std::uint64_t size = 0;
  for (const Token& token : tokens_) size = std::max(size, token.id + 1);
  for (const Added& token : more) size = std::max(size, token.id >= kMaxTokens ? kMaxTokens + 1 : token.id + 1);
  if (size > 4 * (tokens_.size() + more.size()) + 65'536 || size > kMaxTokens)
    return corrupt(fmt::format("ids reach {} for {} tokens", size - 1, tokens_.size() + more.size()));
  v.tokens.assign(size, std::string());
  v.types.assign(size, text::TokenType::unused);
  if (scored_) v.scores.assign(size, 0.0f);
  for (Token& token : tokens_) {
    if (v.types[token.id] != text::TokenType::unused)
      return corrupt(fmt::format("two tokens have the id {}", token.id));
    v.types[token.id] = text::TokenType::normal;
    v.tokens[token.id] = std::move(token.text);
    if (scored_) v.scores[token.id] = token.score;
  }
  for (Added& token : more) {
    if (v.types[token.id] != text::TokenType::unused && v.tokens[token.id] != token.text)
      return corrupt(
          fmt::format("the added token \"{}\" has the id {} of \"{}\"", token.text, token.id, v.tokens[token.id]));
    v.tokens[token.id] = std::move(token.text);
    v.types[token.id] = token.special ? text::TokenType::control : text::TokenType::user_defined;
  }
  for (std::uint64_t i = 0; i < size; ++i)
    if (v.types[i] == text::TokenType::unused && v.tokens[i].empty()) v.tokens[i] = fmt::format("[unused id {}]", i);
  v.merges = std::move(merges_);
  tokens_.clear();
  return {};
}

text::TokenId find_token(const text::Vocabulary& v, std::string_view token) {
  const auto found = std::ranges::find(v.tokens, token);
  return token.empty() || found == v.tokens.end() ? -1 : static_cast<text::TokenId>(found - v.tokens.begin());
}

void mark_words(text::Vocabulary& v, std::string_view mark) {
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    std::string& token = v.tokens[i];
    if (v.types[i] != text::TokenType::normal) continue;
    if (token.starts_with(mark) && token.size() > mark.size())
      token.erase(0, mark.size());
    else
      token.insert(0, "\u2581");
  }
}

std::optional<std::string> decode_base64(std::string_view text) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if ((count += 6) >= 8) bytes.push_back(static_cast<char>(bits >> (count -= 8) & 255));
  }
  return bytes;
}

}  // namespace ashlar::models
