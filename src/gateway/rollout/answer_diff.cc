#include "gateway/rollout/answer_diff.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostWords = 1000;

bool is_blank(unsigned char c) { return c <= ' '; }
bool is_ascii_letter(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
// Latin, Greek, Cyrillic and the like, whose words have blanks between them: two bytes of UTF-8.
bool is_letter(unsigned char c) { return is_ascii_letter(c) || (c >= 0xC2 && c <= 0xDF); }

std::size_t length_of(unsigned char first) { return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4; }

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> out;
  for (std::size_t i = 0; i < text.size() && out.size() < kMostWords;) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (is_blank(c)) {
      ++i;
      continue;
    }
    const std::size_t begin = i;
    i += length_of(c);
    if (is_letter(c))
      while (i < text.size() && is_letter(static_cast<unsigned char>(text[i])))
        i += length_of(static_cast<unsigned char>(text[i]));
    i = std::min(i, text.size());
    out.push_back(text.substr(begin, i - begin));
  }
  return out;
}

// Levenshtein's, in one row.
std::size_t distance(const std::vector<std::string_view>& one, const std::vector<std::string_view>& other) {
  std::vector<std::size_t> row(other.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= one.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= other.size(); ++j) {
      const std::size_t changed = diagonal + (one[i - 1] == other[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

AnswerDiff diff_answers(std::string_view one, std::string_view other) {
  if (one == other) return {};
  const auto mine = words_of(one), theirs = words_of(other);
  const std::size_t longer = std::max(mine.size(), theirs.size());
  if (longer == 0) return {};
  const auto same = std::ranges::mismatch(mine, theirs).in1 - mine.begin();
  return {.agreement = 1 - static_cast<double>(distance(mine, theirs)) / static_cast<double>(longer),
          .prefix = static_cast<double>(same) / static_cast<double>(longer)};
}

}  // namespace ashlar::gateway
