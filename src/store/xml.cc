#include "store/xml.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/utf8.h"

namespace ashlar::store {
namespace {

constexpr std::size_t kMostDepth = 16, kMostElements = 50'000;

Error broken(const char* why) { return Error{Code::corrupt, std::string("the XML is broken: ") + why}; }

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// "amp", "#38", "#x26".
std::optional<char32_t> entity(std::string_view name) {
  constexpr std::pair<std::string_view, char32_t> kNamed[] = {
      {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};
  for (const auto& [each, code] : kNamed)
    if (each == name) return code;
  if (!name.starts_with('#')) return std::nullopt;
  name.remove_prefix(1);
  const int base = name.starts_with('x') ? 16 : 10;
  if (base == 16) name.remove_prefix(1);
  std::uint32_t code = 0;
  const auto [end, failed] = std::from_chars(name.data(), name.data() + name.size(), code, base);
  const bool fine = failed == std::errc{} && end == name.data() + name.size() && code >= 0x20 && code <= 0x10FFFF &&
                    (code < 0xD800 || code > 0xDFFF);
  return fine ? std::optional<char32_t>(code) : std::nullopt;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<XmlElement> run() {
    std::vector<XmlElement> open{XmlElement{}};  // the first holds the root
    while (!text_.empty()) {
      if (text_.front() != '<') {
        TRY(read_text(open.back().text));
        continue;
      }
      if (skip("<?", "?>") || skip("<!--", "-->")) continue;
      if (text_.starts_with("<!")) return broken("it has a declaration");
      if (text_.starts_with("</")) {
        TRY(close(open));
        continue;
      }
      TRY(begin(open));
    }
    if (open.size() != 1) return broken("it ends inside an element");
    if (open[0].children.size() != 1 || !std::ranges::all_of(open[0].text, is_space))
      return broken("it has no single root");
    return std::move(open[0].children[0]);
  }

 private:
  bool skip(std::string_view from, std::string_view to) {
    if (!text_.starts_with(from)) return false;
    const std::size_t end = text_.find(to, from.size());
    if (end == text_.npos) return false;  // then it is refused as an element
    text_.remove_prefix(end + to.size());
    return true;
  }

  // Up to the '>' of a tag that begins here.
  Result<std::string_view> take_tag(std::size_t mark) {
    const std::size_t end = text_.find('>');
    if (end == text_.npos) return broken("a tag does not end");
    const auto inside = text_.substr(mark, end - mark);
    text_.remove_prefix(end + 1);
    return inside;
  }

  static std::string_view local_name(std::string_view tag) {
    tag = tag.substr(0, std::min(tag.find_first_of(" \t\r\n"), tag.size()));
    return tag.substr(tag.find(':') == tag.npos ? 0 : tag.find(':') + 1);
  }

  Status begin(std::vector<XmlElement>& open) {
    std::string_view tag = TRY(take_tag(1));
    const bool empty = tag.ends_with('/');
    if (empty) tag.remove_suffix(1);
    const auto name = local_name(tag);
    if (name.empty() || name.find('<') != name.npos) return broken("an element has no name");
    if (++elements_ > kMostElements || open.size() > kMostDepth)
      return Error{Code::too_large, "the XML has too many elements, or too many within each other"};
    XmlElement element{.name = std::string(name)};
    if (empty)
      open.back().children.push_back(std::move(element));
    else
      open.push_back(std::move(element));
    return {};
  }

  Status close(std::vector<XmlElement>& open) {
    const std::string_view tag = TRY(take_tag(2));
    if (open.size() < 2 || local_name(tag) != open.back().name) return broken("an element ends that did not begin");
    XmlElement element = std::move(open.back());
    open.pop_back();
    open.back().children.push_back(std::move(element));
    return {};
  }

  Status read_text(std::string& out) {
    const auto run = text_.substr(0, std::min(text_.find('<'), text_.size()));
    text_.remove_prefix(run.size());
    for (std::size_t at = 0; at < run.size();) {
      const std::size_t mark = std::min(run.find('&', at), run.size());
      out.append(run.substr(at, mark - at));
      if (mark == run.size()) break;
      const std::size_t end = run.find(';', mark);
      if (end == run.npos) return broken("an entity does not end");
      const auto code = entity(run.substr(mark + 1, end - mark - 1));
      if (!code) return broken("it has an entity that is not known");
      utf8::append(out, *code);
      at = end + 1;
    }
    return {};
  }

  std::string_view text_;
  std::size_t elements_ = 0;
};

}  // namespace

const XmlElement* XmlElement::child(std::string_view wanted) const {
  const auto found = std::ranges::find(children, wanted, &XmlElement::name);
  return found == children.end() ? nullptr : &*found;
}

std::string XmlElement::text_of(std::string_view wanted) const {
  const XmlElement* found = child(wanted);
  return found == nullptr ? "" : found->text;
}

Result<XmlElement> parse_xml(std::string_view text) { return Parser(text).run(); }

}  // namespace ashlar::store
