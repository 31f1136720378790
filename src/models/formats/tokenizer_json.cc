#include "models/formats/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "base/json_full.h"
#include "models/formats/token_list.h"

namespace ashlar::models {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";

Error unsupported(std::string_view name, std::string what) {
  return Error{Code::unsupported, fmt::format("{}: {}", name, std::move(what))};
}

std::string_view string_of(const Json& json, const char* key) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  return json.is_object() && found != json.end() && found->is_string()
             ? std::string_view(*found->get_ptr<const std::string*>())
             : std::string_view();
}

bool flag_of(const Json& json, const char* key, bool otherwise) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  return json.is_object() && found != json.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

const Json& member(const Json& json, const char* key) {
  static const Json kNull;
  const auto found = json.is_object() ? json.find(key) : json.end();
  return json.is_object() && found != json.end() ? *found : kNull;
}

// A step, or the steps of a sequence of them, in order.
std::vector<const Json*> steps_of(const Json& json, const char* list) {
  std::vector<const Json*> steps;
  if (string_of(json, "type") == "Sequence") {
    for (const Json& step : member(json, list))
      for (const Json* inner : steps_of(step, list)) steps.push_back(inner);
  } else if (json.is_object()) {
    steps.push_back(&json);
  }
  return steps;
}

// --- byte-level BPE -----------------------------------------------------------

#define ASHLAR_CL100K(digits)                                                \
  "split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\nbytes\n"
#define ASHLAR_O200K(suffix, digits)                                                                             \
  "split [^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" suffix       \
  "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" suffix "|" digits \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\nbytes\n"

constexpr std::string_view kLettersBegin = R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓ)", kDeepSeekLetters = R"(\s?[A-Za-zµ...]+)";
#define ASHLAR_DEEPSEEK_LLM                                                                       \
  "split [\\r\\n]\nsplit \\s?[A-Za-zµ...]+\nsplit \\s?[!-/:-~！-／：-～‘-‟　-。]+\nsplit \\s+$\n" \
  "split [一-龥ࠀ-一가-퟿]+\n"

// Pre-tokenizers as their steps are written, and the families of text/ that cut so: with merges always, and where a
// word that is a token is left whole. Where only one of the two has a name, the vocabulary says the difference.
constexpr struct {
  std::string_view steps, family, ignoring_merges;
} kPatterns[] = {
    {"words\nbytes\n", "gpt-2", ""},
    {"digits\nwords\nbytes\n", "starcoder", ""},
    {"split 's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+\nbytes\n", "gpt-2", ""},
    {ASHLAR_CL100K("\\p{N}"), "qwen2", ""},
    {ASHLAR_CL100K("\\p{N}{1,3}"), "dbrx", "llama-bpe"},
    {ASHLAR_O200K("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\p{N}{1,3}"), "gpt-4o", "granite-embed-multi-97m"},
    {ASHLAR_O200K("", "\\p{N}"), "", "tekken"},
    {ASHLAR_DEEPSEEK_LLM "digits\nbytes\n", "deepseek-llm", ""},
    {ASHLAR_DEEPSEEK_LLM "split \\p{N}+\nbytes\n", "deepseek-llm", ""},
    {"split [\\r\\n]\nsplit \\s?\\p{L}+\nsplit \\s?\\p{P}+\nsplit [一-龥ࠀ-一가-퟿]+\ndigits\nbytes\n",
     "deepseek-coder", ""},
    {"split \\p{N}{1,3}\nsplit [一-龥぀-ゟ゠-ヿ]+\n"
     "split [!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
     "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\nbytes\n",
     "deepseek-v3", ""},
};

// A pattern without characters that one writer escapes and another does not; DeepSeek's long list of letters shortened.
std::string plainly_written(std::string_view pattern) {
  if (pattern.starts_with(kLettersBegin) && pattern.ends_with("]+")) return std::string(kDeepSeekLetters);
  std::string out;
  for (const char c : pattern)
    if (c == '\r' || c == '\n')
      out += c == '\r' ? "\\r" : "\\n";
    else
      out += c;
  return out;
}

// The steps in the notation of kPatterns.
Result<std::string> describe(const std::vector<const Json*>& steps, std::string_view name) {
  std::string text;
  const auto splits = std::ranges::count(steps, "Split", [](const Json* s) { return string_of(*s, "type"); });
  for (const Json* step : steps) {
    const std::string_view type = string_of(*step, "type"), behavior = string_of(*step, "behavior");
    const bool inverted = flag_of(*step, "invert", false);
    // What is between the matches of these patterns is nothing, so it may go.
    const bool keeps_all = behavior == "Isolated" ? !inverted : behavior == "Removed" && inverted && splits == 1;
    if (type == "ByteLevel") {
      if (flag_of(*step, "add_prefix_space", true))
        return unsupported(name, "a ByteLevel pre-tokenizer with add_prefix_space is not supported");
      text += flag_of(*step, "use_regex", true) ? "words\nbytes\n" : "bytes\n";
    } else if (type == "Digits" && flag_of(*step, "individual_digits", false)) {
      text += "digits\n";
    } else if (type == "Split" && keeps_all) {
      text += fmt::format("split {}\n", plainly_written(string_of(member(*step, "pattern"), "Regex")));
    } else {
      return unsupported(name, fmt::format("the pre-tokenizer step \"{}\" is not supported in byte-level BPE", type));
    }
  }
  return text;
}

