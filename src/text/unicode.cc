#include "text/unicode.h"

#include <cstdlib>

namespace ashlar::text::unicode {

Kinds kinds_beyond_ascii(char32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT:
      return kUpper;
    case UTF8PROC_CATEGORY_LL:
      return kLower;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return kOtherLetter;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return kMark;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return kNumber;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return kPunctuation;
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO:
      return kSymbol;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return kSpace;
    default:
      return code == 0x85 ? kSpace : Kinds{0};  // NEXT LINE is a control character, and white space
  }
}

bool is_decimal_digit(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code)) == UTF8PROC_CATEGORY_ND;
}

namespace {

// Text without such a character is composed as it stands: none has a decomposition, none combines with what stands
// before it.
bool may_change(char32_t code) {
  if (code < 0xC0) return false;
  if ((kinds(code) & kMark) != 0 || (code >= 0x1100 && code < 0x1200)) return true;
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(code));
  // Precomposed letters decompose to what composes to them again; those that do not are rare, and looked at in full.
  return property->decomp_type == 0 && property->decomp_seqindex != UINT16_MAX && code >= 0x0340;
}

}  // namespace

std::string_view composed(std::string_view text, std::string& room) {
  bool change = false;
  for (const char *at = text.data(), *end = at + text.size(); at < end && !change;) {
    const CodePoint code = read_code(at, end);
    change = may_change(code.code);
    at += code.bytes;
  }
  if (!change) return text;
  utf8proc_uint8_t* made = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &made, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (size < 0) return text;
  room.assign(reinterpret_cast<const char*>(made), static_cast<std::size_t>(size));
  std::free(made);
  return room;
}

}  // namespace ashlar::text::unicode
