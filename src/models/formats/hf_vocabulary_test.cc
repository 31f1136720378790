// The forms in which folders come: each with the files that it has and no more.
#include "models/formats/hf_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "models/formats/tekken.h"
#include "models/formats/tokenizer_json.h"
#include "text/byte_alphabet.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using text::TokenId;
using text::TokenType;

// A SentencePiece model: pieces (1: piece, score, type), the trainer's kind, the normalizer's prefix.
struct Piece {
  std::string text;
  float score = 0;
  int type = 1;
};
std::string field(int number, std::string_view bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + std::string(bytes);
}
std::string sentencepiece(int kind, const std::vector<Piece>& pieces) {
  std::string model;
  for (const Piece& piece : pieces) {
    std::string score(4, '\0');
    std::memcpy(score.data(), &piece.score, 4);
    model += field(1, field(1, piece.text) + "\x15" + score + std::string{'\x18', static_cast<char>(piece.type)});
  }
  return model + field(2, std::string{'\x18', static_cast<char>(kind)});
}

class HfVocabulary : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(room); }
  void TearDown() override { fs::remove_all(room); }
  void write(const std::string& name, std::string_view text) {
    fs::create_directories((room / name).parent_path());
    std::ofstream(room / name, std::ios::binary) << text;
  }
  void only(std::initializer_list<std::pair<const char*, std::string>> files) {
    fs::remove_all(room);
    for (const auto& [name, text] : files) write(name, text);
  }
  FolderText read() {
    auto found = read_folder_text(room.string());
    EXPECT_TRUE(found.has_value()) << found.error().message;
    return found ? std::move(*found) : FolderText();
  }
  std::string refusal() {
    const auto found = read_folder_text(room.string());
    return found ? "fine" : found.error().message;
  }
  std::vector<std::string> tokens(std::string_view text, bool specials = true) {
    const auto tokenizer = text::Tokenizer::create(read().vocabulary);
    EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    std::vector<std::string> out;
    if (tokenizer)
      for (const TokenId id : (*tokenizer)->encode(text, {.add_special = specials, .parse_special = true}))
        out.push_back((*tokenizer)->vocabulary().tokens[static_cast<std::size_t>(id)]);
    return out;
  }

  fs::path room = fs::temp_directory_path() / ("ashlar_hf_vocabulary_" + std::to_string(getpid()));
};

const std::string kWords = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhe\n##llo\nHe\n\xC3\xA9\ne\n";

TEST_F(HfVocabulary, VocabTxtAlone) {
  only({{"vocab.txt", kWords}, {"config.json", R"({"model_type":"bert"})"}});
  EXPECT_THAT(tokens("Hello"), ElementsAre("[CLS]", "▁he", "llo", "[SEP]"));
  EXPECT_THAT(tokens("\xC3\xA9[MASK]"), ElementsAre("[CLS]", "▁e", "[MASK]", "[SEP]"));
  const text::Vocabulary v = read().vocabulary;
  EXPECT_EQ(v.padding, 0);
  EXPECT_EQ(v.unknown, 1);
  EXPECT_EQ(v.mask, 4);
  write("tokenizer_config.json", R"({"tokenizer_class":"BertTokenizer","do_lower_case":false})");
  EXPECT_THAT(tokens("Hello \xC3\xA9"), ElementsAre("[CLS]", "▁He", "llo", "▁\xC3\xA9", "[SEP]"));
  write("tokenizer_config.json", R"({"tokenizer_class":"BertTokenizerFast","strip_accents":false})");
  EXPECT_THAT(tokens("Hello \xC3\x89"), ElementsAre("[CLS]", "▁he", "llo", "▁\xC3\xA9", "[SEP]"));
  write("tokenizer_config.json", R"({"tokenizer_class":"BertJapaneseTokenizer"})");
  EXPECT_THAT(refusal(), HasSubstr("vocab.txt with the tokenizer class \"BertJapaneseTokenizer\" is not supported"));
  write("tokenizer_config.json", R"({"tokenize_chinese_chars":false})");
  EXPECT_THAT(refusal(), HasSubstr("tokenize_chinese_chars"));
  only({{"vocab.txt", "[UNK]\r\na\r\nb\r\na\r\n"}, {"config.json", R"({"model_type":"bert"})"}});
  EXPECT_EQ(read().vocabulary.tokens[3], "▁a");
}