Status set_byte_level(const Json& root, const std::vector<const Json*>& steps, std::string_view name,
                      text::Vocabulary& v) {
  for (const Json* step : steps_of(member(root, "normalizer"), "normalizers"))
    if (const std::string_view type = string_of(*step, "type"); type == "NFC")
      v.compose = true;
    else
      return unsupported(name, fmt::format("the normalizer \"{}\" is not supported in byte-level BPE", type));
  const std::string described = TRY(describe(steps, name));
  const bool ignoring = flag_of(member(root, "model"), "ignore_merges", false);
  for (const auto& pattern : kPatterns) {
    if (pattern.steps != described) continue;
    const std::string_view own = ignoring ? pattern.ignoring_merges : pattern.family;
    v.model = "gpt2";
    v.pre = !own.empty() ? own : ignoring ? pattern.family : pattern.ignoring_merges;
    if (own.empty()) v.ignore_merges = ignoring;
    return {};
  }
  return unsupported(name, fmt::format("no known family cuts words by this pre-tokenizer:\n{}", described));
}

// --- SentencePiece in this format ----------------------------------------------

// Whether a space is put before a text: by a normalizer, or by the pre-tokenizer.
Result<bool> space_prefix(const Json& root, const std::vector<const Json*>& steps, std::string_view name,
                          text::Vocabulary& v) {
  bool prefix = false;
  for (const Json* step : steps_of(member(root, "normalizer"), "normalizers")) {
    const std::string_view type = string_of(*step, "type");
    if (type == "Prepend" && string_of(*step, "prepend") == kSpaceMark) {
      prefix = true;
    } else if (type == "Precompiled") {
      const auto charsmap = decode_base64(string_of(*step, "precompiled_charsmap"));
      if (!charsmap) return Error{Code::corrupt, fmt::format("{}: precompiled_charsmap is not base64", name)};
      v.precompiled_charsmap = *charsmap;
    } else if (type == "Replace") {
      const std::string_view of = string_of(member(*step, "pattern"), "String"), with = string_of(*step, "content");
      const bool many_spaces = string_of(member(*step, "pattern"), "Regex") == " {2,}";
      if (many_spaces) v.remove_extra_whitespaces = true;
      if (!many_spaces && !(of == " " && with == kSpaceMark))
        return unsupported(name, fmt::format("the normalizer that replaces \"{}\" is not supported", of));
    } else if (type != "NFC" && type != "NFKC" && type != "Strip") {
      return unsupported(name, fmt::format("the normalizer \"{}\" is not supported with U+2581 for spaces", type));
    }
  }
  for (const Json* step : steps) {
    const std::string_view type = string_of(*step, "type"), scheme = string_of(*step, "prepend_scheme");
    if (type == "WhitespaceSplit") continue;
    // Gemma's: of spaces none is left by then.
    if (type == "Split" && string_of(member(*step, "pattern"), "String") == " ") continue;
    if (type != "Metaspace")
      return unsupported(name,
                         fmt::format("the pre-tokenizer step \"{}\" is not supported with U+2581 for spaces", type));
    prefix = scheme.empty() ? flag_of(*step, "add_prefix_space", true) : scheme != "never";
    v.prefix_once = scheme == "first";
  }
  return prefix;
}

// SentencePiece joins the pair whose token has the best score; here the best merge comes first.
void score_by_merges(text::Vocabulary& v) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t i = 0; i < v.tokens.size(); ++i) ids.emplace(v.tokens[i], i);
  v.scores.assign(v.tokens.size(), -static_cast<float>(v.merges.size()) - 1);
  for (std::size_t rank = v.merges.size(); rank-- > 0;) {
    std::string joined = v.merges[rank];
    if (const std::size_t space = joined.find(' ', 1); space != std::string::npos) joined.erase(space, 1);
    if (const auto found = ids.find(joined); found != ids.end()) v.scores[found->second] = -static_cast<float>(rank);
  }
  v.merges.clear();
}

Status set_sentencepiece(const Json& root, const std::vector<const Json*>& steps, std::string_view name,
                         text::Vocabulary& v) {
  v.model = "llama";
  v.add_space_prefix = TRY(space_prefix(root, steps, name, v));
  score_by_merges(v);
  if (flag_of(member(root, "model"), "byte_fallback", false))
    for (std::size_t i = 0; i < v.tokens.size(); ++i)
      if (const std::string& t = v.tokens[i]; t.size() == 6 && t.starts_with("<0x") && t.ends_with('>'))
        v.types[i] = text::TokenType::byte;
  return {};
}

// --- WordPiece -------------------------------------------------------------------

