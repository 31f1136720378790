#include "models/formats/hf_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "models/formats/sentencepiece_model.h"
#include "models/formats/tekken.h"
#include "models/formats/token_list.h"
#include "models/formats/tokenizer_json.h"

namespace ashlar::models {
namespace {

using text::TokenType;

constexpr const char* kFiles[] = {"tokenizer.json", "tekken.json", "tokenizer.model", "sentencepiece.bpe.model",
                                  "vocab.json",     "merges.txt",  "vocab.txt"};

Error another_class(const TextFolder& folder, std::string_view file, std::string_view kind,
                    std::string_view supported) {
  return Error{Code::unsupported,
               fmt::format("{}: {} with the tokenizer class \"{}Tokenizer\" is not supported; {} are; or add "
                           "tokenizer.json",
                           folder.path.string(), file, kind, supported)};
}

// What the class is told of capitals and accents stands above the file.
void set_cases(const TextSettings& settings, text::Vocabulary& v) {
  if (v.model != "bert" || settings.kind != "Bert") return;
  if (const auto lower = flag_of(settings.json, "do_lower_case")) v.lower_case = lower;
  if (const auto strip = flag_of(settings.json, "strip_accents")) v.strip_accents = strip;
}

Result<text::Vocabulary> read_spm(const TextFolder& folder, const TextSettings& settings, std::string_view bytes) {
  text::Vocabulary v = TRY(read_sentencepiece_model(bytes, folder.name("tokenizer.model")));
  v.add_bos = v.model == "llama";
  v.add_eos = v.model == "t5";
  if (const auto prefix = flag_of(settings.json, "add_prefix_space")) v.add_space_prefix = *prefix;
  v.prefix_once = flag_of(settings.json, "legacy") == false;
  return v;
}

// fairseq numbered a SentencePiece model's pieces behind tokens of its own, and the mask behind all.
struct FairseqOrder {
  std::string_view kind;
  std::vector<std::string_view> first;
  std::size_t piece;  // the first that follows them
};

Result<text::Vocabulary> read_fairseq(const TextFolder& folder, const TextSettings& settings, std::string_view bytes) {
  static const FairseqOrder kOrders[] = {
      {"XLMRoberta", {"<s>", "<pad>", "</s>", "<unk>"}, 3},
      {"Camembert", {"<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"}, 1}};
  constexpr std::string_view kFile = "sentencepiece.bpe.model";
  const auto* order = std::ranges::find(kOrders, settings.kind, &FairseqOrder::kind);
  if (order == std::end(kOrders))
    return another_class(folder, kFile, settings.kind, "XLMRobertaTokenizer and CamembertTokenizer");
  const text::Vocabulary pieces = TRY(read_sentencepiece_model(bytes, folder.name(kFile)));
  if (pieces.tokens.size() <= order->piece || pieces.tokens[0] != "<unk>")
    return Error{Code::corrupt, fmt::format("{}: {} pieces, which do not begin with <unk>, <s> and </s>",
                                            folder.name(kFile), pieces.tokens.size())};
  text::Vocabulary v = pieces;
  const auto replaced = static_cast<std::ptrdiff_t>(order->piece);
  v.tokens.erase(v.tokens.begin(), v.tokens.begin() + replaced);
  v.scores.erase(v.scores.begin(), v.scores.begin() + replaced);
  v.types.erase(v.types.begin(), v.types.begin() + replaced);
  v.tokens.insert(v.tokens.begin(), order->first.begin(), order->first.end());
  v.scores.insert(v.scores.begin(), order->first.size(), 0.0f);
  v.types.insert(v.types.begin(), order->first.size(), TokenType::control);
  v.tokens.emplace_back("<mask>");
  v.scores.push_back(0);
  v.types.push_back(TokenType::control);
  v.unknown = find_token(v, "<unk>");
  v.types[static_cast<std::size_t>(v.unknown)] = TokenType::unknown;
  v.bos = v.eos = v.padding = -1;  // their roles come with the settings
  v.add_bos = v.add_eos = true;
  return v;
}

// The pre-tokenizer that goes without saying with a pair of vocab.json and merges.txt.
Result<text::Vocabulary> read_pair(const TextFolder& folder, const TextSettings& settings, std::string_view vocab,
                                   std::string_view merges) {
  const bool qwen = settings.kind == "Qwen2", around = settings.kind == "Roberta";
  if (!qwen && !around && settings.kind != "GPT2")
    return another_class(folder, "vocab.json", settings.kind, "Qwen2Tokenizer, GPT2Tokenizer and RobertaTokenizer");
  if (flag_of(settings.json, "add_prefix_space").value_or(false))
    return Error{Code::unsupported, fmt::format("{}: \"add_prefix_space\" is true, which is not supported with "
                                                "vocab.json",
                                                folder.name("tokenizer_config.json"))};
  auto v = TRY(read_vocab_and_merges(vocab, merges, qwen ? "qwen2" : "gpt-2", folder.name("vocab.json")));
  v.compose = qwen;
  v.add_bos = v.add_eos = around;
  return v;
}

// A token a line, whose number is its id; of two that are the same the later counts.
Result<text::Vocabulary> read_vocab_txt(const TextFolder& folder, const TextSettings& settings, std::string_view text) {
  if (settings.kind != "Bert")
    return another_class(folder, "vocab.txt", settings.kind, "BertTokenizer and DistilBertTokenizer");
  if (!flag_of(settings.json, "tokenize_chinese_chars").value_or(true))
    return Error{Code::unsupported, fmt::format("{}: \"tokenize_chinese_chars\" is false, which is not supported",
                                                folder.name("tokenizer_config.json"))};
  text::Vocabulary v;
  std::unordered_map<std::string, std::size_t> ids;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto [at, fresh] = ids.try_emplace(std::string(line), v.tokens.size());
    if (!fresh) {
      const std::size_t before = std::exchange(at->second, v.tokens.size());
      v.tokens[before] = fmt::format("[unused id {}]", before);
      v.types[before] = TokenType::unused;
    }
    v.tokens.emplace_back(line);
    v.types.push_back(line.empty() ? TokenType::unused : TokenType::normal);
  }
  if (v.tokens.empty()) return Error{Code::corrupt, fmt::format("{}: there are no tokens", folder.name("vocab.txt"))};
  v.model = "bert";
  v.lower_case = true;  // what the class does unless told otherwise
  v.add_bos = v.add_eos = true;
  v.add_space_prefix = false;
  return v;
}

// From any file but tokenizer.json.
Result<std::optional<text::Vocabulary>> read_older(const TextFolder& folder, const TextSettings& settings) {
  if (const auto bytes = TRY(folder.read("tokenizer.model", TextFolder::kMaxVocabulary)))
    return TRY(read_spm(folder, settings, *bytes));
  if (const auto bytes = TRY(folder.read("sentencepiece.bpe.model", TextFolder::kMaxVocabulary)))
    return TRY(read_fairseq(folder, settings, *bytes));
  const auto vocab = TRY(folder.read("vocab.json", TextFolder::kMaxVocabulary)),
             merges = TRY(folder.read("merges.txt", TextFolder::kMaxVocabulary));
  if (vocab && merges) return TRY(read_pair(folder, settings, *vocab, *merges));
  if (const auto text = TRY(folder.read("vocab.txt", TextFolder::kMaxVocabulary)))
    return TRY(read_vocab_txt(folder, settings, *text));
  return std::optional<text::Vocabulary>();
}

}  // namespace