TEST_F(HfVocabulary, FairseqsOrderOfPieces) {
  const std::string model = sentencepiece(1, {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"▁a", -1}, {"b", -2}});
  only({{"sentencepiece.bpe.model", model}, {"config.json", R"({"model_type":"xlm-roberta"})"}});
  EXPECT_THAT(read().vocabulary.tokens, ElementsAre("<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "<mask>"));
  EXPECT_THAT(tokens("ab<mask>"), ElementsAre("<s>", "▁a", "b", "<mask>", "</s>"));
  EXPECT_THAT(tokens("z"), ElementsAre("<s>", "<unk>", "</s>"));
  EXPECT_EQ(read().vocabulary.padding, 1);
  write("tokenizer_config.json", R"({"tokenizer_class":"CamembertTokenizer"})");
  EXPECT_THAT(read().vocabulary.tokens, ElementsAre("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED",
                                                    "<s>", "</s>", "▁a", "b", "<mask>"));
  EXPECT_THAT(tokens("ab"), ElementsAre("<s>", "▁a", "b", "</s>"));
  write("tokenizer_config.json", R"({"tokenizer_class":"MBartTokenizer"})");
  EXPECT_THAT(refusal(), HasSubstr("\"MBartTokenizer\" is not supported"));
  only({{"sentencepiece.bpe.model", sentencepiece(1, {{"a", -1}, {"b", -1}, {"c", -1}, {"d", -1}})},
        {"config.json", R"({"model_type":"camembert"})"}});
  EXPECT_THAT(refusal(), HasSubstr("do not begin with <unk>"));
}

TEST_F(HfVocabulary, SentencePieceWithOlderFilesOfAddedTokens) {
  const std::string model =
      sentencepiece(2, {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"▁", -1}, {"a", -2}, {"▁a", -3}});
  only({{"tokenizer.model", model},
        {"added_tokens.json", R"({"<pad>": 6, "<|user|>": 8, "word": 9})"},
        {"special_tokens_map.json", R"({"pad_token": "<pad>", "bos_token": {"content": "<s>"},
                                        "additional_special_tokens": ["<|user|>"]})"}});
  text::Vocabulary v = read().vocabulary;
  EXPECT_THAT(v.tokens,
              ElementsAre("<unk>", "<s>", "</s>", "▁", "a", "▁a", "<pad>", "[unused id 7]", "<|user|>", "word"));
  EXPECT_EQ(v.padding, 6);
  EXPECT_EQ(v.types[8], TokenType::control);
  EXPECT_EQ(v.types[9], TokenType::user_defined);
  EXPECT_THAT(tokens("<|user|>a"), ElementsAre("<s>", "<|user|>", "▁a"));
  // What tokenizer_config.json says goes first; "legacy": false puts a space before the text alone.
  write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer", "legacy": false, "add_eos_token": true,
      "added_tokens_decoder": {"6": {"content": "<|end|>", "special": true}}})");
  EXPECT_EQ(read().vocabulary.tokens.size(), 7u);
  EXPECT_THAT(tokens("a<|end|>a"), ElementsAre("<s>", "▁a", "<|end|>", "a", "</s>"));
  for (const char* broken : {R"({"x": -1})", R"({"x": "1"})", R"({"x": 99999999})", R"([1])"}) {
    only({{"tokenizer.model", model}, {"added_tokens.json", broken}});
    EXPECT_THAT(refusal(), HasSubstr(room.string())) << broken;
  }
  only({{"tokenizer.model", model},
        {"tokenizer_config.json", R"({"added_tokens_decoder": {"6": {"content": "x", "special": 1}}})"}});
  EXPECT_EQ(read().vocabulary.types[6], TokenType::user_defined);
}

