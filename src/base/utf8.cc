#include "base/utf8.h"

#include <algorithm>

namespace ashlar::utf8 {

Step decode(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return {.code = lead, .bytes = 1, .valid = true};
  // RFC 3629: the second byte's range excludes overlong forms, surrogates and
  // everything above U+10FFFF.
  std::size_t length = 0;
  unsigned low = 0x80, high = 0xBF;
  char32_t code = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2, code = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3, code = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4, code = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {};
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {.bytes = i, .truncated = true};
    if (at(i) < low || at(i) > high) return {.bytes = i};
    low = 0x80, high = 0xBF;
    code = (code << 6) | (at(i) & 0x3F);
  }
  return {.code = code, .bytes = length, .valid = true};
}

void append(std::string& out, char32_t code) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6)), put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12)), put(0x80 | ((code >> 6) & 0x3F)), put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18)), put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F)), put(0x80 | (code & 0x3F));
  }
}

bool is_valid(std::string_view text) {
  while (!text.empty()) {
    const Step step = decode(text);
    if (!step.valid) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

std::size_t complete_prefix(std::string_view text) {
  // Only the last three bytes can begin a character that is not finished.
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const std::size_t start = text.size() - back;
    if ((static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) continue;  // a continuation byte
    return decode(text.substr(start)).truncated ? start : text.size();
  }
  return text.size();
}

std::string sanitize(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Step step = decode(text);
    if (step.valid) out.append(text.substr(0, step.bytes));
    else out.append("\xEF\xBF\xBD");
    text.remove_prefix(step.bytes);
  }
  return out;
}

}  // namespace ashlar::utf8
