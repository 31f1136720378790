#include "text/sentencepiece.h"

#include <algorithm>

namespace ashlar::text {

void append_escaped(std::string_view text, std::string& out) {
  while (!text.empty()) {
    const std::size_t space = std::min(text.find(' '), text.size());
    out += text.substr(0, space);
    text.remove_prefix(space);
    if (text.empty()) return;
    out += kSpaceMark;
    text.remove_prefix(1);
  }
}

void SentencePiece::append_piece(TokenId id, std::string& bytes) const {
  std::string_view text = token(id);
  while (!text.empty()) {
    const std::size_t mark = std::min(text.find(kSpaceMark), text.size());
    bytes += text.substr(0, mark);
    text.remove_prefix(mark);
    if (text.empty()) return;
    bytes += ' ';
    text.remove_prefix(kSpaceMark.size());
  }
}

void SentencePiece::append_bytes(std::string_view text, std::vector<TokenId>& out) const {
  const bool all = std::ranges::all_of(text, [&](char byte) { return byte_id(static_cast<unsigned char>(byte)) >= 0; });
  if (all) {
    for (const char byte : text) out.push_back(byte_id(static_cast<unsigned char>(byte)));
    return;
  }
  const TokenId unknown = vocabulary().unknown;
  if (unknown >= 0 && (out.empty() || out.back() != unknown)) out.push_back(unknown);
}

}  // namespace ashlar::text
