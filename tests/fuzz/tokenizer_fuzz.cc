// Arbitrary text through a small vocabulary of every kind, and arbitrary bytes as
// a vocabulary: nothing crashes, ids are in range, byte-level BPE gives back what
// it was given.
//
//   byte 0: which vocabulary, and options     the rest: the text, or the vocabulary
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/utf8.h"
#include "text/pretokenizer.h"
#include "text/small_vocabularies.h"
#include "text/tokenizer.h"

namespace {

using namespace ashlar;
using namespace ashlar::text;

void check(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options, bool comes_back) {
  const std::vector<TokenId> ids = tokenizer.encode(text, options);
  StreamDecoder decoder(tokenizer, options.parse_special, !options.add_special);
  for (const TokenId id : ids) {
    CHECK(id >= 0 && id < tokenizer.size(), "an id is out of range");
    CHECK(utf8::is_valid(decoder.push(id)), "a stream split a character");
  }
  CHECK(utf8::is_valid(decoder.finish()), "a stream ended in a broken character");
  const std::string decoded = tokenizer.decode(ids, true);
  if (comes_back) CHECK(decoded == text, "decoding did not undo encoding");
}

const std::vector<std::shared_ptr<const Tokenizer>>& small_ones() {
  static const auto all = [] {
    std::vector<std::shared_ptr<const Tokenizer>> made;
    const auto add = [&](Vocabulary vocabulary) { made.push_back(*Tokenizer::create(std::move(vocabulary))); };
    std::set<void (*)(std::string_view, WordSink)> patterns;
    for (const PreTokenizer* pre : pre_tokenizers()) {
      if (pre->raw_characters || !patterns.insert(pre->split).second) continue;
      Vocabulary vocabulary = small_bpe();
      vocabulary.pre = pre->name;
      add(std::move(vocabulary));
    }
    add(small_character_bpe());
    for (const char* model : {"llama", "t5"})
      for (const bool bytes : {false, true}) add(small_sentencepiece(model, bytes));
    add(small_wordpiece());
    return made;
  }();
  return all;
}

// A vocabulary whose parts are cut from the input at line ends.
Vocabulary vocabulary_of(std::string_view bytes) {
  constexpr const char* kModels[] = {"gpt2", "llama", "t5", "bert", "gemma4"};
  const auto take = [&] {
    if (bytes.empty()) return std::uint8_t{0};
    const auto byte = static_cast<std::uint8_t>(bytes[0]);
    bytes.remove_prefix(1);
    return byte;
  };
  Vocabulary vocabulary;
  vocabulary.model = kModels[take() % std::size(kModels)];
  const std::vector<const PreTokenizer*> all = pre_tokenizers();
  vocabulary.pre = all[take() % all.size()]->name;
  const std::uint8_t flags = take();
  vocabulary.add_bos = flags & 1, vocabulary.add_eos = flags & 2, vocabulary.add_space_prefix = flags & 4;
  vocabulary.remove_extra_whitespaces = flags & 8;
  vocabulary.bos = static_cast<std::int8_t>(take()), vocabulary.eos = static_cast<std::int8_t>(take());
  vocabulary.unknown = static_cast<std::int8_t>(take());
  if (flags & 16) vocabulary.precompiled_charsmap = std::string(bytes.substr(0, 400));
  while (!bytes.empty()) {
    const std::uint8_t kind = take();
    const std::size_t end = std::min(bytes.find('\n'), bytes.size());
    if (kind % 4 == 0) {
      vocabulary.merges.emplace_back(bytes.substr(0, end));
    } else {
      vocabulary.tokens.emplace_back(bytes.substr(0, end));
      vocabulary.types.push_back(static_cast<TokenType>(kind % 7));
      vocabulary.scores.push_back(static_cast<float>(kind) - 128.0f);
    }
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
  return vocabulary;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const auto& tokenizers = small_ones();
  const EncodeOptions options{.add_special = (data[0] & 64) != 0, .parse_special = (data[0] & 32) != 0};
  if (data[0] & 128) {
    if (const auto tokenizer = Tokenizer::create(vocabulary_of(input.substr(1))))
      check(**tokenizer, input, options, false);
    return 0;
  }
  const std::string_view text = input.substr(1);
  // One in sixteen, so that the others are tried on other inputs.
  for (std::size_t i = data[0] % 16; i < tokenizers.size(); i += 16) {
    const auto& tokenizer = tokenizers[i];
    const bool byte_level = tokenizer->vocabulary().model == "gpt2";
    check(*tokenizer, text, options, byte_level && !options.add_special);
  }
  return 0;
}