Status set_wordpiece(const Json& root, std::string_view name, text::Vocabulary& v) {
  const std::string_view mark = string_of(member(root, "model"), "continuing_subword_prefix");
  if (mark != "##") return unsupported(name, fmt::format("WordPiece with the continuation mark \"{}\"", mark));
  for (const Json* step : steps_of(member(root, "normalizer"), "normalizers")) {
    if (const std::string_view type = string_of(*step, "type"); type != "BertNormalizer")
      return unsupported(name, fmt::format("the normalizer \"{}\" is not supported in WordPiece", type));
    if (!flag_of(*step, "handle_chinese_chars", true))
      return unsupported(name, "a BertNormalizer that does not cut at Chinese characters is not supported");
    v.lower_case = flag_of(*step, "lowercase", true);
    if (const Json& accents = member(*step, "strip_accents"); accents.is_boolean())
      v.strip_accents = accents.get<bool>();
  }
  v.model = "bert";
  mark_words(v, mark);
  return {};
}

// --- all of them -----------------------------------------------------------------

// What is put around a text: the tokens before and after the place of sequence A.
void set_specials(const Json& root, text::Vocabulary& v) {
  for (const Json* step : steps_of(member(root, "post_processor"), "processors")) {
    const std::string_view type = string_of(*step, "type");
    std::string_view before, after;
    if (type == "TemplateProcessing") {
      bool passed = false;
      for (const Json& part : member(*step, "single")) {
        if (part.contains("Sequence")) passed = true;
        const std::string_view token = string_of(member(part, "SpecialToken"), "id");
        if (!token.empty()) (passed ? after : before) = token;
      }
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      const Json &cls = member(*step, "cls"), &sep = member(*step, "sep");
      if (cls.is_array() && !cls.empty() && cls[0].is_string()) before = *cls[0].get_ptr<const std::string*>();
      if (sep.is_array() && !sep.empty() && sep[0].is_string()) after = *sep[0].get_ptr<const std::string*>();
    }
    if (const text::TokenId id = find_token(v, before); id >= 0)
      (v.model == "bert" ? v.cls : v.bos) = id, v.add_bos = true;
    if (const text::TokenId id = find_token(v, after); id >= 0)
      (v.model == "bert" ? v.separator : v.eos) = id, v.add_eos = true;
  }
}

}  // namespace

Result<text::Vocabulary> read_tokenizer_json(std::string_view text, std::string_view name) {
  TokenList list;
  const Json root = TRY(list.read(text, /*whole=*/false, name));
  const Json& model = member(root, "model");
  if (!model.is_object()) return Error{Code::corrupt, fmt::format("{}: there is no \"model\"", name)};
  text::Vocabulary v;
  TRY(list.move_to(v, member(root, "added_tokens"), name));
  const std::vector<const Json*> steps = steps_of(member(root, "pre_tokenizer"), "pretokenizers");
  const std::string_view kind = string_of(model, "type");
  const bool byte_level =
      std::ranges::any_of(steps, [](const Json* s) { return string_of(*s, "type") == "ByteLevel"; });
  v.add_space_prefix = false;
  if (kind == "WordPiece") {
    TRY(set_wordpiece(root, name, v));
  } else if (kind == "Unigram") {
    v.model = "t5";
    v.add_space_prefix = TRY(space_prefix(root, steps, name, v));
    const Json& unknown = member(model, "unk_id");
    if (unknown.is_number_unsigned() && unknown.get<std::uint64_t>() < v.tokens.size())
      v.unknown = unknown.get<text::TokenId>();
  } else if ((kind == "BPE" || kind.empty()) && byte_level) {
    TRY(set_byte_level(root, steps, name, v));
  } else if (kind == "BPE" || kind.empty()) {
    TRY(set_sentencepiece(root, steps, name, v));
  } else {
    return unsupported(name, fmt::format("the tokenizer model \"{}\"; BPE, Unigram and WordPiece are supported", kind));
  }
  if (const text::TokenId unknown = find_token(v, string_of(model, "unk_token")); unknown >= 0) v.unknown = unknown;
  if (v.unknown >= 0 && (v.model == "llama" || v.model == "t5"))
    v.types[static_cast<std::size_t>(v.unknown)] = text::TokenType::unknown;
  set_specials(root, v);
  return v;
}

Result<text::Vocabulary> read_vocab_and_merges(std::string_view vocab, std::string_view merges, std::string_view pre,
                                               std::string_view name) {
  TokenList list;
  TRY(list.read(vocab, /*whole=*/true, name));
  for (bool first = true; !merges.empty(); first = false) {
    const std::size_t end = std::min(merges.find('\n'), merges.size());
    std::string_view line = merges.substr(0, end);
    merges.remove_prefix(std::min(end + 1, merges.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(first && line.starts_with("#version"))) list.add_merge(std::string(line));
  }
  text::Vocabulary v;
  TRY(list.move_to(v, Json(), name));
  v.model = "gpt2";
  v.pre = pre;
  v.add_space_prefix = false;
  return v;
}

}  // namespace ashlar::models
