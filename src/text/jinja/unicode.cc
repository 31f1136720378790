#include "text/jinja/unicode.h"

#include <algorithm>
#include <span>

#include "base/utf8.h"
#include "text/jinja/unicode_tables.h"

namespace ashlar::text::jinja {
namespace {

std::uint32_t run_at(const std::uint32_t* runs, std::size_t count, char32_t code) {
  const auto* after = std::upper_bound(runs, runs + count, static_cast<std::uint32_t>(code) << 8 | 0xFF);
  return after == runs ? 0 : after[-1];
}

struct Mapping {
  std::span<const CaseRange> ranges;
  std::span<const CaseSpecial> specials;

  void append(std::string& out, char32_t code) const {
    const auto special = std::ranges::lower_bound(specials, static_cast<std::uint32_t>(code), {}, &CaseSpecial::code);
    if (special != specials.end() && special->code == code) {
      out.append(special->text);
      return;
    }
    auto after = std::ranges::upper_bound(ranges, static_cast<std::uint32_t>(code), {}, &CaseRange::first);
    // Ranges of stride two may interleave, so the one before may be the owner.
    for (int back = 0; back < 2 && after != ranges.begin(); ++back) {
      --after;
      if (code <= after->last && (code - after->first) % static_cast<std::uint32_t>(after->stride) == 0) {
        utf8::append(out, static_cast<char32_t>(static_cast<std::int32_t>(code) + after->delta));
        return;
      }
    }
    utf8::append(out, code);
  }
};

const Mapping& upper() {
  static const Mapping mapping{{kUpperRanges, kUpperRangeCount}, {kUpperSpecials, kUpperSpecialCount}};
  return mapping;
}
const Mapping& lower() {
  static const Mapping mapping{{kLowerRanges, kLowerRangeCount}, {kLowerSpecials, kLowerSpecialCount}};
  return mapping;
}
const Mapping& title() {
  static const Mapping mapping{{kTitleRanges, kTitleRangeCount}, {kTitleSpecials, kTitleSpecialCount}};
  return mapping;
}

bool cased(char32_t code) { return case_of(code) != Case::none; }

// Greek's one letter whose lower case depends on its neighbours.
constexpr char32_t kSigma = 0x3A3;

void append_lower(std::string& out, std::string_view text, std::size_t at, char32_t code) {
  if (code != kSigma) return lower().append(out, code);
  bool before = false, after = false;
  for (std::size_t i = at; i > 0;) {
    do --i;
    while (i > 0 && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80);
    const char32_t c = utf8::decode(text.substr(i)).code;
    if (c == '\'' || c == 0x2019 || (c >= 0x300 && c <= 0x36F)) continue;  // ignorable
    before = cased(c);
    break;
  }
  for (std::size_t i = at + 2; i < text.size();) {
    const auto step = utf8::decode(text.substr(i));
    i += step.bytes;
    if (step.code == '\'' || step.code == 0x2019 || (step.code >= 0x300 && step.code <= 0x36F)) continue;
    after = cased(step.code);
    break;
  }
  utf8::append(out, before && !after ? 0x3C2 : 0x3C3);
}

// Calls each(position, code) for every code point.
template <class Each>
std::string mapped(std::string_view text, Each&& each) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto step = utf8::decode(text.substr(i));
    each(out, i, step.code);
    i += step.bytes;
  }
  return out;
}

}  // namespace

std::uint8_t char_class(char32_t code) {
  return static_cast<std::uint8_t>(run_at(kClassRuns, kClassRunCount, code) & 0xFF);
}

Case case_of(char32_t code) {
  const std::uint32_t run = run_at(kCaseRuns, kCaseRunCount, code);
  const auto kind = static_cast<std::uint8_t>(run & 0xFF);
  if (kind == 4) return (code - (run >> 8)) % 2 == 0 ? Case::upper : Case::lower;
  return static_cast<Case>(kind);
}

std::string to_upper(std::string_view text) {
  return mapped(text, [](std::string& out, std::size_t, char32_t code) { upper().append(out, code); });
}

std::string to_lower(std::string_view text) {
  return mapped(text, [&](std::string& out, std::size_t at, char32_t code) { append_lower(out, text, at, code); });
}

std::string to_capitalized(std::string_view text) {
  return mapped(text, [&](std::string& out, std::size_t at, char32_t code) {
    if (at == 0)
      title().append(out, code);
    else
      append_lower(out, text, at, code);
  });
}

std::string to_title(std::string_view text) {
  bool inside = false;
  return mapped(text, [&](std::string& out, std::size_t at, char32_t code) {
    if (inside)
      append_lower(out, text, at, code);
    else
      title().append(out, code);
    inside = cased(code);
  });
}

std::string swap_case(std::string_view text) {
  return mapped(text, [&](std::string& out, std::size_t at, char32_t code) {
    switch (case_of(code)) {
      case Case::upper:
        return append_lower(out, text, at, code);
      case Case::lower:
        return upper().append(out, code);
      default:
        utf8::append(out, code);
    }
  });
}

std::string_view slice_points(std::string_view text, std::size_t from, std::size_t to, bool ascii) {
  if (ascii) {
    from = std::min(from, text.size());
    return text.substr(from, std::max(from, std::min(to, text.size())) - from);
  }
  const auto skip = [&](std::size_t at, std::size_t points) {
    while (at < text.size() && points > 0) {
      ++at;
      while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
      --points;
    }
    return at;
  };
  const std::size_t begin = skip(0, from);
  return text.substr(begin, skip(begin, to > from ? to - from : 0) - begin);
}

std::size_t count_points(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace ashlar::text::jinja
