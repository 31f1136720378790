#include "text/jinja/markup.h"

namespace ashlar::text::jinja {

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out.append("&amp;");
        break;
      case '<':
        out.append("&lt;");
        break;
      case '>':
        out.append("&gt;");
        break;
      case '\'':
        out.append("&#39;");
        break;
      case '"':
        out.append("&#34;");
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

std::string escape_unless_markup(const Value& string) {
  return string.as<String>().markup ? std::string(string.text()) : escape_html(string.text());
}

}  // namespace ashlar::text::jinja