TEST_F(HfVocabulary, VocabAndMergesByClassOrModelType) {
  const std::string vocab = R"({"a":0,"b":1,"ab":2,"<s>":3,"</s>":4,"<pad>":5,"<unk>":6,"<mask>":7,"<|endoftext|>":8})";
  only({{"vocab.json", vocab}, {"merges.txt", "#version: 0.2\na b\n"}, {"config.json", R"({"model_type":"roberta"})"}});
  EXPECT_THAT(tokens("ab<mask>"), ElementsAre("<s>", "ab", "<mask>", "</s>"));
  EXPECT_EQ(read().vocabulary.separator, 4);
  write("config.json", R"({"model_type":"qwen3"})");
  EXPECT_THAT(tokens("ab<|endoftext|>"), ElementsAre("ab", "<|endoftext|>"));
  EXPECT_EQ(read().vocabulary.pre, "qwen2");
  EXPECT_TRUE(read().vocabulary.compose);
  write("tokenizer_config.json", R"({"tokenizer_class":"GPT2Tokenizer"})");
  EXPECT_EQ(read().vocabulary.pre, "gpt-2");
  EXPECT_EQ(read().vocabulary.eos, 8);
  write("tokenizer_config.json", R"({"tokenizer_class":"GPT2Tokenizer","add_prefix_space":true})");
  EXPECT_THAT(refusal(), HasSubstr("add_prefix_space"));
  write("tokenizer_config.json", R"({"tokenizer_class":"CTRLTokenizer"})");
  EXPECT_THAT(refusal(), HasSubstr("\"CTRLTokenizer\" is not supported; Qwen2Tokenizer"));
  fs::remove(room / "merges.txt");
  EXPECT_THAT(refusal(), HasSubstr("there is no vocabulary; one of tokenizer.json, tekken.json"));
}

TEST_F(HfVocabulary, SettingsAddTokensToTokenizerJson) {
  only({{"tokenizer.json", R"({"added_tokens": [{"id": 2, "content": "<s>", "special": true}],
          "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
          "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}})"},
        {"tokenizer_config.json", R"({"added_tokens_decoder": {"0": {"content": "other"}, "2": {"content": "<s>"},
          "3": {"content": "<call>", "special": false}}})"}});
  EXPECT_THAT(read().vocabulary.tokens, ElementsAre("a", "b", "<s>", "<call>"));
  EXPECT_THAT(tokens("a<call>b"), ElementsAre("a", "<call>", "b"));
}

TEST_F(HfVocabulary, TemplatesInEveryPlace) {
  const std::string json = R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}})";
  only({{"tokenizer.json", json}, {"chat_template.json", R"({"chat_template": "of the processor"})"}});
  EXPECT_EQ(read().templates.source, "of the processor");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "one"},
      {"name": "tool_use", "template": "two"}, {"name": 3}]})");
  EXPECT_EQ(read().templates.source, "one");
  EXPECT_THAT(read().templates.named, ElementsAre(Pair("tool_use", "two")));
  write("tokenizer_config.json", R"({"chat_template": {"default": "a", "rag": "b"}})");
  EXPECT_EQ(read().templates.source, "a");
  EXPECT_THAT(read().templates.named, ElementsAre(Pair("rag", "b")));
  write("chat_template.jinja", "file");
  write("additional_chat_templates/rag.jinja", "other");
  write("additional_chat_templates/README.md", "none");
  EXPECT_EQ(read().templates.source, "file");
  EXPECT_THAT(read().templates.named, ElementsAre(Pair("rag", "other")));
}

// --- tokenizer.json ---

std::string byte_level(std::string_view steps, std::string_view model = "") {
  return R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [])" + std::string(model) +
         R"(}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [)" + std::string(steps) +
         R"(, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})";
}
std::string split(std::string_view regex, std::string_view rest = R"("behavior": "Isolated", "invert": false)") {
  return R"({"type": "Split", "pattern": {"Regex": ")" + std::string(regex) + "\"}, " + std::string(rest) + "}";
}

