// How far two answers to one request agree.
#pragma once

#include <string_view>

namespace ashlar::gateway {

struct AnswerDiff {
  double agreement = 1;  // 1 less the edit distance over the longer one's words: 1 equal, 0 nothing in common
  double prefix = 1;     // the words that are equal from the beginning, over the longer one's
};

// Words are runs of letters and digits, or one other character that is no blank; a character beyond ASCII is a word of
// its own where its script writes none apart. Of each answer the first thousand words are compared.
AnswerDiff diff_answers(std::string_view one, std::string_view other);

}  // namespace ashlar::gateway
