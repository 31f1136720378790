#include "models/formats/tekken.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "base/json_full.h"
#include "models/formats/token_list.h"
#include "text/byte_alphabet.h"

namespace ashlar::models {
namespace {

constexpr std::size_t kMaxFile = 64 << 20, kMaxTokens = 1 << 20, kMaxTokenBytes = 512;
constexpr std::size_t kMostLookups = 1 << 26;
// As text/ has it under the name "tekken".
constexpr std::string_view kPattern =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
// What files have that do not list them.
constexpr std::string_view kSpecials[] = {"<unk>",
                                          "<s>",
                                          "</s>",
                                          "[INST]",
                                          "[/INST]",
                                          "[AVAILABLE_TOOLS]",
                                          "[/AVAILABLE_TOOLS]",
                                          "[TOOL_RESULTS]",
                                          "[/TOOL_RESULTS]",
                                          "[TOOL_CALLS]",
                                          "[IMG]",
                                          "<pad>",
                                          "[IMG_BREAK]",
                                          "[IMG_END]",
                                          "[PREFIX]",
                                          "[MIDDLE]",
                                          "[SUFFIX]",
                                          "[SYSTEM_PROMPT]",
                                          "[/SYSTEM_PROMPT]",
                                          "[TOOL_CONTENT]"};

using Ranks = std::unordered_map<std::string_view, std::size_t>;

class Tekken {
 public:
  Tekken(const Json& root, std::string_view name) : root_(root), name_(name) {}

  Result<text::Vocabulary> read() {
    TRY(read_sizes());
    TRY(read_specials());
    TRY(read_tokens());
    TRY(find_merges());
    v_.model = "gpt2";
    v_.pre = "tekken";
    v_.unknown = find_token(v_, "<unk>");
    v_.bos = find_token(v_, "<s>");
    v_.eos = find_token(v_, "</s>");
    v_.padding = find_token(v_, "<pad>");
    v_.add_bos = v_.bos >= 0;
    v_.add_space_prefix = false;
    return std::move(v_);
  }

 private:
  Error corrupt(std::string what) const { return {Code::corrupt, fmt::format("{}: {}", name_, std::move(what))}; }

  static const Json* member(const Json& json, std::string_view key) {
    const auto at = json.is_object() ? json.find(key) : json.end();
    return json.is_object() && at != json.end() && !at->is_null() ? &*at : nullptr;
  }
  static std::string_view text_of(const Json& json, std::string_view key) {
    const Json* value = member(json, key);
    return value != nullptr && value->is_string() ? std::string_view(*value->get_ptr<const std::string*>()) : "";
  }
  static std::size_t number_of(const Json& json, std::string_view key, std::size_t otherwise) {
    const Json* value = member(json, key);
    return value != nullptr && value->is_number_unsigned() ? value->get<std::size_t>() : otherwise;
  }

  Status read_sizes() {
    const Json* config = member(root_, "config");
    const Json* vocabulary = member(root_, "vocab");
    if (config == nullptr || vocabulary == nullptr || !vocabulary->is_array())
      return corrupt("there are no \"config\" and \"vocab\"");
    if (text_of(*config, "pattern") != kPattern)
      return Error{Code::unsupported, fmt::format("{}: words are cut by another pattern than Tekken's: {}", name_,
                                                  text_of(*config, "pattern"))};
    specials_ = number_of(*config, "default_num_special_tokens", 1000);
    const std::size_t size = number_of(*config, "default_vocab_size", specials_ + vocabulary->size());
    if (specials_ > kMaxTokens || size < specials_ || size > kMaxTokens)
      return corrupt(fmt::format("{} tokens, {} of them special, are not possible", size, specials_));
    // The file may list more than the model knows.
    words_ = std::min(size - specials_, vocabulary->size());
    return {};
  }

  Status read_specials() {
    for (std::size_t i = 0; i < specials_; ++i) v_.tokens.push_back(fmt::format("<SPECIAL_{}>", i));
    const Json* listed = member(root_, "special_tokens");
    for (std::size_t i = 0; listed == nullptr && i < std::min(specials_, std::size(kSpecials)); ++i)
      v_.tokens[i] = kSpecials[i];
    if (listed != nullptr)
      for (const Json& token : *listed) {
        const std::size_t rank = number_of(token, "rank", specials_);
        const std::string_view text = text_of(token, "token_str");
        if (rank >= specials_ || text.empty()) return corrupt("a special token has no rank or no text");
        v_.tokens[rank] = text;
      }
    v_.types.assign(specials_, text::TokenType::control);
    return {};
  }

  Status read_tokens() {
    const Json& vocabulary = *member(root_, "vocab");
    bytes_.reserve(words_);
    for (std::size_t rank = 0; rank < words_; ++rank) {
      const auto bytes = decode_base64(text_of(vocabulary[rank], "token_bytes"));
      if (!bytes || bytes->empty() || bytes->size() > kMaxTokenBytes ||
          number_of(vocabulary[rank], "rank", rank) != rank)
        return corrupt(fmt::format("token {} has no bytes, more than {}, or another rank", rank, kMaxTokenBytes));
      bytes_.push_back(*bytes);
      v_.tokens.push_back(text::spelled(*bytes));
      v_.types.push_back(text::TokenType::normal);
    }
    return {};
  }

  // Each token is what its bytes come to when pairs are joined, the lowest rank first, as far as those before it go.
  Status find_merges() {
    Ranks ranks;
    for (std::size_t rank = 0; rank < words_; ++rank)
      if (!ranks.emplace(bytes_[rank], rank).second) return corrupt(fmt::format("token {} stands twice", rank));
    std::size_t lookups = 0;
    std::vector<std::size_t> ends;  // of the parts
    for (std::size_t own = 0; own < words_; ++own) {
      const std::string_view token = bytes_[own];
      ends.clear();
      for (std::size_t i = 0; i <= token.size(); ++i) ends.push_back(i);
      while (ends.size() > 3) {
        std::size_t best = own, at = 0;
        for (std::size_t i = 0; i + 2 < ends.size(); ++i) {
          const auto found = ranks.find(token.substr(ends[i], ends[i + 2] - ends[i]));
          if (found != ranks.end() && found->second < best) best = found->second, at = i;
        }
        if ((lookups += ends.size()) > kMostLookups)
          return Error{Code::too_large, fmt::format("{}: the tokens are too long to find their merges", name_)};
        if (best == own) break;
        ends.erase(ends.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      }
      if (ends.size() != 3) continue;  // a byte, or what no merge leads to
      v_.merges.push_back(text::spelled(token.substr(0, ends[1])) + " " + text::spelled(token.substr(ends[1])));
    }
    return {};
  }

  const Json& root_;
  std::string_view name_;
  std::size_t specials_ = 0, words_ = 0;
  std::vector<std::string> bytes_;
  text::Vocabulary v_;
};

}  // namespace

Result<text::Vocabulary> read_tekken(std::string_view text, std::string_view name) {
  if (text.size() > kMaxFile)
    return Error{Code::too_large, fmt::format("{}: {} bytes; at most {} are expected", name, text.size(), kMaxFile)};
  const auto root = parse_json(text, {.depth = 16, .elements = kMaxTokens});
  if (!root) return Error{Code::corrupt, fmt::format("{}: {}", name, root.error().message)};
  return Tekken(*root, name).read();
}

}  // namespace ashlar::models
