#include "text/pretokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "text/patterns.h"

namespace ashlar::text {
namespace {

using namespace patterns;

// --- parts that several families share --------------------------------------

using Contractions = Contraction<false>;
using ContractionsAnyCase = Contraction<true>;
using SpacedLetters = Maybe<Space, Run<Letters>>;                         //  ?\p{L}+
using SpacedNumbers = Maybe<Space, Run<Numbers>>;                         //  ?\p{N}+
using SpacedOther = Maybe<Space, Run<Other>>;                             //  ?[^\s\p{L}\p{N}]+
using NotNewlineOrWord = Without<Not<kLetter | kNumber>, Newlines>;       // [^\r\n\p{L}\p{N}]
using LettersAfterOne = Maybe<NotNewlineOrWord, Run<Letters>>;            // [^\r\n\p{L}\p{N}]?\p{L}+
using OtherToNewline = Trailed<SpacedOther, Newlines>;                    //  ?[^\s\p{L}\p{N}]+[\r\n]*
using OtherToSlash = Trailed<SpacedOther, AnyOf<Newlines, Range<U'/'>>>;  //  ?[^\s\p{L}\p{N}]+[\r\n/]*
using AnySpaces = Run<Spaces>;                                            // \s+

// GPT-2's: radford et al. 2019, encoder.py.
using Gpt2 = Pattern<Contractions, SpacedLetters, SpacedNumbers, SpacedOther, SpacesBeforeLast, AnySpaces>;

// cl100k_base's and its descendants': they differ in how many digits make a word.
template <int kDigits>
using Cl100k = Pattern<ContractionsAnyCase, LettersAfterOne, Run<Numbers, kDigits>, OtherToNewline, SpacesToNewline,
                       SpacesBeforeLast, AnySpaces>;

// o200k_base's: words split where a capital follows a small letter.
using Capitals = Of<kUpper | kOtherLetter | kMark>;
using Smalls = Of<kLower | kOtherLetter | kMark>;
template <class Upper, class Lower>
using CapitalizedWord = Maybe<NotNewlineOrWord, Capitalized<Upper, Lower>>;
template <class Upper, class Lower>
using CapitalWord = Maybe<NotNewlineOrWord, Trailed<Run<Upper>, Lower>>;
template <int kDigits>
using O200k = Pattern<Ended<CapitalizedWord<Capitals, Smalls>, ContractionsAnyCase>,
                      Ended<CapitalWord<Capitals, Smalls>, ContractionsAnyCase>, Run<Numbers, kDigits>, OtherToSlash,
                      SpacesToNewline, SpacesBeforeLast, AnySpaces>;
using Tekken = Pattern<CapitalizedWord<Capitals, Smalls>, CapitalWord<Capitals, Smalls>, Run<Numbers, 1>, OtherToSlash,
                       SpacesToNewline, SpacesBeforeLast, AnySpaces>;

using EachNumber = Pattern<Run<Numbers, 1>>;
using EachNewline = Pattern<Run<Newlines, 1>>;
using Lines = Pattern<Run<Range<U'\n'>>, Run<Without<Not<0>, Range<U'\n'>>>>;  // [^\n]+|\n+

// --- single families --------------------------------------------------------

// The cased letters that DeepSeek's first pattern lists.
struct DeepSeekLetters {
  static constexpr struct {
    char32_t first, last;
  } kRanges[] = {
      {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},
      {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},
      {0x376, 0x376},     {0x377, 0x377},     {0x37B, 0x37D},     {0x37F, 0x37F},     {0x386, 0x386},
      {0x388, 0x38A},     {0x38C, 0x38C},     {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},
      {0x48A, 0x52F},     {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},
      {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},
      {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},
      {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},
      {0x1FB6, 0x1FBC},   {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},
      {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},
      {0x2107, 0x2107},   {0x210A, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},
      {0x2126, 0x2126},   {0x2128, 0x2128},   {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},
      {0x213C, 0x213F},   {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2183},   {0x2184, 0x2184},
      {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF2},   {0x2CF3, 0x2CF3},
      {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},
      {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},
      {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2},
      {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
  };
  static bool has(Char c) {
    if (c.code < 128) return (c.kinds & kLetter) != 0;
    const auto* range = std::upper_bound(std::begin(kRanges), std::end(kRanges), c.code,
                                         [](char32_t code, const auto& r) { return code < r.first; });
    return range != std::begin(kRanges) && c.code <= std::prev(range)->last;
  }
};
using DeepSeekPunctuation =
    AnyOf<Range<U'!', U'/'>, Range<U':', U'~'>, Range<U'\uFF01', U'\uFF0F'>, Range<U'\uFF1A', U'\uFF5E'>,
          Range<U'\u2018', U'\u201F'>, Range<U'\u3000', U'\u3002'>>;
using DeepSeekEastAsian = AnyOf<Range<U'\u0800', U'\u9FA5'>, Range<U'\uAC00', char32_t{0xD7FF}>>;
using DeepSeekLlm =
    Stages<EachNewline, Pattern<Maybe<Spaces, Run<DeepSeekLetters>>>, Pattern<Maybe<Spaces, Run<DeepSeekPunctuation>>>,
           TrailingSpaces, Pattern<Run<DeepSeekEastAsian>>, Pattern<Run<Numbers>>>;
using DeepSeekCoder =
    Stages<EachNewline, Pattern<Maybe<Spaces, Run<Letters>>>, Pattern<Maybe<Spaces, Run<Of<kPunctuation>>>>,
           Pattern<Run<DeepSeekEastAsian>>, EachNumber>;

using HanAndKana = AnyOf<Range<U'\u4E00', U'\u9FA5'>, Range<U'\u3040', U'\u30FF'>>;
using NotNewlineWordOrSign = Without<Not<kLetter | kPunctuation | kSymbol>, Newlines>;
using SpacedSigns = Maybe<Space, Run<Of<kPunctuation | kSymbol>>>;
using AsciiSignAndLetters = Then<Run<AsciiPunctuation, 1>, Run<AsciiLetters>>;
using MarkedLettersAfterSpace = Maybe<NotNewlineWordOrSign, Run<Of<kLetter | kMark>>>;
using DeepSeek3Words = Pattern<AsciiSignAndLetters, MarkedLettersAfterSpace, Trailed<SpacedSigns, Newlines>,
                               SpacesToNewline, SpacesBeforeLast, AnySpaces>;
using DeepSeek3 = Stages<Pattern<Run<Numbers, 3>>, Pattern<Run<HanAndKana>>, DeepSeek3Words>;
using Spark = Stages<
    Pattern<Run<Numbers, 3>>, Pattern<Run<HanAndKana>>,
    Pattern<AsciiSignAndLetters, MarkedLettersAfterSpace, SpacedSigns, Run<Newlines, 1>, SpacesBeforeLast, AnySpaces>,
    EachNumber>;

using AsciiSymbols = AnyOf<Range<U'$'>, Range<U'+'>, Range<U'<', U'>'>, Range<U'^'>, Range<U'~'>, Range<U'|'>>;
using ThreeDigits = Pattern<Then<Run<AsciiDigits, 1>, Then<Run<AsciiDigits, 1>, Run<AsciiDigits, 1>>>>;
using Falcon = Stages<Pattern<Run<AnyOf<Of<kPunctuation>, AsciiSymbols, Range<U'`'>>>>, Gpt2, ThreeDigits>;
using Default = Stages<Pattern<Run<AnyOf<Of<kPunctuation>, AsciiSymbols>>>, Gpt2, Pattern<Run<Numbers>>, ThreeDigits>;
using Starcoder = Stages<EachNumber, Gpt2>;

// [^(\s|.,!?…。，、।۔،)]: within brackets, round brackets and bars mean themselves.
using BloomWord = Without<Not<kSpace>, Range<U'('>, Range<U'|'>, Range<U'.'>, Range<U','>, Range<U'!'>, Range<U'?'>,
                          Range<U'\u2026'>, Range<U'\u3002'>, Range<U'\uFF0C'>, Range<U'\u3001'>, Range<U'\u0964'>,
                          Range<U'\u06D4'>, Range<U'\u060C'>, Range<U')'>>;
using Bloom = Pattern<Maybe<Space, Run<BloomWord>>>;
using Viking = Stages<Bloom, EachNumber>;

using Qwen35 = Pattern<ContractionsAnyCase, Maybe<NotNewlineOrWord, Run<Of<kLetter | kMark>>>, Run<Numbers, 1>,
                       Trailed<Maybe<Space, Run<Not<kSpace | kLetter | kMark | kNumber>>>, Newlines>, SpacesToNewline,
                       SpacesBeforeLast, AnySpaces>;
using SeedCoder = Pattern<ContractionsAnyCase, LettersAfterOne, Run<Numbers, 1>, SpacedOther, SpacesToNewline,
                          SpacesBeforeLast, AnySpaces>;
using MiniCpm5 = Stages<Pattern<Run<Numbers, 3>>, Cl100k<0>>;
using Laguna = Stages<Lines, Cl100k<1>>;

// \s{512}(?!\S)|\s{256}(?!\S)| ... |\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}
struct SpacesInPowers {
  static const char* match(const char* at, const char* end) {
    constexpr int kMost = 512;
    const char* ends[kMost + 1];  // ends[n]: after n characters of white space
    int count = 0;
    ends[0] = at;
    for (const char* stop = at; count < kMost && stop < end; ends[++count] = stop) {
      const Char c = read(stop, end);
      if (!Spaces::has(c)) break;
      stop += c.bytes;
    }
    if (count == 0) return nullptr;
    const bool before_word = ends[count] < end && !begins_with<Spaces>(ends[count], end);
    const int most = before_word ? count - 1 : count;
    for (int n = kMost; n >= 4; n /= 2)
      if (n <= most) return ends[n];
    return ends[std::clamp(most, 1, 2)];
  }
};
using Jais2 =
    Pattern<ContractionsAnyCase, LettersAfterOne, Run<Numbers, 3>, OtherToNewline, SpacesToNewline, SpacesInPowers>;

// (?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+: letters, with single spaces between them.
struct Phrase {
  static const char* match(const char* at, const char* end) {
    const char* stop = nullptr;
    while (at < end) {
      const char* letter = stop != nullptr && *at == ' ' ? at + 1 : at;
      if (!begins_with<Letters>(letter, end)) break;
      at = stop = skip<Of<kMark>>(letter + read(letter, end).bytes, end);
    }
    return stop;
  }
};
using ExaoneMoe =
    Pattern<ContractionsAnyCase, Maybe<NotNewlineOrWord, Phrase>, Run<Numbers, 1>,
            Ended<SpacedOther, Run<AnyOf<Newlines, Range<U'/'>>, 1>>, SpacesToNewline, SpacesBeforeLast, AnySpaces>;

// The script Han, Unicode 15.
struct Han {
  static bool has(Char c) {
    constexpr struct {
      char32_t first, last;
    } kRanges[] = {{0x2E80, 0x2E99},   {0x2E9B, 0x2EF3},   {0x2F00, 0x2FD5},   {0x3005, 0x3005},   {0x3007, 0x3007},
                   {0x3021, 0x3029},   {0x3038, 0x303B},   {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFA6D},
                   {0xFA70, 0xFAD9},   {0x16FE2, 0x16FE3}, {0x16FF0, 0x16FF1}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B739},
                   {0x2B740, 0x2B81D}, {0x2B820, 0x2CEA1}, {0x2CEB0, 0x2EBE0}, {0x2F800, 0x2FA1D}, {0x30000, 0x3134A},
                   {0x31350, 0x323AF}};
    return c.code >= kRanges[0].first && std::ranges::any_of(kRanges, [&](const auto& range) {
             return c.code >= range.first && c.code <= range.last;
           });
  }
};
using KimiCapitals = Without<Capitals, Han>;
using KimiSmalls = Without<Smalls, Han>;
using KimiK2 = Pattern<Run<Han>, Ended<CapitalizedWord<KimiCapitals, KimiSmalls>, ContractionsAnyCase>,
                       Ended<CapitalWord<KimiCapitals, KimiSmalls>, ContractionsAnyCase>, Run<Numbers, 3>,
                       OtherToNewline, SpacesToNewline, SpacesBeforeLast, AnySpaces>;

using AfmoeAsian = AnyOf<Range<U'\u4E00', U'\u9FFF'>, Range<U'\u3400', U'\u4DBF'>, Range<U'\uF900', U'\uFAFF'>,
                         Range<U'\u3040', U'\u30FF'>, Range<U'\uFF65', U'\uFF9F'>, Range<U'\u2F00', U'\u2FDF'>,
                         Range<U'\u0E00', U'\u0EFF'>, Range<U'\u1780', U'\u17FF'>, Range<U'\u1000', U'\u109F'>,
                         Range<U'\uAA60', U'\uAA7F'>, Range<U'\uA9E0', U'\uA9FF'>, Range<U'\uAC00', U'\uD7AF'>,
                         Range<U'\u1100', U'\u11FF'>>;
using Afmoe = Stages<Thousands<Numbers, false>, Pattern<Run<AfmoeAsian>>, DeepSeek3Words>;
using TinyAya = Stages<Thousands<DecimalDigits, true>, O200k<3>>;
using SuperBpe = Thousands<Numbers, false>;

using YoutuAsian = Pattern<Run<AnyOf<Range<U'\uAC00', U'\uD7A3'>, Range<U'\u3131', U'\u318E'>>>,
                           Run<AnyOf<Range<U'\uFF01'>, Range<U'\u2026'>, Range<U'\u201C', U'\u201D'>,
                                     Range<U'\u2018', U'\u2019'>, Range<U'\u2014'>, Range<U'\uFF1A', U'\uFF1B'>,
                                     Range<U'\uFF0C'>, Range<U'\u3001', U'\u303F'>, Range<U'\uFE30', U'\uFE4F'>>>,
                           Run<Range<U'\u3105', U'\u312F'>>, Run<HanAndKana>>;
using Youtu = Stages<YoutuAsian, O200k<1>>;

// --- names ------------------------------------------------------------------

template <class Splitter>
void split(std::string_view text, WordSink words) {
  Splitter::split(text, words);
}

struct Flags {
  bool ignore_merges = false, add_bos = false, raw_characters = false;
};

template <class Splitter>
constexpr PreTokenizer family(std::string_view name, Flags flags = {}) {
  return {name, split<Splitter>, flags.ignore_merges, flags.add_bos, flags.raw_characters};
}

constexpr Flags kIgnoreMerges{.ignore_merges = true};
constexpr Flags kIgnoreMergesAddBos{.ignore_merges = true, .add_bos = true};
constexpr Flags kRawCharacters{.add_bos = true, .raw_characters = true};

constexpr PreTokenizer kFamilies[] = {
    family<Default>("default"),
    family<Gpt2>("gpt-2"),
    family<Gpt2>("phi-2"),
    family<Gpt2>("jina-es"),
    family<Gpt2>("jina-de"),
    family<Gpt2>("jina-v1-en"),
    family<Gpt2>("jina-v2-es"),
    family<Gpt2>("jina-v2-de"),
    family<Gpt2>("jina-v2-code"),
    family<Gpt2>("roberta-bpe"),
    family<Gpt2>("gigachat"),
    family<Gpt2>("a.x-4.0"),
    family<Gpt2>("mellum"),
    family<Gpt2>("modern-bert"),
    family<Gpt2>("mpt"),
    family<Gpt2>("olmo"),
    family<Gpt2>("jais"),
    family<Gpt2>("exaone4"),
    family<Gpt2>("trillion"),
    family<Gpt2>("granite-docling"),
    family<Starcoder>("starcoder"),
    family<Starcoder>("refact"),
    family<Starcoder>("command-r"),
    family<Starcoder>("smollm"),
    family<Starcoder>("codeshell"),
    family<Starcoder>("exaone"),
    family<Starcoder>("minerva-7b"),
    family<Starcoder>("mellum2"),
    family<Cl100k<3>>("llama3", kIgnoreMergesAddBos),
    family<Cl100k<3>>("llama-v3", kIgnoreMergesAddBos),
    family<Cl100k<3>>("llama-bpe", kIgnoreMergesAddBos),
    family<Cl100k<3>>("falcon3", kIgnoreMergesAddBos),
    family<Cl100k<3>>("falcon-h1", kIgnoreMergesAddBos),
    family<Cl100k<3>>("pixtral", kIgnoreMergesAddBos),
    family<Cl100k<3>>("midm-2.0", kIgnoreMergesAddBos),
    family<Cl100k<3>>("lfm2", kIgnoreMergesAddBos),
    family<Cl100k<3>>("jina-v5-nano", kIgnoreMergesAddBos),
    family<Cl100k<3>>("dbrx"),
    family<Cl100k<3>>("smaug-bpe"),
    family<Cl100k<3>>("glm4"),
    family<Cl100k<3>>("chatglm-bpe"),
    family<Cl100k<1>>("qwen2"),
    family<Cl100k<1>>("deepseek-r1-qwen"),
    family<Cl100k<1>>("kormo"),
    family<Cl100k<1>>("f2llmv2"),
    family<Cl100k<1>>("megrez"),
    family<Cl100k<1>>("stablelm2"),
    family<Cl100k<1>>("hunyuan"),
    family<Cl100k<1>>("grok-2"),
    family<Cl100k<1>>("solar-open"),
    family<Cl100k<1>>("bailingmoe"),
    family<Cl100k<1>>("bailingmoe2"),
    family<Cl100k<1>>("llada-moe"),
    family<Qwen35>("qwen35"),
    family<SeedCoder>("seed-coder"),
    family<MiniCpm5>("minicpm5", kIgnoreMerges),
    family<Laguna>("laguna"),
    family<Jais2>("jais-2"),
    family<ExaoneMoe>("exaone-moe"),
    family<O200k<3>>("gpt-4o"),
    family<O200k<3>>("llama4"),
    family<O200k<3>>("kanana2"),
    family<O200k<3>>("talkie"),
    family<O200k<3>>("minimax-m2"),
    family<O200k<3>>("granite-embed-multi-97m", kIgnoreMerges),
    family<Tekken>("tekken", kIgnoreMergesAddBos),
    family<KimiK2>("kimi-k2"),
    family<TinyAya>("tiny_aya"),
    family<TinyAya>("cohere2moe"),
    family<Youtu>("youtu", kIgnoreMerges),
    family<DeepSeekLlm>("deepseek-llm"),
    family<DeepSeekCoder>("deepseek-coder"),
    family<DeepSeek3>("deepseek-v3"),
    family<DeepSeek3>("hunyuan-dense"),
    family<DeepSeek3>("joyai-llm"),
    family<DeepSeek3>("hy_v4"),
    family<Spark>("spark2_5"),
    family<Afmoe>("afmoe"),
    family<Falcon>("falcon"),
    family<Bloom>("poro-chat"),
    family<Bloom>("bloom"),
    family<Bloom>("gpt3-finnish"),
    family<Viking>("viking"),
    family<SuperBpe>("superbpe"),
    family<Lines>("gemma4", kRawCharacters),
};

}  // namespace

Result<const PreTokenizer*> find_pre_tokenizer(std::string_view name) {
  if (name.empty()) name = "default";
  const auto* found = std::ranges::find(kFamilies, name, &PreTokenizer::name);
  if (found == std::end(kFamilies))
    return Error{Code::unsupported,
                 fmt::format("tokenizer.ggml.pre is \"{}\": no pre-tokenizer of that name is known", name)};
  return found;
}

std::vector<const PreTokenizer*> pre_tokenizers() {
  std::vector<const PreTokenizer*> all;
  for (const PreTokenizer& family : kFamilies) all.push_back(&family);
  return all;
}

}  // namespace ashlar::text