TEST(TokenizerJson, KnowsFamiliesByTheirSteps) {
  const std::string cl100k =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)";
  const std::string east = split("[一-龥ࠀ-一가-퟿]+"),
                    digits = R"({"type": "Digits", "individual_digits": true})";
  // As DeepSeek's own files have it: line ends unescaped.
  const std::string v3 =
      split(R"(\\p{N}{1,3})") + "," + split("[一-龥぀-ゟ゠-ヿ]+") + "," +
      split(
          R"([!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+)");
  const std::string llm = split(R"([\r\n])") + "," + split("\\\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯ]+") + "," +
                          split("\\\\s?[!-/:-~！-／：-～‘-‟　-。]+") + "," + split("\\\\s+$") + "," + east;
  const std::string coder =
      split(R"([\r\n])") + "," + split(R"(\\s?\\p{L}+)") + "," + split(R"(\\s?\\p{P}+)") + "," + east;
  const struct {
    std::string json, pre;
    std::optional<bool> ignore_merges;
  } cases[] = {
      {byte_level(split(cl100k)), "dbrx", {}},
      {byte_level(split(cl100k), R"(, "ignore_merges": true)"), "llama-bpe", {}},
      {byte_level(split(cl100k, R"("behavior": "Removed", "invert": true)")), "dbrx", {}},
      {byte_level(v3), "deepseek-v3", {}},
      {byte_level(v3, R"(, "ignore_merges": true)"), "deepseek-v3", true},
      {byte_level(llm + "," + digits), "deepseek-llm", {}},
      {byte_level(llm + "," + split(R"(\\p{N}+)")), "deepseek-llm", {}},
      {byte_level(coder + "," + digits), "deepseek-coder", {}},
  };
  for (const auto& one : cases) {
    const auto v = read_tokenizer_json(one.json, "t");
    ASSERT_TRUE(v.has_value()) << v.error().message;
    EXPECT_EQ(v->pre, one.pre);
    EXPECT_EQ(v->ignore_merges, one.ignore_merges);
  }
  for (const std::string& steps : {split(cl100k, R"("behavior": "Removed", "invert": false)"),
                                   split(cl100k, R"("behavior": "Contiguous")"), split("\\\\s?[A-Za-z]+")}) {
    const auto v = read_tokenizer_json(byte_level(steps), "t");
    ASSERT_FALSE(v.has_value());
    EXPECT_EQ(v.error().code, Code::unsupported);
  }
}

TEST(TokenizerJson, SpaceBeforeTheTextAlone) {
  for (const bool once : {false, true}) {
    auto v = read_tokenizer_json(std::string(R"({"added_tokens": [{"id": 0, "content": "<s>", "special": true}],
        "model": {"type": "BPE", "vocab": {"▁": 1, "a": 2, "▁a": 3}, "merges": ["▁ a"]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "split": false, "prepend_scheme": ")") +
                                     (once ? "first" : "always") + R"("}})",
                                 "t");
    ASSERT_TRUE(v.has_value()) << v.error().message;
    const auto tokenizer = text::Tokenizer::create(std::move(*v)).value();
    const auto ids = tokenizer->encode("a<s>a", {.parse_special = true});
    EXPECT_EQ(ids, (std::vector<TokenId>{3, 0, once ? 2 : 3}));
    EXPECT_EQ(tokenizer->decode(ids, true), "a<s>a");
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("<s> a", {.parse_special = true}), true), "<s> a");
  }
}

