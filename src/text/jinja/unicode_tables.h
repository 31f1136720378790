// The tables behind unicode.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ashlar::text::jinja {

// Runs of code points alike: first << 8 | flags, sorted; a run ends where the next begins.
extern const std::uint32_t kClassRuns[];  // flags: CharClass
extern const std::size_t kClassRunCount;
// 0 none, 1 upper, 2 lower, 3 title, 4 upper and lower by turns.
extern const std::uint32_t kCaseRuns[];
extern const std::size_t kCaseRunCount;

// Every `stride`th code point from first to last maps to itself plus delta.
struct CaseRange {
  std::uint32_t first, last;
  std::int32_t stride, delta;
};
// A code point that maps to several, in UTF-8.
struct CaseSpecial {
  std::uint32_t code;
  const char* text;
};
extern const CaseRange kUpperRanges[], kLowerRanges[], kTitleRanges[];
extern const std::size_t kUpperRangeCount, kLowerRangeCount, kTitleRangeCount;
extern const CaseSpecial kUpperSpecials[], kLowerSpecials[], kTitleSpecials[];
extern const std::size_t kUpperSpecialCount, kLowerSpecialCount, kTitleSpecialCount;

}  // namespace ashlar::text::jinja