Result<Words> read_words(const TextFolder& folder, const TextSettings& settings) {
  if (const auto json = TRY(folder.read("tokenizer.json", TextFolder::kMaxVocabulary))) {
    auto read = read_tokenizer_json(*json, folder.name("tokenizer.json"));
    if (read) {
      Words words{.vocabulary = std::move(*read)};
      words.says_specials = words.vocabulary.add_bos || words.vocabulary.add_eos;
      set_cases(settings, words.vocabulary);
      TRY(add_tokens(folder, settings, /*complete=*/true, words.vocabulary));
      return words;
    }
    std::error_code ignored;
    const bool other = std::filesystem::exists(folder.path / "tokenizer.model", ignored);
    if (!other || read.error().code != Code::unsupported) return std::move(read).error();
  }
  if (const auto json = TRY(folder.read("tekken.json", TextFolder::kMaxVocabulary)))
    return Words{.vocabulary = TRY(read_tekken(*json, folder.name("tekken.json"))), .says_specials = true};
  auto older = TRY(read_older(folder, settings));
  if (!older)
    return Error{Code::not_found, fmt::format("{}: there is no vocabulary; one of {} is expected", folder.path.string(),
                                              fmt::join(kFiles, ", "))};
  Words words{.vocabulary = std::move(*older)};
  words.says_specials = words.vocabulary.model == "bert" || settings.kind == "Roberta";
  TRY(add_tokens(folder, settings, /*complete=*/false, words.vocabulary));
  if (words.vocabulary.model == "bert") {
    set_cases(settings, words.vocabulary);
    mark_words(words.vocabulary, "##");
  }
  return words;
}

}  // namespace ashlar::models
