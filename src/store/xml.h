// As much XML as S3 answers with: elements and text. Hostile: depth, size and
// count are bounded, and what S3 never sends (document types, entities of one's
// own) is refused.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ashlar::store {

struct XmlElement {
  std::string name;  // without its namespace's prefix
  std::string text;  // of its own, entities replaced
  std::vector<XmlElement> children;

  // The first child of that name; nullptr: none.
  const XmlElement* child(std::string_view wanted) const;
  std::string text_of(std::string_view wanted) const;  // "": no such child
};

// The root. corrupt: not such XML; too_large: over the bounds.
Result<XmlElement> parse_xml(std::string_view text);

}  // namespace ashlar::store
