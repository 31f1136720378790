#include "text/jinja/wrap.h"

#include <algorithm>
#include <deque>

#include "base/utf8.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

struct Chunk {
  std::string_view text;
  std::int64_t points = 0;
  bool blank = false;
};

// textwrap knows only ASCII blanks.
bool blank_char(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool word_char(char32_t c) { return c == '_' || (char_class(c) & (kAlpha | kNumeric)) != 0; }
bool letter(char32_t c) { return word_char(c) && (char_class(c) & kDecimal) == 0; }

// Cuts a word after hyphens between letters, and around dashes of two or more.
void cut_word(std::string_view word, std::vector<std::string_view>& out) {
  std::vector<std::pair<char32_t, std::size_t>> points;  // with where each begins
  for (std::size_t i = 0; i < word.size();) {
    const auto step = utf8::decode(word.substr(i));
    points.emplace_back(step.code, i);
    i += step.bytes;
  }
  const auto at = [&](std::size_t i) { return i < points.size() ? points[i].first : U'\0'; };
  const auto offset = [&](std::size_t i) { return i < points.size() ? points[i].second : word.size(); };
  std::size_t begin = 0;
  const auto cut = [&](std::size_t end) {
    if (end > begin) out.push_back(word.substr(offset(begin), offset(end) - offset(begin)));
    begin = end;
  };
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (at(i) != '-') continue;
    std::size_t end = i;
    while (at(end) == '-') ++end;
    if (end - i >= 2 && i > 0 && word_char(at(end))) {
      cut(i);
      cut(end);
    } else if (end - i == 1 && i >= begin + 2 && letter(at(i - 1)) && letter(at(i - 2)) && letter(at(i + 1)) &&
               letter(at(i + 2))) {
      cut(i + 1);
    }
    i = end - 1;
  }
  cut(points.size());
}

std::deque<Chunk> chunks_of(std::string_view line, bool hyphens) {
  std::deque<Chunk> chunks;
  for (std::size_t at = 0; at < line.size();) {
    const bool blank = blank_char(line[at]);
    std::size_t end = at;
    while (end < line.size() && blank_char(line[end]) == blank) ++end;
    std::vector<std::string_view> pieces;
    if (blank || !hyphens)
      pieces.push_back(line.substr(at, end - at));
    else
      cut_word(line.substr(at, end - at), pieces);
    for (const auto piece : pieces) chunks.push_back({piece, static_cast<std::int64_t>(count_points(piece)), blank});
    at = end;
  }
  return chunks;
}

}  // namespace

std::vector<std::string> wrap_line(std::string_view line, const WrapStyle& style) {
  std::vector<std::string> lines;
  auto chunks = chunks_of(line, style.break_on_hyphens);
  while (!chunks.empty()) {
    if (chunks.front().blank && !lines.empty()) chunks.pop_front();
    std::string current;
    std::int64_t used = 0;
    std::string_view last;
    bool last_blank = false;
    const auto take = [&](const Chunk& chunk) {
      current.append(chunk.text);
      used += chunk.points;
      last = chunk.text;
      last_blank = chunk.blank;
    };
    while (!chunks.empty() && used + chunks.front().points <= style.width) {
      take(chunks.front());
      chunks.pop_front();
    }
    if (!chunks.empty() && chunks.front().points > style.width) {
      Chunk& longest = chunks.front();
      if (style.break_long_words) {
        std::int64_t room = std::max<std::int64_t>(1, style.width - used);
        if (style.break_on_hyphens && longest.points > room) {
          // A hyphen in the part that fits is the better place.
          const auto head = slice_points(longest.text, 0, static_cast<std::size_t>(room), false);
          const std::size_t hyphen = head.rfind('-');
          if (hyphen != head.npos && hyphen > 0 && head.substr(0, hyphen).find_first_not_of('-') != head.npos) {
            room = static_cast<std::int64_t>(count_points(head.substr(0, hyphen))) + 1;
          }
        }
        const auto head = slice_points(longest.text, 0, static_cast<std::size_t>(room), false);
        take({head, room, false});
        longest.text.remove_prefix(head.size());
        longest.points -= room;
      } else if (current.empty()) {
        take(longest);
        chunks.pop_front();
      }
    }
    if (last_blank) current.resize(current.size() - last.size());
    if (!current.empty()) lines.push_back(std::move(current));
  }
  return lines;
}

}  // namespace ashlar::text::jinja