TEST(TokenizerJson, BertsNormalizer) {
  const auto read = [](std::string_view normalizer) {
    return read_tokenizer_json(std::string(R"({"model": {"type": "WordPiece", "unk_token": "[UNK]",
        "continuing_subword_prefix": "##", "vocab": {"[UNK]": 0, "A": 1}},
        "normalizer": {"type": "BertNormalizer")") +
                                   std::string(normalizer) + "}}",
                               "t");
  };
  EXPECT_EQ(read("")->lower_case, true);
  EXPECT_EQ(read("")->strip_accents, std::nullopt);
  EXPECT_EQ(read(R"(, "lowercase": false, "strip_accents": true)")->lower_case, false);
  EXPECT_EQ(read(R"(, "lowercase": false, "strip_accents": true)")->strip_accents, true);
  EXPECT_EQ(read(R"(, "strip_accents": null)")->strip_accents, std::nullopt);
  EXPECT_FALSE(read(R"(, "handle_chinese_chars": false)").has_value());
}

// --- tekken.json ---

std::string base64_of(std::string_view byte) {
  // Of one or two bytes.
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const auto at = [&](std::size_t i) { return i < byte.size() ? static_cast<unsigned char>(byte[i]) : 0u; };
  const unsigned word = at(0) << 16 | at(1) << 8 | at(2);
  std::string out;
  for (std::size_t i = 0; i < 4; ++i) out += i <= byte.size() ? kDigits[word >> (18 - 6 * i) & 63] : '=';
  return out;
}

std::string tekken(const std::vector<std::string>& more, std::string_view specials = "") {
  std::string vocab;
  std::size_t rank = 0;
  const auto add = [&](std::string_view bytes) {
    vocab += std::string(rank == 0 ? "" : ",") + R"({"rank":)" + std::to_string(rank) + R"(,"token_bytes":")" +
             base64_of(bytes) + "\"}";
    ++rank;
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (const std::string& token : more) add(token);
  const std::string pattern =
      R"([^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)";
  return R"({"config":{"pattern":")" + pattern + R"(","default_num_special_tokens":8,"default_vocab_size":)" +
         std::to_string(8 + rank) + "}," + std::string(specials) + R"("vocab":[)" + vocab + "]}";
}

TEST_F(HfVocabulary, TekkenAlone) {
  only({{"tekken.json", tekken({"he", "ll", "hel", "lo"})}});
  const text::Vocabulary v = read().vocabulary;
  EXPECT_EQ(v.tokens[3], "[INST]");
  EXPECT_EQ(v.bos, 1);
  EXPECT_EQ(v.eos, 2);
  EXPECT_THAT(v.merges, ElementsAre("h e", "l l", "he l", "l o"));
  // Of "hello" its pairs go by rank: "he", "ll", and then nothing.
  EXPECT_THAT(tokens("[INST]hello hel"), ElementsAre("<s>", "[INST]", "he", "ll", "o", text::spelled(" "), "hel"));
  write("tekken.json", tekken({"he"}, R"("special_tokens":[{"rank":4,"token_str":"[THINK]","is_control":true}],)"));
  EXPECT_EQ(read().vocabulary.tokens[4], "[THINK]");
  EXPECT_EQ(read().vocabulary.tokens[1], "<SPECIAL_1>");
}

TEST(Tekken, RefusesWhatIsNone) {
  const std::string good = tekken({"he"});
  const auto error = [](const std::string& text) {
    const auto read = read_tekken(text, "t");
    return read ? "fine" : read.error().message;
  };
  EXPECT_EQ(error(good), "fine");
  for (std::size_t n = 0; n < good.size(); n += 101) EXPECT_NE(error(good.substr(0, n)), "fine");
  EXPECT_THAT(error(tekken({"he", "he"})), HasSubstr("stands twice"));
  EXPECT_THAT(error(tekken({""})), HasSubstr("token 256 has no bytes"));
  EXPECT_THAT(error(tekken({}, R"("special_tokens":[{"rank":8,"token_str":"x"}],)")), HasSubstr("special token"));
  EXPECT_THAT(error(tekken({}, R"("special_tokens":[7],)")), HasSubstr("special token"));
  std::string other = good;
  other.replace(other.find("\\\\p{N}]?["), 4, "\\\\q{");
  EXPECT_THAT(error(other), HasSubstr("another pattern"));
}

}  // namespace
}  // namespace ashlar::models
