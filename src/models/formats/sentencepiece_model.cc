#include "models/formats/sentencepiece_model.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <optional>

namespace ashlar::models {
namespace {

constexpr std::size_t kMaxPieces = 1 << 24;

// One field of a protobuf message: https://protobuf.dev/programming-guides/encoding/
struct Field {
  std::uint32_t number = 0;
  std::uint64_t value = 0;  // varint, fixed64 or fixed32
  std::string_view bytes;   // of a length-delimited one
};

class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}

  // False at the end, and for good once something was broken.
  bool next(Field& field) {
    if (rest_.empty() || broken_) return false;
    std::uint64_t key = 0, length = 0;
    field = {};
    if (!varint(key)) return false;
    field.number = static_cast<std::uint32_t>(key >> 3);
    switch (key & 7) {
      case 0:
        return varint(field.value);
      case 1:
        return fixed(8, field.value);
      case 2:
        if (!varint(length) || length > rest_.size()) return fail();
        field.bytes = rest_.substr(0, length);
        rest_.remove_prefix(length);
        return true;
      case 5:
        return fixed(4, field.value);
      default:
        return fail();
    }
  }
  bool broken() const { return broken_; }

 private:
  bool fail() {
    broken_ = true;
    return false;
  }
  bool varint(std::uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<std::uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) return true;
    }
    return fail();
  }
  bool fixed(std::size_t bytes, std::uint64_t& value) {
    if (rest_.size() < bytes) return fail();
    std::memcpy(&value, rest_.data(), bytes);
    rest_.remove_prefix(bytes);
    return true;
  }

  std::string_view rest_;
  bool broken_ = false;
};

// Ids are int32 and -1 for none, which a varint writes as 64 bits.
text::TokenId id_of(std::uint64_t value) { return static_cast<text::TokenId>(static_cast<std::int64_t>(value)); }

bool read_piece(std::string_view bytes, text::Vocabulary& v) {
  std::string_view piece;
  float score = 0;
  std::uint64_t type = 1;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == 1) piece = field.bytes;
    if (field.number == 2) score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    if (field.number == 3) type = field.value;
  }
  if (message.broken() || type < 1 || type > 6 || v.tokens.size() >= kMaxPieces) return false;
  v.tokens.emplace_back(piece);
  v.scores.push_back(score);
  v.types.push_back(static_cast<text::TokenType>(type));  // the same numbers as GGUF's
  return true;
}

bool read_trainer(std::string_view bytes, std::uint64_t& kind, text::Vocabulary& v) {
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == 3) kind = field.value;
    if (field.number == 40) v.unknown = id_of(field.value);
    if (field.number == 41) v.bos = id_of(field.value);
    if (field.number == 42) v.eos = id_of(field.value);
    if (field.number == 43) v.padding = id_of(field.value);
  }
  return !message.broken();
}

bool read_normalizer(std::string_view bytes, text::Vocabulary& v) {
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == 2) v.precompiled_charsmap = field.bytes;
    if (field.number == 3) v.add_space_prefix = field.value != 0;
    if (field.number == 4) v.remove_extra_whitespaces = field.value != 0;
  }
  return !message.broken();
}

}  // namespace

Result<text::Vocabulary> read_sentencepiece_model(std::string_view bytes, std::string_view name) {
  const auto corrupt = [&](std::string_view what) {
    return Error{Code::corrupt, fmt::format("{}: {}; a SentencePiece model is expected", name, what)};
  };
  text::Vocabulary v;
  v.unknown = 0, v.bos = 1, v.eos = 2;  // what the trainer does unless told otherwise
  v.remove_extra_whitespaces = true;
  std::uint64_t kind = 1;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == 1 && !read_piece(field.bytes, v))
      return corrupt(fmt::format("piece {} is broken", v.tokens.size()));
    if (field.number == 2 && !read_trainer(field.bytes, kind, v)) return corrupt("the trainer's settings are broken");
    if (field.number == 3 && !read_normalizer(field.bytes, v)) return corrupt("the normalizer's settings are broken");
  }
  if (message.broken()) return corrupt("the file is cut off or broken");
  if (v.tokens.empty()) return corrupt("there are no pieces");
  if (kind != 1 && kind != 2)
    return Error{Code::unsupported,
                 fmt::format("{}: a SentencePiece model of type {}; unigram and BPE are supported", name, kind)};
  for (text::TokenId* id : {&v.unknown, &v.bos, &v.eos, &v.padding}) {
    if (*id < -1 || *id >= static_cast<text::TokenId>(v.tokens.size()))
      return corrupt(fmt::format("a special token has the id {} of {}", *id, v.tokens.size()));
  }
  v.model = kind == 2 ? "llama" : "t5";
  if (kind == 2) v.remove_extra_whitespaces = false;  // as GGUF has the family: its models were trained without
  return v;
}

}  // namespace ashlar::models
