#include "text/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pcre2.h>

#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "base/utf8.h"

namespace ashlar::text {
namespace {

using ::testing::ElementsAre;
using Words = std::vector<std::string>;

Words split(std::string_view family, std::string_view text) {
  Words words;
  const auto pre = find_pre_tokenizer(family);
  EXPECT_TRUE(pre.has_value()) << family;
  (*pre)->split(text,
                {&words, [](void* self, std::string_view word) { static_cast<Words*>(self)->emplace_back(word); }});
  return words;
}

TEST(PreTokenizer, Gpt2KeepsOneSpaceWithTheWordThatFollows) {
  EXPECT_THAT(split("gpt-2", "Hello  world's 123, ok?\n\nYes "),
              ElementsAre("Hello", " ", " world", "'s", " 123", ",", " ok", "?", "\n", "\n", "Yes", " "));
  EXPECT_THAT(split("gpt-2", "I'LL they'll"), ElementsAre("I", "'", "LL", " they", "'ll"));
}

TEST(PreTokenizer, Llama3TakesDigitsInThrees) {
  EXPECT_THAT(split("llama-bpe", "a 12345'S\n\n  b"), ElementsAre("a", " ", "123", "45", "'S", "\n\n", " ", " b"));
}

TEST(PreTokenizer, Qwen2TakesDigitsOneByOne) {
  EXPECT_THAT(split("qwen2", "x=42;\n\treturn"), ElementsAre("x", "=", "4", "2", ";\n", "\treturn"));
}

TEST(PreTokenizer, StarcoderSplitsDigitsBeforeWords) {
  EXPECT_THAT(split("starcoder", "ab 12"), ElementsAre("ab", " ", "1", "2"));
}

TEST(PreTokenizer, FalconSplitsPunctuationFirstAndDigitsLast) {
  EXPECT_THAT(split("falcon", "it's 12345"), ElementsAre("it", "'", "s", " ", "123", "45"));
}

TEST(PreTokenizer, CapitalsBeginWordsInTekken) {
  EXPECT_THAT(split("tekken", "camelCaseHTTPServer"), ElementsAre("camel", "Case", "HTTPServer"));
  EXPECT_THAT(split("tekken", "中A中AB"), ElementsAre("中A中", "AB"));
}

TEST(PreTokenizer, ThousandsAreCountedFromTheEnd) {
  EXPECT_THAT(split("afmoe", "1234567"), ElementsAre("1", "234", "567"));
  EXPECT_THAT(split("superbpe", "pay 12345 now"), ElementsAre("pay ", "12", "345", " now"));
}

TEST(PreTokenizer, AnUnknownNameIsRefusedAndNoneIsTheDefault) {
  EXPECT_EQ(find_pre_tokenizer("no-such-thing").error().code, Code::unsupported);
  EXPECT_THAT(find_pre_tokenizer("no-such-thing").error().message, ::testing::HasSubstr("no-such-thing"));
  EXPECT_EQ((*find_pre_tokenizer(""))->name, "default");
}

// --- against PCRE2 ------------------------------------------------------------

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

// PCRE2's \s has U+180E too; the patterns mean the property White_Space.
std::string with_white_space(std::string_view pattern) {
  constexpr std::string_view kSet =
      "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
  std::string out;
  bool in_brackets = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\') {
      if (c == '[') in_brackets = true;
      if (c == ']') in_brackets = false;
      out += c;
      continue;
    }
    const char next = pattern[++i];
    if (next == 's')
      out += in_brackets ? std::string(kSet) : '[' + std::string(kSet) + ']';
    else if (next == 'S')
      out += "[^" + std::string(kSet) + ']';
    else
      out += c, out += next;
  }
  return out;
}

class Regex {
 public:
  explicit Regex(std::string_view pattern) {
    const std::string expanded = with_white_space(pattern);
    int error = 0;
    PCRE2_SIZE at = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expanded.data()), expanded.size(), PCRE2_UTF | PCRE2_UCP,
                              &error, &at, nullptr));
    EXPECT_TRUE(code_) << pattern << " at " << at;
    match_.reset(pcre2_match_data_create(64, nullptr));
  }

  // The matches, and what lies between them; an empty match only cuts.
  Words split(const std::string& text) const {
    Words words;
    std::size_t done = 0, from = 0;
    const auto add = [&](std::size_t begin, std::size_t end) {
      if (end > begin) words.push_back(text.substr(begin, end - begin));
    };
    while (from < text.size() && pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                             0, match_.get(), nullptr) > 0) {
      const PCRE2_SIZE* found = pcre2_get_ovector_pointer(match_.get());
      add(done, found[0]);
      add(found[0], found[1]);
      done = found[1];
      from = found[1] > found[0] ? found[1] : found[1] + utf8::decode(std::string_view(text).substr(found[1])).bytes;
    }
    add(done, text.size());
    return words;
  }

 private:
  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_data, Free> match_;
};

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
#define ANY_CASE R"('[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define SPACES R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define CL100K(digits) ANY_CASE R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)" digits R"(| ?[^\s\p{L}\p{N}]+[\r\n]*)" SPACES
#define UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define O200K(contractions, digits)                                                                                  \
  R"([^\r\n\p{L}\p{N}]?)" UPPER "*" LOWER "+" contractions R"(|[^\r\n\p{L}\p{N}]?)" UPPER "+" LOWER "*" contractions \
  "|" digits R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*)" SPACES
