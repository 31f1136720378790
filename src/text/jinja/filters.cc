#include "text/jinja/filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "text/jinja/access.h"
#include "text/jinja/operate.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {

const Filter* find_filter(std::string_view name) {
  static const auto table = [] {
    std::unordered_map<std::string_view, const Filter*> made;
    for (const auto filters :
         {text_filters(), layout_filters(), sequence_filters(), order_filters(), number_filters()}) {
      for (const Filter& filter : filters) made.emplace(filter.name, &filter);
    }
    return made;
  }();
  const auto at = table.find(name);
  return at == table.end() ? nullptr : at->second;
}

Result<Path> Path::create(Runtime& runtime, const Value& attribute) {
  Path path;
  if (attribute.is(Kind::missing) || attribute.is_none()) return path;
  if (!attribute.is_string()) {
    path.parts_.push_back(attribute);
    return path;
  }
  std::string_view rest = attribute.text();
  TRY(runtime.budget.walk(rest.size() * 4));
  while (true) {
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    const bool number =
        !part.empty() && part.size() <= 18 && std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; });
    path.parts_.push_back(number ? Value::integer(std::stoll(std::string(part)))
                                 : TRY(runtime.string(std::string(part))));
    if (dot == rest.size()) return path;
    rest.remove_prefix(dot + 1);
  }
}

Result<Value> Path::get(Runtime& runtime, const Value& item, const Value& otherwise) const {
  Value value = item;
  for (const Value& part : parts_) {
    TRY(runtime.budget.spend(1));
    value = TRY(get_item(runtime, value, part));
    if (value.is_undefined() && !otherwise.is(Kind::missing) && !otherwise.is_none()) value = otherwise;
  }
  return value;
}

}  // namespace ashlar::text::jinja
