// The parts that pre-tokenizer patterns are made of. Each stands for one
// alternative of a regular expression and says where a match that begins at `at`
// ends, or nullptr. They are types, so that a whole pattern compiles to one loop.
#pragma once

#include "text/unicode.h"

namespace ashlar::text::patterns {

using namespace unicode;

// --- sets of characters -----------------------------------------------------

template <Kinds kKinds>
struct Of {
  static bool has(Char c) { return (c.kinds & kKinds) != 0; }
};
template <Kinds kKinds>
struct Not {
  static bool has(Char c) { return (c.kinds & kKinds) == 0; }
};
template <char32_t kFirst, char32_t kLast = kFirst>
struct Range {
  static bool has(Char c) { return c.code >= kFirst && c.code <= kLast; }
};
template <class... Sets>
struct AnyOf {
  static bool has(Char c) { return (Sets::has(c) || ...); }
};
template <class Set, class... Excluded>
struct Without {
  static bool has(Char c) { return Set::has(c) && !(Excluded::has(c) || ...); }
};

struct DecimalDigits {  // \d
  static bool has(Char c) { return (c.kinds & kNumber) != 0 && is_decimal_digit(c.code); }
};

using Letters = Of<kLetter>;
using Numbers = Of<kNumber>;
using Spaces = Of<kSpace>;
using Newlines = AnyOf<Range<U'\n'>, Range<U'\r'>>;
using Space = Range<U' '>;
using AsciiDigits = Range<U'0', U'9'>;
using AsciiLetters = AnyOf<Range<U'A', U'Z'>, Range<U'a', U'z'>>;
using AsciiPunctuation = Without<Range<U'!', U'~'>, AsciiDigits, AsciiLetters>;
using Other = Not<kSpace | kLetter | kNumber>;  // [^\s\p{L}\p{N}]

template <class Set>
const char* skip(const char* at, const char* end) {
  while (at < end) {
    const Char c = read(at, end);
    if (!Set::has(c)) break;
    at += c.bytes;
  }
  return at;
}

template <class Set>
bool begins_with(const char* at, const char* end) {
  return at < end && Set::has(read(at, end));
}

// What an alternative found out and would otherwise look for again from the next
// position, and the next: it keeps patterns linear.
struct Seen {
  const char* no_newline_before = nullptr;  // within the white space that reaches here
};

// --- alternatives -----------------------------------------------------------

// Set{1,kMost}; 0: Set+
template <class Set, int kMost = 0>
struct Run {
  static const char* match(const char* at, const char* end) {
    const char* stop = at;
    for (int n = 0; (kMost == 0 || n < kMost) && stop < end; ++n) {
      const Char c = read(stop, end);
      if (!Set::has(c)) break;
      stop += c.bytes;
    }
    return stop == at ? nullptr : stop;
  }
};

// Before? Then, where Then is an alternative itself.
template <class Before, class Then>
struct Maybe {
  static const char* match(const char* at, const char* end) {
    if (const Char c = read(at, end); Before::has(c) && at + c.bytes < end)
      if (const char* stop = Then::match(at + c.bytes, end)) return stop;
    return Then::match(at, end);
  }
};

// First, then Set*
template <class First, class Set>
struct Trailed {
  static const char* match(const char* at, const char* end) {
    const char* stop = First::match(at, end);
    return stop == nullptr ? nullptr : skip<Set>(stop, end);
  }
};

// First, then Last?
template <class First, class Last>
struct Ended {
  static const char* match(const char* at, const char* end) {
    const char* stop = First::match(at, end);
    if (stop == nullptr || stop == end) return stop;
    const char* further = Last::match(stop, end);
    return further != nullptr ? further : stop;
  }
};

// Both, one after the other.
template <class First, class Second>
struct Then {
  static const char* match(const char* at, const char* end) {
    const char* stop = First::match(at, end);
    return stop == nullptr || stop == end ? nullptr : Second::match(stop, end);
  }
};

// 's|'t|'re|'ve|'m|'ll|'d
template <bool kAnyCase>
struct Contraction {
  static const char* match(const char* at, const char* end) {
    if (*at != '\'' || end - at < 2) return nullptr;
    const auto lower = [](char c) { return kAnyCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    const char first = lower(at[1]);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    if (end - at < 3) return nullptr;
    const char second = lower(at[2]);
    const bool two =
        (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    return two ? at + 3 : nullptr;
  }
};

// \s+(?!\S): white space, but for its last character where a word follows.
struct SpacesBeforeLast {
  static const char* match(const char* at, const char* end) {
    const char* last = at;
    const char* stop = at;
    while (stop < end) {
      const Char c = read(stop, end);
      if (!Spaces::has(c)) break;
      last = stop;
      stop += c.bytes;
    }
    if (stop < end) stop = last;
    return stop == at ? nullptr : stop;
  }
};

// \s*[\r\n]+, or \s*[\r\n]: white space up to the last newline in it.
struct SpacesToNewline {
  static const char* match(const char* at, const char* end, Seen& seen) {
    if (at < seen.no_newline_before) return nullptr;
    const char* stop = nullptr;
    while (at < end) {
      const Char c = read(at, end);
      if (!Spaces::has(c)) break;
      at += c.bytes;
      if (Newlines::has(c)) stop = at;
    }
    if (stop == nullptr) seen.no_newline_before = at;
    return stop;
  }
};

// Upper* Lower+, where the two share characters that have no case: the run of
// Upper gives back as little as it can.
template <class Upper, class Lower>
struct Capitalized {
  static const char* match(const char* at, const char* end) {
    const char* stop = at;
    const char* shared = nullptr;  // after the last character of the run that is in Lower too
    while (stop < end) {
      const Char c = read(stop, end);
      if (!Upper::has(c)) break;
      stop += c.bytes;
      if (Lower::has(c)) shared = stop;
    }
    if (begins_with<Lower>(stop, end)) return skip<Lower>(stop, end);
    return shared;
  }
};

// --- patterns ---------------------------------------------------------------

// The alternatives in their order; what none of them matches is a word too.
template <class... Alternatives>
struct Pattern {
  template <class Emit>
  static void split(std::string_view text, Emit&& emit) {
    const char* at = text.data();
    const char* const end = at + text.size();
    const char* unmatched = at;
    Seen seen;
    while (at < end) {
      const char* stop = nullptr;
      static_cast<void>(((stop = match<Alternatives>(at, end, seen)) || ...));
      if (stop == nullptr) {
        at += read(at, end).bytes;
        continue;
      }
      if (unmatched != at) emit(std::string_view(unmatched, at));
      emit(std::string_view(at, stop));
      at = unmatched = stop;
    }
    if (unmatched != at) emit(std::string_view(unmatched, at));
  }

 private:
  template <class Alternative>
  static const char* match(const char* at, const char* end, Seen& seen) {
    if constexpr (requires { Alternative::match(at, end, seen); })
      return Alternative::match(at, end, seen);
    else
      return Alternative::match(at, end);
  }
};

// \s+$
struct TrailingSpaces {
  template <class Emit>
  static void split(std::string_view text, Emit&& emit) {
    const char* at = text.data();
    const char* const end = at + text.size();
    const char* words_end = at;
    while (at < end) {
      const Char c = read(at, end);
      at += c.bytes;
      if (!Spaces::has(c)) words_end = at;
    }
    if (words_end != text.data()) emit(std::string_view(text.data(), words_end));
    if (words_end != end) emit(std::string_view(words_end, end));
  }
};

// Runs of Digits in threes counted from their end, as thousands are written;
// kBoundary: only where no letter and no underscore touches the run's end.
template <class Digits, bool kBoundary>
struct Thousands {
  template <class Emit>
  static void split(std::string_view text, Emit&& emit) {
    const char* at = text.data();
    const char* const end = at + text.size();
    const char* unmatched = at;
    while (at < end) {
      std::size_t count = 0;
      const char* stop = at;
      while (stop < end) {
        const Char c = read(stop, end);
        if (!Digits::has(c)) break;
        stop += c.bytes, ++count;
      }
      const bool bounded = !kBoundary || !begins_with<AnyOf<Of<kLetter | kMark | kNumber>, Range<U'_'>>>(stop, end);
      if (count == 0) {
        at += read(at, end).bytes;
      } else if (!bounded) {
        at = stop;
      } else {
        if (unmatched != at) emit(std::string_view(unmatched, at));
        for (std::size_t take = (count - 1) % 3 + 1; at < stop; take = 3) {
          const char* begin = at;
          for (; take > 0; --take) at += read(at, end).bytes;
          emit(std::string_view(begin, at));
        }
        unmatched = at;
      }
    }
    if (unmatched != at) emit(std::string_view(unmatched, at));
  }
};

// Pattern after pattern, each within the words of the one before.
template <class First, class... Rest>
struct Stages {
  template <class Emit>
  static void split(std::string_view text, Emit&& emit) {
    if constexpr (sizeof...(Rest) == 0)
      First::split(text, emit);
    else
      First::split(text, [&](std::string_view word) { Stages<Rest...>::split(word, emit); });
  }
};

}  // namespace ashlar::text::patterns