#define DEEPSEEK3 R"([!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+)"

// The patterns as their publishers and llama.cpp have them, one after the other
// where there are several.
const std::map<std::string, std::vector<const char*>>& references() {
  static const std::map<std::string, std::vector<const char*>> all = {
      {"gpt-2", {kGpt2}},
      {"starcoder", {R"(\p{N})", kGpt2}},
      {"falcon", {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, "[0-9][0-9][0-9]"}},
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {"llama-bpe", {CL100K(R"(\p{N}{1,3})")}},
      {"qwen2", {CL100K(R"(\p{N})")}},
      {"minicpm5", {R"(\p{N}{1,3})", CL100K(R"(\p{N}+)")}},
      {"laguna", {R"([^\n]+|[\n]+)", CL100K(R"(\p{N})")}},
      {"gemma4", {R"([^\n]+|[\n]+)"}},
      {"qwen35", {ANY_CASE R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)" SPACES}},
      {"seed-coder", {ANY_CASE R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+)" SPACES}},
      {"jais-2",
       {ANY_CASE R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
                 R"(|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S))"
                 R"(|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})"}},
      {"exaone-moe",
       {ANY_CASE R"(|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?)"
                 R"(|\s*[\r\n]|\s+(?!\S)|\s+)"}},
      {"gpt-4o", {O200K("(?:" ANY_CASE ")?", R"(\p{N}{1,3})")}},
      {"tekken", {O200K("", R"(\p{N})")}},
      {"youtu",
       {"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
        O200K("(?:" ANY_CASE ")?", R"(\p{N})")}},
      {"kimi-k2",
       {R"(\p{sc:Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{sc:Han}))" UPPER R"()*(?:(?!\p{sc:Han}))" LOWER ")+(?:" ANY_CASE
        R"()?|[^\r\n\p{L}\p{N}]?(?:(?!\p{sc:Han}))" UPPER R"()+(?:(?!\p{sc:Han}))" LOWER ")*(?:" ANY_CASE
        R"()?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" SPACES}},
      {"deepseek-llm",
       {"[\r\n]",
        "\\s?["
        "\\x{41}-\\x{5A}\\x{61}-\\x{7A}\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}"
        "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}"
        "\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}"
        "\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}"
        "\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}"
        "\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}"
        "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"
        "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}"
        "\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}"
        "\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-"
        "\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}"
        "\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"
        "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}"
        "\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-"
        "\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
        "]+",
        "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+\\z", "[一-龥ࠀ-一가-\\x{D7FF}]+", "\\p{N}+"}},
      {"deepseek-coder", {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-\\x{D7FF}]+", "\\p{N}"}},
      {"deepseek-v3", {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3 R"([\r\n]*)" SPACES}},
      {"spark2_5", {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3 R"(|[\r\n]|\s+(?!\S)|\s+)", R"(\p{N})"}},
      {"afmoe",
       {R"(\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N})))",
        "[一-鿿㐀-䶿\\x{F900}-\\x{FAFF}\\x{3040}-ゟ゠-ヿ･-ﾟ\\x{2F00}-\\x{2FDF}\\x{E00}-\\x{E7F}\\x{E80}-\\x{EFF}ក-\\x{"
        "17FF}က-"
        "\\x{109F}\\x{AA60}-\\x{AA7F}\\x{A9E0}-\\x{A9FF}가-\\x{D7AF}ᄀ-ᇿ]+",
        DEEPSEEK3 R"([\r\n]*)" SPACES}},
      {"bloom", {R"( ?[^(\s|.,!?…。，、।۔،)]+)"}},
      {"viking", {R"( ?[^(\s|.,!?…。，、।۔،)]+)", R"(\p{N})"}},
      {"superbpe", {R"(\p{N}+)", R"((?=(\p{N}{3})+(?!\p{N})))"}},
      {"tiny_aya",
       {R"(\p{Nd}{1,3}(?=(?:\p{Nd}{3})*(?![\p{L}\p{N}\p{M}_])))", O200K("(?:" ANY_CASE ")?", R"(\p{N}{1,3})")}},
  };
  return all;
}

// Text in which every alternative of every pattern has something to do. Only
// characters that were assigned by Unicode 13: PCRE2's tables are a version older.
std::string random_text(std::mt19937& random) {
  static constexpr std::pair<char32_t, char32_t> kBlocks[] = {
      {'a', 'z'},         {'A', 'Z'},         {'0', '9'},         {'!', '/'},         {':', '@'},
      {'[', '`'},         {'{', '~'},         {0x00, 0x1F},       {0x80, 0xFF},       {0x100, 0x24F},
      {0x250, 0x2FF},     {0x300, 0x36F},     {0x391, 0x3A1},     {0x3B1, 0x3C9},     {0x410, 0x44F},
      {0x483, 0x489},     {0x5D0, 0x5EA},     {0x620, 0x669},     {0x904, 0x94D},     {0x966, 0x96F},
      {0xE01, 0xE3A},     {0xE81, 0xE82},     {0x10D0, 0x10FA},   {0x10A0, 0x10C5},   {0x1100, 0x11FF},
      {0x1780, 0x17DD},   {0x1C90, 0x1CBA},   {0x1E00, 0x1E99},   {0x1F80, 0x1FAF},   {0x2010, 0x2027},
      {0x2030, 0x205E},   {0x2070, 0x2071},   {0x20A0, 0x20BF},   {0x2100, 0x218B},   {0x2190, 0x21FF},
      {0x2460, 0x249B},   {0x2E80, 0x2E99},   {0x2F00, 0x2FD5},   {0x3001, 0x303F},   {0x3041, 0x3096},
      {0x30A1, 0x30FF},   {0x3105, 0x312F},   {0x3131, 0x318E},   {0x3400, 0x3410},   {0x4E00, 0x9FA5},
      {0xAC00, 0xD7A3},   {0xF900, 0xFA6D},   {0xFE30, 0xFE4F},   {0xFF01, 0xFF5E},   {0xFF65, 0xFF9F},
      {0x10400, 0x1044F}, {0x1D400, 0x1D454}, {0x1E900, 0x1E943}, {0x1F300, 0x1F5FF}, {0x20000, 0x20010},
      {0xE000, 0xE010},   {0x1BB, 0x1C3},     {0x294, 0x294},     {0xA9E0, 0xA9FE}};
  static constexpr std::string_view kPieces[] = {
      " ",      " ",  " ",  "  ",  "   ", "\n",    "\n\n", "\r\n",  "\t",  " \n ", "\u00A0", "\u3000",
      "\u2028", "'s", "'S", "'re", "'LL", "'ve",   "'x",   "don't", "I'm", "123",  "4567",   "HTTPServer",
      "éÉa",    "ǅ",  "/",  "//",  "_",   "1_000", "12a",  "٣٤٥٦",  "Ⅷ",   "²"};
  const auto pick = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random); };
  std::string text;
  for (std::size_t n = pick(40) + 1; n > 0; --n) {
    if (pick(3) == 0) {
      text += kPieces[pick(std::size(kPieces))];
      continue;
    }
    const auto [first, last] = kBlocks[pick(std::size(kBlocks))];
    for (std::size_t repeat = pick(4) + 1; repeat > 0; --repeat)
      utf8::append(text, first + static_cast<char32_t>(pick(last - first + 1)));
  }
  return text;
}

TEST(PreTokenizer, EveryPatternSplitsAsPcre2Does) {
  for (const auto& [family, patterns] : references()) {
    std::vector<Regex> regexes;
    for (const char* pattern : patterns) regexes.emplace_back(pattern);
    std::mt19937 random(20261120);
    for (int round = 0; round < 300; ++round) {
      const std::string text = random_text(random);
      Words expected{text};
      for (const Regex& regex : regexes) {
        Words finer;
        for (const std::string& word : expected) std::ranges::move(regex.split(word), std::back_inserter(finer));
        expected = std::move(finer);
      }
      ASSERT_EQ(split(family, text), expected) << family << ": " << text;
    }
  }
}

TEST(PreTokenizer, EveryFamilyGivesBackTheWholeTextWhateverItsBytes) {
  std::mt19937 random(7);
  for (const PreTokenizer* family : pre_tokenizers()) {
    std::string text;
    for (int i = 0; i < 3000; ++i)
      text += static_cast<char>(i % 3 == 0 ? random() % 256 : " \n'aA1\xE4\xB8\xAD"[random() % 9]);
    std::string joined;
    for (const std::string& word : split(family->name, text)) {
      EXPECT_FALSE(word.empty());
      joined += word;
    }
    EXPECT_EQ(joined, text) << family->name;
  }
}

// Quadratic time in any of them would outlast the test.
TEST(PreTokenizer, EveryFamilyIsLinearInLongRuns) {
  std::set<void (*)(std::string_view, WordSink)> done;
  for (const PreTokenizer* family : pre_tokenizers()) {
    if (!done.insert(family->split).second) continue;
    for (const std::string_view unit : {" ", "\n", "1", "A", "中A", "!", "\u0301", "' ", "a ", "\xE4"}) {
      std::string text;
      while (text.size() < 30'000) text += unit;
      for (const char* last : {"", "x"}) {
        std::size_t bytes = 0;
        family->split(text + last, {&bytes, [](void* self, std::string_view word) {
                                      *static_cast<std::size_t*>(self) += word.size();
                                    }});
        EXPECT_EQ(bytes, text.size() + std::string_view(last).size()) << family->name;
      }
    }
  }
}

}  // namespace
}  // namespace ashlar::text
